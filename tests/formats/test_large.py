"""Arrays of more than 2^31 elements: no place in them is mistaken for another."""

import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import bitlaw

ROWS, COLS = 2**17 + 1, 2**14
BYTES = 10 * 2**30  # the array, its codes and what comes back of them
FEW = np.random.default_rng(0).normal(size=(3, COLS)).astype(ml_dtypes.bfloat16)
FEW[2] *= 2  # the last row has what a scale of the whole tensor is taken from


@pytest.fixture(autouse=True)
def room():
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("MemAvailable")]
    free = 1024 * int(line.split()[1])
    if free < BYTES:
        pytest.skip(f"needs {BYTES >> 30} GiB of free memory, got {free >> 30}")


def large():
    """The first of FEW, the second over and over, and the third."""
    x = np.empty((ROWS, COLS), ml_dtypes.bfloat16)
    x[:] = FEW[1]
    x[0], x[-1] = FEW[0], FEW[2]
    assert x.size > 2**31
    return x


def assert_rows_are(y, few):
    bits = lambda a: np.asarray(a).view(np.uint16)
    np.testing.assert_array_equal(bits(y[0]), bits(few[0]))
    np.testing.assert_array_equal(bits(y[-1]), bits(few[2]))
    for first in range(1, ROWS - 1, 4096):
        assert (bits(y[first : min(first + 4096, ROWS - 1)]) == bits(few[1])).all(), first


@pytest.mark.slow
@pytest.mark.parametrize("text", ["int4", "int4/row", "int4/channel", "mxfp4", "int4/block1x8"])
def test_numpy_quantizes_every_row_as_it_does_few(text):
    y = bitlaw.fake_quantize(large(), text, in_place=True)
    assert_rows_are(y, bitlaw.fake_quantize(FEW, text))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["int4", "int4/row", "int4/channel"])
def test_jit_quantizes_every_row_as_it_does_few(text):
    x = jnp.asarray(large())
    run = jax.jit(lambda x: bitlaw.fake_quantize(x, text, in_place=True), donate_argnums=0)
    assert_rows_are(np.asarray(run(x)), bitlaw.fake_quantize(FEW, text))


@pytest.mark.slow
def test_codes_come_back_from_every_row():
    q = bitlaw.quantize(large(), "int3/row")
    assert q.codes.nbytes == ROWS * COLS * 3 // 8
    assert_rows_are(bitlaw.dequantize(q), bitlaw.fake_quantize(FEW, "int3/row"))
