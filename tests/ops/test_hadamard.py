"""The Walsh-Hadamard transform against the matrix, and what it conserves."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.linalg

from bitlaw.ops import OPS
from ops import doors

BLOCKS = [2**k for k in range(4, 13)]
hadamard = OPS["hadamard"]


def transform(x, block, signs=None, inverse=False):
    signs = np.zeros((x.shape[0], 0), np.uint8) if signs is None else signs
    return hadamard(x, signs, block=block, inverse=inverse)


@pytest.mark.parametrize("block", BLOCKS)
def test_error_is_at_most_twice_that_of_a_product_with_scipys_matrix(block):
    x = np.random.default_rng(block).normal(size=(40, block)).astype(np.float32)
    matrix = scipy.linalg.hadamard(block) / np.sqrt(block)
    want = x.astype(np.float64) @ matrix
    naive = x @ matrix.astype(np.float32)
    assert np.abs(transform(x, block) - want).max() <= 2 * np.abs(naive - want).max()


@pytest.mark.parametrize("block", BLOCKS)
def test_whole_numbers_are_exact_but_for_the_normalisation(block):
    """Sums of whole numbers below 2^24 are exact: every entry of scipy's matrix is checked."""
    x = np.random.default_rng(block).integers(-99, 100, (3, block)).astype(np.float32)
    want = (x @ scipy.linalg.hadamard(block).astype(np.float32)) * np.float32(1 / np.sqrt(block))
    doors.assert_same_bits(transform(x, block), want)
    if block < 256:  # the rows of a block on the diagonal, too
        each = transform(np.eye(block, dtype=np.float32), block)
        np.testing.assert_array_equal(np.sign(each), scipy.linalg.hadamard(block))


def test_signs_turn_before_and_the_inverse_turns_after():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 320)).astype(np.float32)
    bits = rng.integers(0, 256, (3, 40)).astype(np.uint8)
    s = 1 - 2 * np.unpackbits(bits, axis=1, bitorder="little").astype(np.float32)[:, None, :]
    y = transform(x, 64, bits)
    doors.assert_same_bits(y, transform(x * s, 64))
    doors.assert_same_bits(transform(x, 64, bits, inverse=True), s * transform(x, 64))
    # Six strides there and back round to at most 2^-24 of a run's norm each.
    back = transform(y, 64, bits, inverse=True)
    assert np.abs(back - x).max() <= 12 * 2**-24 * 8 * np.abs(x).max()


def test_the_inverse_is_the_gradient():
    rng = np.random.default_rng(1)
    x, g = rng.normal(size=(2, 4, 48)).astype(np.float32)
    bits = rng.integers(0, 256, (4, 6)).astype(np.uint8)
    definition = lambda x: hadamard.definition(x, jnp.asarray(bits), block=16, inverse=False)
    (want,) = jax.vjp(definition, jnp.asarray(x))[1](jnp.asarray(g))
    # The transposed program runs its sums in the other order.
    np.testing.assert_allclose(transform(g, 16, bits, inverse=True), want, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_rounded_once():
    x = np.random.default_rng(2).normal(size=(5, 512)).astype(ml_dtypes.bfloat16)
    want = transform(x.astype(np.float32), 256).astype(ml_dtypes.bfloat16)
    doors.assert_same_bits(transform(x, 256), want)


def test_the_norm_of_a_run_is_kept_and_an_outlier_spread():
    x = np.zeros((1, 4096), np.float32)
    x[0, 77] = 64
    y = transform(x, 4096)
    np.testing.assert_array_equal(np.abs(y), 1)


def test_bad_arguments_are_refused_by_name():
    x = np.ones((2, 96), np.float32)
    with pytest.raises(ValueError, match=r"block must be a power of two in \[16, 4096\], got 48"):
        transform(x, 48)
    with pytest.raises(ValueError, match="block must divide the last axis of x, got 64 and 96"):
        transform(x, 64)
    with pytest.raises(ValueError, match=r"signs must be u8\[2, 12\] or u8\[2, 0\], got uint8\[2"):
        transform(x, 32, np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="x must be float32 or bfloat16, got float64"):
        transform(x.astype(np.float64), 32)
