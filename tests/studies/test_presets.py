"""The presets of a GPU: what they ask of one, and the same path, shrunk, on the CPU."""

import json
import os
import subprocess
import sys
import time

import pytest

from bitlaw.formats import Scheme
from bitlaw.models.count import flops_per_token, n_params
from bitlaw.studies import process, reproduce, run
from bitlaw.studies.presets import PRESETS


def test_gpu_is_1m_to_30m_in_bfloat16_with_20_to_167_tokens_per_parameter_and_8_schemes():
    runs = PRESETS["gpu"].runs()
    assert len({one.scheme for one in runs}) == 8
    sizes = sorted({n_params(one.model) for one in runs})
    assert 0.9e6 < sizes[0] < 1.1e6 and 28e6 < sizes[-1] < 31e6
    ratios = [one.d_tokens / n_params(one.model) for one in runs]
    assert min(ratios) > 20 and max(ratios) < 167
    assert {(one.model.compute, one.device) for one in runs} == {("bfloat16", "cuda")}
    # Every compression meets four sizes; the largest is dense alone.
    largest = {one.scheme for one in runs if n_params(one.model) == sizes[-1]}
    assert largest == {"dense"} and len(sizes) == 5


def test_gpu_is_25_minutes_at_a_fifth_of_the_peak():
    jobs = run.group(PRESETS["gpu"].runs())
    flops = sum(flops_per_token(j.runs[0].model) * run.trained_tokens(j.runs) for j in jobs)
    assert flops < 25 * 60 * 0.2 * run.GPU_FLOPS


def test_seeds_are_an_ensemble_where_nothing_is_pruned():
    jobs = run.group(PRESETS["gpu"].runs())
    for job in jobs:
        first = job.runs[0]
        pruned = Scheme.parse(first.scheme).s is not None
        seeds = {one.seed for one in job.runs}
        assert seeds == ({first.seed} if pruned else set(range(first.members)))
        assert len(job.runs) == 1 if pruned else len(job.runs) % len(seeds) == 0
    assert {job.runs[0].members for job in jobs} == {1, 2}


def test_without_a_gpu_the_preset_is_refused_by_what_was_found():
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("there may be a GPU here")
    with pytest.raises(ValueError, match="preset gpu needs a CUDA device, found: cpu"):
        reproduce.plan_preset("gpu")


def test_a_device_that_jax_does_not_find_is_refused(monkeypatch):
    asked = lambda *_, **__: subprocess.CompletedProcess([], 1, "", "no such backend")
    monkeypatch.setattr(process.subprocess, "run", asked)
    with pytest.raises(ValueError, match="preset x needs a CUDA device, found: an error"):
        process.check_device("cuda", "preset x")
    process.check_device("cpu", "preset x")


# The path of the GPU's preset with its device and sizes replaced.
SHRUNK = """
import dataclasses, sys
from pathlib import Path
from bitlaw.studies import presets, reproduce, rows
preset = dataclasses.replace(
    presets.PRESETS["gpu-smoke"],
    device="cpu",
    sizes=(presets.Size(8, 1, seeds=2, dense_seeds=2),),
    budgets=(2**15, 2**16),
    batch=8,
)
out = Path(sys.argv[1])
with rows.opened(out):
    plan = reproduce.plan_runs(preset.runs(("w=quest4/channel a=quest4/row",)))
    assert not reproduce.execute(plan, out, 1).failures
"""


def test_bfloat16_ensembles_survive_kill_9(tmp_path):
    start = lambda: subprocess.Popen(
        [sys.executable, "-c", SHRUNK, str(tmp_path)],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stderr=subprocess.PIPE,
        text=True,
    )
    finished = lambda: {path: path.read_bytes() for path in (tmp_path / "rows").glob("*.json")}
    process = start()
    end = time.monotonic() + 120
    while not (before := finished()) and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert before
    _, output = (process := start()).communicate()
    assert process.returncode == 0, output
    assert "finished earlier and are kept" in output
    after = finished()
    assert before.items() <= after.items()
    table = [json.loads(content) for content in after.values()]
    assert len(table) == 4
    assert {(row["seed"], row["compute"], row["device"]) for row in table} == {
        (seed, "bfloat16", "cpu") for seed in (0, 1)
    }
    assert all(1 < row["loss"] < 5.5 for row in table)  # log(256) = 5.55
    assert len({row["loss"] for row in table}) == 4
