"""What the kernels may round by another road: every bfloat16 at every kind of scale."""

import ml_dtypes
import numpy as np
import pytest

from bitlaw.formats import FORMATS, QuantSpec
from ops import doors

EVERY_BFLOAT16 = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16).reshape(16, 4096)
FULL_NAN = np.uint32(0x7FFFFFFF).view(np.float32)  # to round its bits would carry into the sign
# The smallest levels are subnormal from 2^-110 to 2^-126 on.
TINY = [2.0**-109, 2.0**-112, 2.0**-117, 2.0**-125, 2.0**-126, 3e-39, 2.0**-149, 0.0]
SCALES = np.array([1.0, 0.3, -0.7, 1e38, np.inf, FULL_NAN, *TINY], np.float32)


def assert_kernel_equals_definition(fmt, block, scale, zero=0.0, estimator="identity"):
    kind, groups = FORMATS[fmt].kind, (16, 4096 // block)
    arrays = (
        EVERY_BFLOAT16,
        np.broadcast_to(np.asarray(scale, np.float32), groups),
        np.full(groups if kind == "affine" else (16, 0), zero, np.float32),
        np.repeat(QuantSpec.parse(fmt).grid[None], 16, axis=0),
        np.zeros((16, 0), np.uint32),
    )
    attributes = {"block": block, "kind": kind, "scaling": "f32", "rounding": "nearest"}
    attributes |= {"estimator": estimator, "hadamard": 0, "pruned": False}
    got = doors.through_numpy("fake_quantize_scaled", arrays, attributes)
    want = doors.definition("fake_quantize_scaled", arrays, attributes)
    for g, w in zip(got, want, strict=True):
        doors.assert_same_bits(g, w, f"{fmt} block {block} scale {scale} zero {zero}")


@pytest.mark.parametrize("fmt", ["int4", "uint4", "quest4", "binary", "e5m2", "e2m1", "nf4"])
def test_bfloat16_equals_its_definition_on_every_value(fmt):
    for scale in SCALES:
        assert_kernel_equals_definition(fmt, 4096, scale)
    for block in (16, 32, 64):  # scales of all kinds side by side, and with none that is tiny
        for scales in (SCALES, SCALES[:6]):
            mixed = np.resize(scales, (16, 4096 // block))
            assert_kernel_equals_definition(fmt, block, mixed, estimator="clip_value")


@pytest.mark.parametrize("zero", [3.0, 0.3, 1e-30, np.inf, np.nan])
def test_bfloat16_equals_its_definition_for_any_zero_point(zero):
    for scale in (1.0, 2.0**-30, 2.0**-110):
        assert_kernel_equals_definition("uint4", 4096, scale, zero)


@pytest.mark.parametrize("rounding", ["stochastic", "toward_zero", "away"])
@pytest.mark.parametrize(
    "kind, bounds, zero", [("affine", (0, 15), -1000), ("uniform", (-1023, 1023), 0)]
)
def test_levels_far_from_zero_are_rounded_like_those_near_it(kind, bounds, zero, rounding):
    x = np.array([[100, 600, 700, 1005.3, 1010.7, -600, np.inf, 1e30]], np.float32)
    grid = np.array([[*bounds, 0, 15, 1]], np.float32)
    zeros = np.full((1, 1 if kind == "affine" else 0), zero, np.float32)
    noise = np.ones((1, 3 if rounding == "stochastic" else 0), np.uint32)
    arrays = (x, np.ones((1, 1), np.float32), zeros, grid, noise)
    attributes = {"block": 8, "kind": kind, "scaling": "f32", "rounding": rounding}
    attributes |= {"estimator": "clip_rounded", "hadamard": 0, "pruned": False}
    got = doors.through_numpy("fake_quantize_scaled", arrays, attributes)
    want = doors.definition("fake_quantize_scaled", arrays, attributes)
    for g, w in zip(got, want, strict=True):
        doors.assert_same_bits(g, w, f"{kind} {rounding}")
    assert len(np.unique(np.asarray(got[0]))) > 2


@pytest.mark.parametrize("bounds", [(-0.0, 15.0), (-15.0, -0.0)])
def test_a_bound_of_minus_zero_is_the_level_zero(bounds):
    x = np.linspace(-9, 9, 64, dtype=np.float32).reshape(1, 64)
    grid = np.array([[*bounds, 0, 15, 1]], np.float32)
    arrays = (x, np.ones((1, 1), np.float32), np.zeros((1, 0), np.float32), grid)
    arrays += (np.zeros((1, 0), np.uint32),)
    attributes = {"block": 64, "kind": "uniform", "scaling": "f32", "rounding": "nearest"}
    attributes |= {"estimator": "identity", "hadamard": 0, "pruned": False}
    got = doors.through_numpy("fake_quantize_scaled", arrays, attributes)
    want = doors.definition("fake_quantize_scaled", arrays, attributes)
    doors.assert_same_bits(got[0], want[0], f"bounds {bounds}")
