"""Rows: pure functions of run, corpus and build."""

import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from bitlaw.models.lm import ModelConfig
from bitlaw.studies.run import (
    Job,
    Run,
    average_params,
    cost,
    execute,
    group,
    trained_tokens,
)
from bitlaw.train import data

MODEL = ModelConfig(width=8, depth=1, context=16)
RUN = Run("dense", MODEL, d_tokens=1600, seed=0, batch=4, learning_rate=1e-2, warmup=5)
COLUMNS = {
    *("run_id", "scheme", "n_params", "n_total", "n_nonzero", "d_tokens", "seed", "loss", "status"),
    *("flops", "seconds", "data_sha256", "version", "avg_params", "width", "depth"),
    *(
        "learning_rate",
        "experts",
        "n_dense",
        "n_active",
        "init_tokens",
        "compute",
        "device",
        "epochs",
    ),
}


def write_corpus(folder):
    rng = np.random.default_rng(0)
    for i in range(60):
        words = rng.choice(["one", "three", "eleven", "a", "\n"], size=rng.integers(1, 120))
        (folder / f"{i}.txt").write_text(" ".join(words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(folder):
    return data.load([folder], context=16, validation_bytes=256)


def run(**changes):
    return dataclasses.replace(RUN, **changes)


def rows_of(job, corpus, skip=frozenset(), on_progress=lambda _: None):
    rows = []
    execute(job, corpus, build="b", on_progress=on_progress, on_row=rows.append, skip=skip)
    return rows


def without_time(rows):
    return [row | {"seconds": 0} for row in rows]


def test_rows_have_the_columns_of_the_table_and_survive_json(corpus):
    (row,) = rows_of(Job((RUN,)), corpus)
    assert set(row) == COLUMNS
    assert json.loads(json.dumps(row)) == row
    assert row["run_id"] == RUN.id(corpus.sha256, "b")
    assert (row["status"], row["version"], row["n_nonzero"]) == ("ok", "b", row["n_params"])


def test_rows_do_not_depend_on_what_was_skipped_or_ran_before(corpus):
    job = Job((run(d_tokens=960), RUN, run(d_tokens=3200)))
    rows = rows_of(job, corpus)
    done = {rows[0]["run_id"]}
    assert without_time(rows_of(job, corpus, skip=done)) == without_time(rows[1:])
    assert without_time(rows_of(Job((RUN,)), corpus)) == without_time(rows[1:2])
    assert rows_of(job, corpus, skip={row["run_id"] for row in rows}) == []


OTHER_PROCESS = """
import pickle, sys
from bitlaw.studies.run import execute
from bitlaw.train import data
folder, job = pickle.load(sys.stdin.buffer)
corpus = data.load([folder], context=16, validation_bytes=256)
execute(job, corpus, build="b", on_progress=lambda _: None,
        on_row=lambda row: print(row["run_id"], row["loss"].hex()))
"""


@pytest.mark.parametrize("scheme", ["dense", "w=quest4/channel a=quest4/row s=0.5"])
def test_another_process_gives_the_same_loss_bit_for_bit(scheme, folder, corpus):
    job = Job((run(scheme=scheme),))
    command = [sys.executable, "-c", OTHER_PROCESS]
    sent = pickle.dumps((folder, job))
    done = subprocess.run(command, input=sent, capture_output=True, check=True, timeout=120)
    (row,) = rows_of(job, corpus)
    assert done.stdout.decode().split() == [row["run_id"], row["loss"].hex()]


def test_a_member_of_an_ensemble_does_not_depend_on_which_rows_are_missing(corpus):
    both = [run(seed=s, d_tokens=d, members=2) for s in (0, 1) for d in (960, 1600)]
    (job,) = group(both)
    assert [(one.d_tokens, one.seed) for one in job.runs] == [
        (960, 0), (960, 1), (1600, 0), (1600, 1),
    ]  # fmt: skip
    alone = [run(d_tokens=960), RUN]
    assert trained_tokens(job.runs) == 2 * trained_tokens(alone)
    rows = rows_of(job, corpus)
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    assert len({row["loss"] for row in rows}) == 4
    done = {row["run_id"] for row in rows[:3]}
    assert without_time(rows_of(job, corpus, skip=done)) == without_time(rows[3:])
    with pytest.raises(ValueError, match="seed must be less than members = 2, got 2"):
        run(seed=2, members=2)
    with pytest.raises(ValueError, match="device must be cpu or cuda, got tpu"):
        run(device="tpu")


def test_ids_change_with_everything_that_determines_a_row():
    others = [
        run(scheme="s=0.5"),
        run(model=dataclasses.replace(MODEL, mlp="swiglu")),
        run(d_tokens=3200),
        run(seed=1),
        run(batch=2),
        run(learning_rate=2e-2),
        run(warmup=6),
        run(cooldown=0.2),
        run(device="cuda"),
        run(members=2),
    ]
    assert len(others) == len(dataclasses.fields(Run)) - 2  # init and save have a test of theirs
    ids = {one.id("data", "build") for one in [RUN, *others]}
    ids |= {RUN.id("other data", "build"), RUN.id("data", "other build")}
    assert len(ids) == len(others) + 3
    assert run().id("data", "build") == RUN.id("data", "build")
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in ids)


def test_schemes_are_kept_in_canonical_form():
    assert run(scheme="s=0.50 w=quest4/channel") == run(scheme="w=quest4/channel s=0.5")


def test_runs_that_share_a_trunk_are_one_job():
    short, long, pruned = run(d_tokens=640), run(d_tokens=6400), run(scheme="s=0.5")
    other = run(seed=1)
    jobs = group([long, pruned, RUN, other, short, RUN, run(scheme="s=0.5", d_tokens=640)])
    assert jobs == [
        Job((short, RUN, long)),
        Job((pruned,)),
        Job((other,)),
        Job((run(scheme="s=0.5", d_tokens=640),)),
    ]


def test_progress_counts_the_tokens_of_the_job(corpus):
    seen = []
    job = Job((run(d_tokens=640), RUN))
    rows_of(job, corpus, on_progress=seen.append)
    # Steps: stable 8, cool-down 2; stable on to 19, cool-down 6: 27 of 64 tokens.
    assert seen[-1].tokens_done == seen[-1].tokens_total == trained_tokens(job.runs) == 27 * 64
    assert [one.tokens_done for one in seen] == [8 * 64, 10 * 64, 21 * 64, 27 * 64]
    assert [(one.step, one.steps) for one in seen] == [(8, 10), (10, 10), (19, 25), (25, 25)]
    assert all(one.tokens_per_second > 0 and np.isfinite(one.loss) for one in seen)


def test_a_diverged_run_is_a_row_without_a_loss(corpus):
    (row,) = rows_of(Job((run(learning_rate=1e38),)), corpus)
    assert (row["status"], row["loss"], row["n_nonzero"]) == ("diverged", None, None)
    assert "NaN" not in json.dumps(row)


def test_sparse_rows_count_what_is_left(corpus):
    (row,) = rows_of(Job((run(scheme="s=0.75"),)), corpus)
    assert row["n_nonzero"] == row["n_params"] / 4


def test_average_parameters_are_the_integral_of_the_cubic_ramp():
    assert average_params(RUN) == 12 * 8**2
    long = run(scheme="s=0.5", d_tokens=64 * 10_000)
    # A quarter dense, half on the ramp (the mean of 1 - (1-p)^3 is 3/4), a quarter sparse.
    exact = 0.25 + 0.5 * (1 - 0.75 * 0.5) + 0.25 * 0.5
    # The ramp is a staircase of 50 stairs, half a stair late: at most 0.5 * 0.5 / 50 / 2 too many.
    assert 0 < average_params(long) / (12 * 8**2) - exact < 0.5 * 0.5 / 50


@pytest.mark.parametrize(
    "scheme, share",
    [
        ("s=0.75/static", 0.25),
        ("s=0.75/rigl", 0.25),
        ("s=2:4/ste", 0.5),
        ("s=0.5/oneshot", 0.75),  # from the middle on
        ("s=0.75/global/oneshot", 0.625),
        ("s=0.75/block4x4/oneshot", 0.625),
        ("s=0.5/acdc", 0.25 + 0.5 * 0.75 + 0.25 * 0.5),  # half of the ramp's place is dense
    ],
)
def test_average_parameters_of_methods_by_hand(scheme, share):
    got = average_params(run(scheme=scheme, d_tokens=64 * 1600)) / (12 * 8**2)
    assert got == pytest.approx(share, rel=1e-12)


def test_a_run_from_a_checkpoint_counts_the_whole_training(corpus, tmp_path):
    dense = run(d_tokens=960, save=str(tmp_path / "dense"))
    (first,) = rows_of(Job((dense,)), corpus)
    assert dense.id("d", "b") == run(d_tokens=960).id("d", "b")
    pruned = run(scheme="s=0.5/static", d_tokens=1920, init=dense.save)
    (row,) = rows_of(Job((pruned,)), corpus)
    assert pruned.id("d", "b") != run(scheme="s=0.5/static", d_tokens=1920).id("d", "b")
    assert (first["init_tokens"], row["init_tokens"]) == (0, 960)
    assert row["flops"] == 3 * first["flops"] and row["d_tokens"] == 1920
    assert row["avg_params"] == pytest.approx(768 * (1 / 3 + 2 / 3 * 0.5))
    # Its id follows the weights, wherever they are.
    (tmp_path / "dense").rename(tmp_path / "moved")
    moved = dataclasses.replace(pruned, init=str(tmp_path / "moved"))
    assert moved.id(corpus.sha256, "b") == row["run_id"]
    other = run(d_tokens=960, seed=1, save=dense.save)
    rows_of(Job((other,)), corpus)
    assert pruned.id(corpus.sha256, "b") != row["run_id"]
    dense = dataclasses.replace(dense, save=moved.init)
    # Twice removed: the checkpoint of a run that had one.
    again = run(d_tokens=960, init=str(tmp_path / "more"))
    rows_of(Job((run(d_tokens=960, init=dense.save, save=again.init),)), corpus)
    (last,) = rows_of(Job((again,)), corpus)
    assert last["init_tokens"] == 1920 and last["flops"] == 3 * first["flops"]


def test_cost_grows_with_the_work():
    small, large = ModelConfig(16, 2), ModelConfig(32, 3)
    runs = [run(model=m, d_tokens=d, batch=8) for m in (small, large) for d in (2**19, 2**21)]
    costs = [cost(Job((one,))) for one in runs]
    assert costs[0] < costs[1] < costs[3]
    assert costs[0] < costs[2] < costs[3]
    assert costs[1] < cost(Job((runs[0], runs[1]))) < costs[0] + costs[1]


@pytest.mark.parametrize("d_tokens", [0, 63, 100])
def test_budgets_that_are_no_batches_are_named(d_tokens):
    message = rf"d_tokens must be a multiple of batch \* context = 64, got {d_tokens}"
    with pytest.raises(ValueError, match=message):
        run(d_tokens=d_tokens)
