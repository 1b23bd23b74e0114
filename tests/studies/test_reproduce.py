"""The presets, row by row as promised, and the way from a plan to a report."""

import csv
import os
import random
import subprocess
import sys
import time
from collections import Counter

import pytest

from bitlaw.formats import Scheme
from bitlaw.models.count import n_params
from bitlaw.studies import reproduce, rows, run
from bitlaw.studies.build import build_id, files
from bitlaw.studies.executor import Outcome
from bitlaw.studies.presets import PRESETS, Size, learning_rate, point
from bitlaw.studies.reproduce import program
from laws.synthetic import QUICK, quick_rows


def contents(name: str) -> Counter:
    """How many seeds each (scheme, N, D) of a preset has."""
    return Counter((one.scheme, n_params(one.model), one.d_tokens) for one in PRESETS[name].runs())


def test_quick_is_the_pilot_grid_with_two_seeds_and_one_size_more():
    schemes = ["dense", "w=quest4/channel", "w=quest2/channel", "w=quest4/channel a=quest4/row"]
    expected = {
        (str(Scheme.parse(scheme)), size, budget): 1 if size == 57600 else 2
        for scheme in [*schemes, "s=0.5", "s=0.75"]
        for size in (6144, 13824, 36864, 57600)
        for budget in (2**19, 2**20, 2**21)
        if (size, budget) != (57600, 2**19)  # 9 tokens per parameter
    }
    assert contents("quick") == expected
    assert sum(expected.values()) == 120


def test_cpu_is_the_two_hour_grid():
    quantized = [f"w=quest{bits}/channel" for bits in (1, 2, 3, 4, 8)]
    both = [f"w=quest{bits}/channel a=quest{bits}/row" for bits in (2, 4, 8)]
    expected = {
        (str(Scheme.parse(scheme)), size, budget): seeds
        for scheme in ["dense", *quantized, *both, "s=0.25", "s=0.5", "s=0.75"]
        for size, seeds in ((6144, 3), (13824, 3), (36864, 1), (110592, 1))
        for budget in (2**20, 2**21, 2**22, 2**23)
        if budget / size > 10
    }
    assert contents("cpu") == expected
    assert sum(expected.values()) == 372


def test_cpu_sparse_is_the_grid_of_cpu_with_patterns_and_methods():
    schemes = {scheme for scheme, _, _ in contents("cpu-sparse")}
    levels = {f"s={level}" for level in (0.25, 0.5, 0.75, 0.875)}
    methods = {"s=0.5/ste", "s=0.75/rigl", "s=0.75/global", "w=quest4/channel s=2:4"}
    assert schemes == {"dense", "s=2:4", "s=4:8", "s=1:4"} | levels | methods
    assert len(schemes) == 12
    assert sum(contents("cpu-sparse").values()) == sum(contents("cpu").values())


def test_cpu_formats_is_dense_and_twelve_schemes_from_1_to_8_bits():
    runs = PRESETS["cpu-formats"].runs()
    schemes = list(dict.fromkeys(one.scheme for one in runs))
    assert len(schemes) == 13 and schemes[0] == "dense"
    parsed = [Scheme.parse(scheme) for scheme in schemes[1:]]
    weights = sorted(scheme.w.bits for scheme in parsed if scheme.a is None)
    both = sorted(scheme.w.bits for scheme in parsed if scheme.a and "quest" in str(scheme))
    assert weights == pytest.approx([1, 1.585, 2, 3, 4, 8], abs=1e-3) and both == [2, 3, 4, 8]
    assert schemes[-2:] == ["w=mxfp4 a=mxfp4", "w=nvfp4 a=nvfp4"]
    assert len(runs) == 403


def test_a_users_source_is_part_of_a_runs_identity(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "a_reproduced_module.py"
    source.write_text("def half(x):\n    return x / 2\n")
    model = PRESETS["smoke"].runs()[0].model
    one = point("w=a_reproduced_module:half", model, 2**16, 0)
    before = one.id("data", "build")
    source.write_text("def half(x):\n    return x / 4\n")
    assert one.id("data", "build") != before
    sys.modules.pop("a_reproduced_module")


def test_smoke_has_what_a_fit_needs_and_little_more():
    runs = PRESETS["smoke"].runs()
    assert len({one.scheme for one in runs}) == 3
    assert len({one.model for one in runs}) == len({one.d_tokens for one in runs}) == 2
    assert len(runs) == 12


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_14_tokens_per_parameter_and_pairs_its_seeds(name):
    runs = PRESETS[name].runs()
    assert all(one.d_tokens >= 14 * n_params(one.model) for one in runs)
    dense = {(one.model, one.d_tokens, one.seed) for one in runs if one.scheme == "dense"}
    assert {(one.model, one.d_tokens, one.seed) for one in runs} == dense
    assert len({one.learning_rate for one in runs}) == len({one.model.width for one in runs})


@pytest.mark.parametrize("width, tuned", [(16, 1e-2), (24, 8e-3), (32, 6e-3), (64, 4e-3)])
def test_the_learning_rate_is_within_6_percent_of_the_tuned_ones(width, tuned):
    assert learning_rate(width) == pytest.approx(tuned, rel=0.06)


def test_schemes_replace_the_presets_own_but_dense_stays():
    plan = reproduce.plan_preset("smoke", ["s=0.50", "s=0.5"])
    assert {one.scheme for one in plan.runs} == {"dense", "s=0.5"}
    assert len(plan.runs) == 8


def test_an_unknown_preset_names_the_known_ones():
    known = "smoke, quick, cpu, cpu-sparse, cpu-formats, gpu-smoke, gpu"
    with pytest.raises(ValueError, match=f"preset must be one of {known}, got 'slow'"):
        reproduce.plan_preset("slow")


def test_too_many_epochs_are_refused_and_a_few_are_warned_about(tmp_path):
    text = "one two three four five six seven eight nine\n" * 6000
    for number in range(60):
        (tmp_path / f"{number}.txt").write_text(f"{number} {text}")
    model = Size(16, 2).model
    with pytest.raises(ValueError, match="d_tokens must be at most"):
        reproduce.plan_runs([point("dense", model, 2**30, 0)], [str(tmp_path)])
    (warning,) = reproduce.plan_runs([point("dense", model, 2**27, 0)], [str(tmp_path)]).warnings
    assert "epochs" in warning


def test_grids_share_a_program_and_structures_do_not():
    def program_of(scheme: str, depth: int = 2):
        return program(run.Job((point(scheme, Size(16, depth).model, 2**19, 0),)))

    assert program_of("w=quest4/channel") == program_of("w=quest2/channel")
    assert program_of("s=0.5") == program_of("s=0.75") == program_of("s=0.9/acdc")
    assert len({program_of(s) for s in ("s=0.5", "s=2:4", "s=1:4", "s=2:4/ste")}) == 4
    schemes = ("dense", "w=quest4/channel", "w=quest4/channel a=quest4/row", "s=0.5")
    assert len({program_of(scheme, depth) for scheme in schemes for depth in (1, 2)}) == 8


def test_the_build_is_of_what_computes_a_row(tmp_path, monkeypatch):
    before = build_id()
    assert build_id() == before
    assert {"studies/run.py", "studies/worker.py", "models/lm.py", "train/loop.py"} <= set(files())
    assert any(name.startswith("_core") for name in files())
    packages = {name.partition("/")[0] for name in files() if "/" in name}
    assert packages == {"ops", "formats", "sparsity", "packing", "models", "train", "studies"}
    assert sum(name.startswith("studies/") for name in files()) == 2  # no report, no executor
    changed = tmp_path / "lm.py"
    changed.write_bytes(files()["models/lm.py"].read_bytes() + b"\n")
    altered = files() | {"models/lm.py": changed}
    monkeypatch.setattr("bitlaw.studies.build.files", lambda: altered)
    assert build_id() != before


def finished(one: run.Run, seconds: float = 1.0) -> dict:
    """A row as a run would leave it, its loss from a law."""
    n = n_params(one.model)
    effective = n * (1.0 if one.scheme == "dense" else 0.7)
    return dict.fromkeys(rows.COLUMNS, 0) | {
        "run_id": one.id("sha", "build"),
        "scheme": one.scheme,
        "n_params": n,
        "n_total": 2 * n,
        "n_nonzero": n,
        "d_tokens": one.d_tokens,
        "seed": one.seed,
        "seconds": seconds,
        "loss": 3 * effective**-0.1 + 20 * one.d_tokens**-0.3 + 0.5,
        "status": "ok",
    }


def test_a_study_leaves_a_table_a_fit_and_a_report(tmp_path, monkeypatch, capsys):
    plan = reproduce.Plan(tuple(PRESETS["quick"].runs()), "stdlib", "sha", "build", ())
    results = {row["run_id"]: row for row in map(finished, plan.runs)}
    monkeypatch.setattr(reproduce, "execute", lambda *_: Outcome(results, ()))
    reproduce.reproduce(plan, tmp_path)
    printed = capsys.readouterr().out
    assert "w=quest2/channel" in printed
    for name in ("runs.csv", "fit.json", "report.html"):
        assert (tmp_path / name).stat().st_size
        assert str(tmp_path / name) in printed
    with open(tmp_path / "runs.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0])[: len(rows.COLUMNS)] == rows.COLUMNS
    assert [row["run_id"] for row in table] == sorted(results)


def test_failed_runs_that_prevent_the_fit_are_no_traceback(tmp_path, monkeypatch, capsys):
    plan = reproduce.Plan(tuple(PRESETS["smoke"].runs()), "stdlib", "sha", "build", ())
    monkeypatch.setattr(reproduce, "execute", lambda *_: Outcome({}, ("dense: out of memory",)))
    assert reproduce.reproduce(plan, tmp_path).failures
    assert "no fit, because of the failed runs" in capsys.readouterr().out


def test_runs_that_cannot_be_fitted_are_kept_and_one_line(tmp_path, monkeypatch):
    plan = reproduce.Plan(tuple(PRESETS["smoke"].runs()), "stdlib", "sha", "build", ())
    results = {one.id("sha", "build"): finished(one) | {"loss": "abc"} for one in plan.runs}
    monkeypatch.setattr(reproduce, "execute", lambda *_: Outcome(results, ()))
    with pytest.raises(rows.StudyError, match=r"no fit: .*loss must be a number, got 'abc'"):
        reproduce.reproduce(plan, tmp_path)
    assert (tmp_path / "runs.csv").exists()


def test_a_row_says_what_its_run_says(tmp_path):
    one = PRESETS["smoke"].runs()[0]
    assert reproduce.columns(one) == {
        "scheme": "dense",
        "n_params": 768,
        "n_total": 768 + 24 + 2 * 256 * 8,
        "d_tokens": 2**16,
        "seed": 0,
    }


def test_one_is_singular():
    assert [reproduce.counted(n, "job") for n in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]


def smoke(out, *arguments: str) -> subprocess.Popen:
    """The real thing, as a user starts it."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bitlaw.cli", "reproduce"),
            *("--preset", "smoke", "--out", str(out), *arguments),
        ],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def table_of(out) -> list[dict[str, str]]:
    with open(out / "runs.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


# One size of the smoke preset with the real trainer, but no fit, which would need two sizes.
SMALLEST = """
import sys
from pathlib import Path
from bitlaw.studies import presets, reproduce, rows
preset = presets.PRESETS["smoke"]
small = presets.Preset(preset.sizes[:1], (2**14, 2**15), ("dense", "s=0.5"))
out = Path(sys.argv[1])
with rows.opened(out):
    outcome = reproduce.execute(reproduce.plan_runs(small.runs()[:3]), out)
    rows.write_runs(out, outcome.rows.values())
"""


def smallest(out) -> subprocess.Popen:
    """A trunk with two budgets and a pruned run, in a process that can be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", SMALLEST, str(out)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_study_killed_five_times_ends_in_the_same_table_bit_for_bit(tmp_path):
    began = time.monotonic()
    output, _ = (process := smallest(tmp_path / "undisturbed")).communicate()
    seconds = time.monotonic() - began
    assert process.returncode == 0, output
    expected = table_of(tmp_path / "undisturbed")
    assert len(expected) == 3 and all(float(row["loss"]) > 1 for row in expected)
    moments = random.Random(0)
    for _ in range(5):
        process = smallest(tmp_path / "killed")
        time.sleep(moments.uniform(0.3, 0.8) * seconds)
        process.kill()
        process.communicate()
    output, _ = (process := smallest(tmp_path / "killed")).communicate()
    assert process.returncode == 0, output
    assert table_of(tmp_path / "killed") == expected


@pytest.mark.slow
def test_smoke_on_one_worker_is_the_same_table_bit_for_bit(tmp_path):
    for jobs in ("1", "2"):
        output, _ = (process := smoke(tmp_path / jobs, "--jobs", jobs)).communicate()
        assert process.returncode == 0, output
    assert table_of(tmp_path / "1") == table_of(tmp_path / "2")


def test_coverage_is_tested_on_the_quick_design():
    design = Counter((r["scheme"], r["n_params"], r["d_tokens"]) for r in quick_rows(**QUICK))
    assert design == contents("quick")
