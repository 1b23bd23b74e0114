"""Padding: the last block is quantized as if it stood alone, through every door."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitlaw
from bitlaw.formats import QuantSpec

X = np.random.default_rng(0).normal(size=(21, 40)).astype(np.float32)
KEY = np.array([1, 2], np.uint32)
SPECS = [
    "int4/block32", "mxfp4", "uint3/block16", "nf4/block32", "quest4/block32", "quest4/block8x16",
    "int4/block8x16", "quest2/block32/mse_search", "nvfp4/mse_search", "int3/block32/mse_search",
]  # fmt: skip


def blocks(spec):
    """Slices of the blocks of X, the last ones shorter."""
    rows, cols = (spec.block, spec.tile) if spec.tile else (1, spec.block)
    starts = itertools.product(range(0, X.shape[0], rows), range(0, X.shape[1], cols))
    return [np.s_[i : i + rows, j : j + cols] for i, j in starts]


def alone(x, spec):
    """Every block as an array of its own with one scale."""
    out = np.empty_like(x)
    for at in blocks(spec):
        height, width = x[at].shape
        sizes = {"block": height, "tile": width} if spec.tile else {"block": width}
        out[at] = bitlaw.fake_quantize(x[at], dataclasses.replace(spec, **sizes))
    return out


def through_jit(x, text, **given):
    return jax.jit(lambda x: bitlaw.fake_quantize(x, text, pad=True, **given))(x)


@pytest.mark.parametrize("text", [text for text in SPECS if not text.startswith("nvfp4")])
def test_every_block_equals_the_same_block_alone(text):
    got = bitlaw.fake_quantize(X, text, pad=True)
    np.testing.assert_array_equal(got, alone(X, QuantSpec.parse(text)))
    # A sum in another order ends 2 ulp away.
    exact = QuantSpec.parse(text).rule == "absmax"
    np.testing.assert_allclose(through_jit(X, text), got, rtol=0 if exact else 3e-7)


@pytest.mark.parametrize("text", ["mxfp4", "nvfp4/mse_search", "int4/block8x16"])
def test_whole_blocks_do_not_see_the_padding(text):
    """The tensor scale of NVFP4 is that of the whole array, whose largest element is in a block."""
    x = X.copy()
    x[0, 0] = 9
    whole = np.s_[:16, :32]
    got = bitlaw.fake_quantize(x, text, pad=True)
    np.testing.assert_array_equal(got[whole], bitlaw.fake_quantize(x[whole].copy(), text))


@pytest.mark.parametrize("text", ["quest2/block8x16", "int4/block32/rms(2)/trust"])
def test_the_gradient_is_that_of_every_block_alone(text):
    g = jnp.asarray(np.random.default_rng(1).normal(size=X.shape).astype(np.float32))
    _, pull = jax.vjp(lambda x: bitlaw.fake_quantize(x, text, pad=True), jnp.asarray(X))
    (got,) = jax.jit(pull)(g)
    passed = np.asarray(got) != 0
    np.testing.assert_array_equal(np.asarray(got)[passed], np.asarray(g)[passed])
    spec = QuantSpec.parse(text)
    for at in blocks(spec):
        v = X[at].astype(np.float64)
        edge = (spec.row.largest + 0.5) * np.sqrt((v**2).mean()) / spec.grid[3]
        clear = np.abs(np.abs(v) - edge) > 1e-4
        np.testing.assert_array_equal(passed[at][clear], (np.abs(v) < edge)[clear])
    assert not passed.all()


@pytest.mark.parametrize("text", ["mxfp4/stochastic", "quest4/block32/stochastic", "int4/block32"])
def test_a_mapped_batch_equals_a_loop(text):
    batch = jnp.asarray(np.stack([X, 2 * X[::-1]]))
    quantize = lambda x: bitlaw.fake_quantize(x, text, key=KEY, pad=True)
    each = np.stack([quantize(x) for x in np.asarray(batch)])
    np.testing.assert_allclose(jax.vmap(quantize)(batch), each, rtol=3e-7)  # sums: 2 ulp


def test_a_shorter_last_block_draws_numbers_of_its_own():
    x = np.full((64, 40), 0.3, np.float32)
    x[:, [0, 32]] = 1.5
    y = bitlaw.fake_quantize(x, "quest2/block32/rms(1)/stochastic", key=KEY, pad=True)
    assert (y[:, 1:8] != y[:, 33:40]).any()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (0, 40), (40, 0), (3, 64)])
def test_small_and_empty_arrays_work(shape):
    x = np.ones(shape, np.float32)
    for text in ("int4/row", "int4/block32") if shape else ("int4/row",):
        np.testing.assert_array_equal(bitlaw.fake_quantize(x, text, pad=True), x)


def test_an_rms_in_e4m3_is_refused_by_name():
    with pytest.raises(ValueError, match=r"block must divide axis 1 of x where e4m3 scales are of"):
        bitlaw.fake_quantize(X, "nvfp4/rms(3)", pad=True)
    assert bitlaw.fake_quantize(X[:, :32].copy(), "nvfp4/rms(3)", pad=True).shape == (21, 32)
