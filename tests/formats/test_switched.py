"""Switched fp8 against the codes of gemma.cpp."""

import jax.numpy as jnp
import numpy as np
import pytest

import bitlaw
from bitlaw.formats.switched import switched_fp8

# (in, out) from the golden table of gemma.cpp, compression/sfp_test.cc (Apache-2.0).
GOLDEN = [
    (0.46875, 0.46875), (0.9375, 0.9375), (0.484375, 0.5), (0.96875, 1.0), (0.28125, 0.28125),
    (0.296875, 0.3125), (0.59375, 0.625), (0.279296875, 0.28125), (0.265625, 0.25), (0.53125, 0.5),
    (0.0068359375, 0.0068359375), (0.00732421875, 0.0078125), (0.007568359375, 0.0078125),
    (1.0, 1.0), (1.0625, 1.0), (2.384185791015625e-7, 2.384185791015625e-7),
    (1.49011611938e-07, 1.49011611938e-07), (1.19209289551e-07, 1.49011611938e-07),
    (5.96046447754e-08, 0.0), (8.94069671631e-08, 0.0), (1.11758708954e-07, 1.49011611938e-07),
    (0.013841, 0.013671875),
]  # fmt: skip


@pytest.mark.parametrize(("value", "wanted"), GOLDEN)
def test_it_equals_the_golden_values_of_gemma_cpp(value, wanted):
    x = jnp.asarray([value, -value], jnp.float32)
    np.testing.assert_array_equal(switched_fp8(x), np.float32([wanted, -wanted]))


def levels():
    """The 128 magnitudes, by the layout of a code: 4 exponent bits above 3, or 5 above 2."""
    small = [2.0 ** (e - 23) * (1 + m / 4) for e in range(16) for m in range(4)]
    large = [2.0 ** (e - 15) * (1 + m / 8) for e in range(8, 16) for m in range(8)]
    return np.float32([0.0, *small[1:], *large])


def test_every_level_is_kept_and_the_nearest_is_taken():
    grid = levels()
    assert len(np.unique(grid)) == 128
    np.testing.assert_array_equal(switched_fp8(jnp.asarray(grid)), grid)
    x = np.exp2(np.random.default_rng(0).uniform(-20, 0.9, 4096)).astype(np.float32)
    nearest = np.abs(x[:, None].astype(np.float64) - grid).min(axis=1)
    np.testing.assert_array_equal(np.abs(np.asarray(switched_fp8(x), np.float64) - x), nearest)


def test_it_clamps_keeps_nan_and_is_a_scheme():
    x = jnp.asarray([5.0, -np.inf, np.nan, 0.0])
    np.testing.assert_array_equal(switched_fp8(x), [1.875, -1.875, np.nan, 0.0])
    assert bitlaw.Scheme.parse("w=bitlaw.formats.switched:switched_fp8").bits_per_weight == 8
