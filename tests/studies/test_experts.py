"""The study of experts: the fit against a law that is known, and the way from command to page."""

import csv

import numpy as np
import pytest
from scipy.optimize import brentq

from bitlaw import cli
from bitlaw.models.count import n_dense
from bitlaw.studies import experts, experts_page, routed

LAW = (-0.082, -0.108, 0.009, 1.104)  # S-BASE
N, X = map(np.ravel, np.meshgrid([5e6, 2e7, 1e8, 5e8], [1, 2, 8, 64, 256]))


def loss(n, x):
    a, b, c, d = LAW
    start, most = 1.847, 314.5
    hat = 1 / (1 / (x - 1 + 1 / (1 / start - 1 / most)) + 1 / most)
    return 10 ** (a * np.log10(n) + b * np.log10(hat) + c * np.log10(n) * np.log10(hat) + d)


def test_the_saturated_count_is_start_at_one_and_never_above_most():
    assert routed.saturated(1) == pytest.approx(1.847) and routed.saturated(1e9) < 314.5
    # 1 / (1 / (3 + 1.8579) + 1 / 314.5), where 1.8579 = 1 / (1 / 1.847 - 1 / 314.5)
    assert routed.saturated(4) == pytest.approx(4.7840, rel=1e-4)


def test_the_fit_finds_the_law_that_made_the_losses():
    fit = routed.fit("sbase", N, X, loss(N, X))
    assert (fit.a, fit.b, fit.c, fit.d) == pytest.approx(LAW, rel=1e-8)
    assert fit.rms < 1e-12 and fit.runs == 20
    np.testing.assert_allclose(fit.loss(N, X), loss(N, X), rtol=1e-10)


@pytest.mark.parametrize("n, x", [(1e7, 16), (5e8, 256), (1e7, 1)])
def test_the_effective_count_is_the_dense_size_with_the_same_loss(n, x):
    fit = routed.fit("sbase", N, X, loss(N, X))
    same = brentq(lambda log_n: loss(10**log_n, 1) - loss(n, x), 3, 14, xtol=1e-12)
    assert fit.effective(n, x) == pytest.approx(10**same, rel=1e-6)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, truth = np.random.default_rng(0), routed.fit("r", N, X, loss(N, X)).effective(1e7, 64)
    hits = 0
    for seed in range(200):
        noisy = loss(N, X) * 10 ** rng.normal(0, 0.004, len(N))
        low, high = routed.fit("r", N, X, noisy, seed).interval(1e7, 64)
        hits += low < truth < high
    # 90 % of 200 less the normal-for-t shortfall at 16 degrees of freedom (88 %): 4 deviations.
    assert 155 <= hits <= 196


def test_a_law_that_is_not_identified_is_refused():
    with pytest.raises(ValueError, match="at least 2 sizes and 2 numbers of experts, got 1 and 2"):
        routed.fit("hash", [100, 100], [1, 4], [2.0, 1.9])


def test_every_routed_run_has_its_dense_one():
    runs = experts.PRESETS["quick"].runs()
    dense = {(n_dense(r.model), r.d_tokens, r.seed) for r in runs if not r.model.experts}
    assert {(n_dense(r.model), r.d_tokens, r.seed) for r in runs} == dense and len(dense) == 3
    assert all(r.d_tokens >= 14 * n_dense(r.model) for r in runs)
    assert len(runs) == 3 * (1 + 3 * 5)


def test_smoke_trains_fits_and_writes_a_page(tmp_path, capsys):
    command = ["study", "experts", "--preset", "smoke", "--out", str(tmp_path), "--jobs", "2"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert sorted((int(r["n_dense"]), experts_page.experts_of(r)) for r in rows) == [
        (768, 1), (768, 4), (1728, 1), (1728, 4)
    ]  # fmt: skip
    assert all(r["n_dense"] == r["n_active"] for r in rows)
    assert "N effective" in out and "top1/capacity1.25" in out
    assert "What experts are worth" in (tmp_path / "report.html").read_text()


def row_of(experts, n, loss, **fields):
    row = {"experts": experts, "n_dense": n, "loss": loss, "seed": 0, "status": "ok"}
    return row | fields


def test_a_lowest_loss_inside_the_range_is_said():
    rows = [row_of("", 10, 1.7), row_of("2/top1", 10, 1.9), row_of("4/top1", 10, 1.95)]
    rows += [row_of("2/top1", 20, 1.8), row_of("4/top1", 20, 1.7), row_of("4/hash", 10, 1.5)]
    assert experts_page.lowest(rows) == {"hash": {10: [4]}, "top1": {10: [2, 4], 20: [4, 2]}}
    (line,) = (line for line in experts_page.notes(rows) if "lowest loss" in line)
    assert "hash: 4 at N = 10; top1: 2 at N = 10, 4 at N = 20." in line
    assert "(dense is no candidate)" in line
    assert not any("candidates differ" in line for line in experts_page.notes(rows))
    assert not any("lowest loss" in line for line in experts_page.notes(rows[-2:]))


def test_the_lowest_loss_of_an_n_is_among_its_own_candidates():
    """A run that diverged leaves fewer: the most of another N is no candidate."""
    rows = [row_of("2/top1", 10, 1.9), row_of("4/top1", 10, 1.8), row_of("2/top1", 20, 1.7)]
    rows += [row_of("4/top1", 20, 9.0, status="diverged")]
    assert not any("lowest loss" in line for line in experts_page.notes(rows))
    lines = experts_page.notes([*rows, row_of("8/top1", 10, 1.85)])
    assert "The candidates differ from N to N: top1: 2 or 4 or 8 at N = 10, 2 at N = 20." in lines
