"""The bench of the CUDA kernels, with the CPU in the GPU's place."""

import itertools

import jax
import numpy as np
import pytest
from bench import cuda, throughput
from bench.cases import Case, cases

from bitlaw.models.lm import ModelConfig

CPU = jax.devices("cpu")[0]


def small(op, *arrays, rivals=None, **attributes):
    return Case(op, "small", lambda: arrays, attributes, rivals or {}, {})


def matrix(n=64):
    return np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)


def test_a_case_is_checked_timed_in_rotation_and_compared():
    mask = np.random.default_rng(1).integers(0, 256, (64, 8)).astype(np.uint8)
    rivals = {"jitted": jax.jit(lambda x, mask: x * 2), "numpy": lambda x, mask: x}
    case = small("prune", matrix(), mask, rivals=rivals)
    cuda.check(case, CPU)
    row = cuda.measure(case, CPU, copy=1e9, launches=2, rotated=3 * 64 * 64 * 4)
    assert row["copies"] == 3
    assert list(row["ms"]) == ["in place", "fresh", "definition", "definition in place", "jitted"]
    assert set(row["times_faster_than"]) == {"definition", "definition in place", "jitted"}
    assert row["share_of_copy"] == 0 and "copy" in row["missed"]
    assert row["case"] in cuda.line(row) and "GOAL MISSED (copy" in cuda.line(row)


def test_bytes_are_those_of_all_inputs_and_outputs():
    packed = small("pack_bits", np.zeros((4, 64), np.uint8), bits=4)
    assert cuda.moved(packed) == 4 * 64 + 4 * 32
    pruned = small("prune", matrix(), np.zeros((64, 8), np.uint8))
    assert cuda.moved(pruned) == 2 * 64 * 64 * 4 + 64 * 8


def test_other_bits_than_the_cpus_are_refused(monkeypatch):
    put, other = jax.device_put, jax.devices("cpu")[1]
    moved = lambda arrays: (np.nextafter(arrays[0], np.float32(9)), *arrays[1:])
    spoilt = lambda arrays, where: put(moved(arrays) if where is other else arrays, where)
    case = small("prune", matrix(), np.full((64, 8), 255, np.uint8))
    cuda.check(case, other)
    monkeypatch.setattr(jax, "device_put", spoilt)
    with pytest.raises(AssertionError, match="prune small"):
        cuda.check(case, other)


def test_goals_that_a_row_misses_are_named():
    row = {"case": "top_k_mask 10 % of 100M float32", "share_of_copy": 0.1}
    assert cuda.missed(row | {"times_faster_than": {"jnp.sort": 10, "lax.top_k": 5}}) == {}
    faster = {"jnp.sort": 9.9, "lax.top_k": 5, "definition": 0.9}
    assert set(cuda.missed(row | {"times_faster_than": faster})) == {"jnp.sort", "definition"}
    one_pass = ("fake_quantize int4/row 64x64 float32", "fake_quantize int4/block32 64x64 float32")
    for case in (*one_pass, "fake_quantize int4/tensor 64x64 float32"):
        row = {"case": case, "share_of_copy": 0.84, "times_faster_than": {}}
        assert set(cuda.missed(row)) == ({"copy"} if case in one_pass else set())


def test_the_goals_are_of_cases_that_exist():
    names = [case.name for case in itertools.islice(cases(64, "cuda"), 2)]
    assert set(cuda.GOALS) == set(names)
    assert next(cases(64)).name not in names


def test_rotation_is_bounded():
    assert cuda.copies_of(small("prune", np.zeros(4, np.uint8))) == cuda.MOST_COPIES
    assert cuda.copies_of(small("prune", np.broadcast_to(np.uint8(0), (1 << 30,)))) == 2
    assert cuda.copies_of(small("prune", np.broadcast_to(np.uint8(0), (64 << 20,)))) == 4


def test_without_a_gpu_the_command_says_what_was_found(monkeypatch, capsys):
    from bench import ops

    if cuda.jax.default_backend() == "gpu":
        pytest.skip("there is a GPU here")
    monkeypatch.setattr("sys.argv", ["ops", "--device", "cuda"])
    with pytest.raises(SystemExit):
        ops.main()
    assert "--device cuda needs one, found: cpu" in capsys.readouterr().err


def test_throughput_counts_the_tokens_of_every_member():
    model = ModelConfig(8, 1, context=16, compute="bfloat16")
    row = throughput.measure(model, "dense", members=2, batch=1, chunks=1)
    tokens = row["tokens_per_second"] * row["ms_per_step"] / 1e3
    assert tokens == pytest.approx(2 * 16, rel=0.01)
    assert row["n_params"] == 768 and row["case"].endswith("bfloat16 dense members=2")
