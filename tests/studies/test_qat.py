"""The study of quantization-aware training: equal tokens, paired seeds, a page."""

import csv

import numpy as np
import pytest

from bitlaw.studies import qat, qat_report
from bitlaw.studies.qat import METHODS, PRESETS, SCHEMES


def test_every_scheme_has_every_method_and_seed_and_all_runs_the_same_tokens():
    runs = [one for job in PRESETS["quick"].jobs() for one in job.runs]
    pairs = {(one.scheme, one.method, one.seed) for one in runs}
    wanted = {(s, m, seed) for s in SCHEMES for m in METHODS for seed in range(4)}
    before = {(s, qat.BEFORE, seed) for s in ("dense", *SCHEMES) for seed in range(4)}
    assert pairs == wanted | before | {("dense", "dense", seed) for seed in range(4)}
    assert len(runs) == len(pairs) == 56
    assert len({one.d_tokens for one in runs}) == 1
    assert {one.finetune_steps for one in runs} == {41}  # of 2048


def row(scheme, method, seed, loss):
    return {
        "scheme": scheme, "method": method, "seed": seed, "loss": loss, "n_params": 1000,
        "d_tokens": 2**20, "bits_per_weight": 4.5 if scheme != "dense" else None,
    }  # fmt: skip


ROWS = [
    *(row("dense", "dense", seed, 2.0 + seed) for seed in (0, 1)),
    *(row("dense", "checkpoint", seed, 2.1 + seed) for seed in (0, 1)),
    *(row("w=int4/channel", "checkpoint", seed, 2.6 + seed) for seed in (0, 1)),
    *(row("w=int4/channel", "rounded", seed, 1.1 * (2.0 + seed)) for seed in (0, 1)),
    *(row("w=int4/channel", "fine-tuned", seed, 1.02 * (2.0 + seed)) for seed in (0, 1)),
    *(row("w=int4/channel", "scratch", seed, [2.06, None][seed]) for seed in (0, 1)),
]


def test_losses_are_paired_by_seed_with_the_dense_ones():
    (line,) = qat_report.table(ROWS)
    assert line == (
        "w=int4/channel", "4.50", "+10.00% ± 0.00%", "+2.00% ± 0.00%", "+3.00%", "110%"
    )  # fmt: skip


def test_what_cannot_be_recovered_is_not_claimed():
    same = {0: 2.1, 1: 3.2}  # rounding costs one seed nothing and the other 0.1
    better = [r | {"loss": same[r["seed"]]} if r["method"] == "checkpoint" else r for r in ROWS]
    assert qat_report.table(better)[0][-1] == "-"


def test_what_was_found_is_said_seed_by_seed_and_only_if_it_is_told():
    (sentence,) = qat_report.findings(ROWS)
    assert sentence == (
        "w=int4/channel: fine-tuning ended lower than rounding (-7.27% ± 0.00%) and not told apart "
        "from training from scratch (-0.97%)."
    )


def test_smoke_writes_rows_and_a_page(tmp_path, corpus_folder):
    table = qat.study("smoke", tmp_path, 2, data=(str(corpus_folder),))
    with open(tmp_path / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    assert {r["method"] for r in rows} == {"dense", qat.BEFORE, *METHODS}
    assert all(np.isfinite(float(r["loss"])) for r in rows)
    dense, rounded = (
        next(float(r["loss"]) for r in rows if r["method"] == m and r["scheme"] in ("dense", s))
        for m, s in (("dense", ""), ("rounded", "w=int4/channel"))
    )
    assert dense != rounded
    page = (tmp_path / "report.html").read_text()
    assert "switched fp8" in page and "switched fp8" in table and "<img" in page


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    """Text enough for the smoke size: 2^16 tokens and the usual validation part."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("texts")
    words = np.array(["one", "three", "eleven", "a", "\n", "twenty"])
    for i in range(120):
        (folder / f"{i}.txt").write_text(" ".join(rng.choice(words, size=4000)))
    return folder
