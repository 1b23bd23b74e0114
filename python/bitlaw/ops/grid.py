"""The map of an element to its grid: array-API code shared by the definitions.

The operand `grid` is f32[items, 5]: three numbers of the map, then `span`, how many steps a group's
statistic covers, and `outer`, the tensor scale of NVFP4 (1 for all others).

| kind | numbers | levels, in units of the scale |
|---|---|---|
| uniform | qmin, qmax, offset | code + offset for whole codes qmin..qmax |
| affine | qmin, qmax, 0 | code for whole codes qmin - zero .. qmax - zero, zero of the group |
| float | largest, smallest normal, epsilon | a minifloat: sign, exponent, mantissa; subnormals |
| nf4 | 1, 0, 0 | 16 quantiles of a normal (QLoRA, arXiv:2305.14314) |
"""

from __future__ import annotations

import itertools

import numpy as np

from bitlaw.ops.bits import magnitude_bits

INFINITY_BITS = np.int32(0x7F800000)
FLT_MAX = np.finfo(np.float32).max
KINDS = ("uniform", "affine", "float", "nf4")
SCALINGS = ("f32", "bf16", "pow2", "e8m0_floor", "e8m0_rceil", "e4m3")
ROUNDINGS = ("nearest", "stochastic", "toward_zero", "away")
ESTIMATORS = ("identity", "clip_value", "clip_rounded", "trust")
GRID_NUMBERS = 5

NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip


def _above(t, u, rounding: str):
    """t to a whole number: floor(t), or one more where the rest is above u."""
    xp = t.__array_namespace__()
    floor = xp.floor(t)
    n = floor + (t - floor > u).astype(np.float32)
    return xp.maximum(n, np.float32(0 if rounding == "toward_zero" else -1))


def _signed(mag, x):
    """mag with the sign of x."""
    xp = mag.__array_namespace__()
    return xp.where(xp.signbit(x), -mag, mag)


def _power(mag, least):
    """The power of two at or below each magnitude, at least `least`."""
    xp = mag.__array_namespace__()
    return xp.maximum((magnitude_bits(mag) & INFINITY_BITS).view(np.float32), least)


def minifloat(mag, smallest_normal, epsilon, u=None, rounding: str = "nearest"):
    """Magnitudes on the levels of a minifloat without a largest one.

    quantum = max(2^floor(log2 mag), smallest_normal) * epsilon
    """
    xp = mag.__array_namespace__()
    quantum = _power(mag, smallest_normal) * epsilon
    t = mag / quantum
    return (xp.rint(t) if rounding == "nearest" else _above(t, u, rounding)) * quantum


def map_uniform(ratio, qmin, qmax, offset, u, rounding: str):
    """(v, rounded, code, level) of x / scale on a uniform grid."""
    xp = ratio.__array_namespace__()
    v = xp.clip(ratio - offset, qmin - np.float32(1), qmax + np.float32(1))
    if rounding == "nearest":
        rounded = xp.rint(v)
    else:  # on magnitudes
        t = xp.minimum(xp.abs(ratio), FLT_MAX) - offset  # finite: inf - inf is NaN
        rounded = _signed(_above(t, u, rounding) + offset, ratio) - offset
    code = xp.clip(rounded, qmin, qmax)
    return v, rounded, code, code + offset


def map_float(ratio, grid, u, rounding: str):
    """(v, rounded, code, level) of x / scale on a minifloat; all but the level are magnitudes."""
    xp = ratio.__array_namespace__()
    largest, smallest_normal, epsilon = grid[:3]
    mag = xp.minimum(xp.abs(ratio), largest * np.float32(2))
    rounded = minifloat(mag, smallest_normal, epsilon, u, rounding)
    code = xp.minimum(rounded, largest)
    return mag, rounded, code, _signed(code, ratio)


def map_nf4(ratio, u, rounding: str):
    """(v, rounded, code, level) of x / scale among the levels of NF4; midpoints go down."""
    xp = ratio.__array_namespace__()
    v = xp.clip(ratio, np.float32(-2), np.float32(2))
    if rounding == "nearest":
        level = xp.full_like(v, NF4[0])
        for low, high in itertools.pairwise(NF4):
            level = xp.where(v > np.float32(0.5) * (low + high), high, level)
    else:  # on magnitudes, between the neighbours
        mag, negative = xp.abs(v), v < 0
        up = np.append(NF4[7:], NF4[15:])  # 0 and the levels above it, the last twice
        down = np.append(-NF4[7::-1], [1, 1]).astype(np.float32)
        near, far = xp.zeros_like(mag), xp.where(negative, down[1], up[1])
        for k in range(1, 9):
            above = mag >= xp.where(negative, down[k], up[k])
            near, far = (
                xp.where(above, xp.where(negative, d, p), old)
                for d, p, old in ((down[k], up[k], near), (down[k + 1], up[k + 1], far))
            )
        taken = xp.where(mag - near > u * (far - near), far, near)
        level = _signed(taken, v) + np.float32(0)
    code = xp.clip(v, np.float32(-1), np.float32(1))
    return v, v, code, level + (v - v)


def map_elements(x, scale, zero, grid, u, *, kind: str, scaling: str, rounding: str):
    """(v, rounded, code, level) of x; all arguments broadcast, `grid` is five arrays."""
    xp = x.__array_namespace__()
    if scaling == "e4m3":  # a zero scale makes zeros, not NaN
        ratio = x / xp.where(scale == 0, np.float32(np.inf), scale)
    else:
        inv = np.float32(1) / scale
        ratio = x * xp.where(inv > FLT_MAX, FLT_MAX, inv)
    if kind == "float":
        return map_float(ratio, grid, u, rounding)
    if kind == "nf4":
        return map_nf4(ratio, u, rounding)
    qmin, qmax, offset = grid[:3]
    if kind == "affine":
        qmin, qmax = qmin - zero, qmax - zero
    return map_uniform(ratio, qmin, qmax, offset, u, rounding)


def passes(mapped, zero, grid, *, kind: str, estimator: str):
    """Where the estimator lets the gradient pass (see `fake_quantize_scaled`)."""
    v, rounded, code, _ = mapped
    xp = v.__array_namespace__()
    uniform = kind in ("uniform", "affine")
    if estimator == "trust":
        largest_step = {
            "float": _power(grid[0], np.float32(0)) * grid[2],
            "nf4": NF4[1] - NF4[0],
        }.get(kind, np.float32(1))
        return xp.abs(v - code) <= largest_step / np.float32(2)
    low, high = (grid[0], grid[1]) if uniform else (-grid[0], grid[0])
    if kind == "affine":
        low, high = low - zero, high - zero
    seen = rounded if estimator == "clip_rounded" else v
    return (seen >= low) & (seen <= high)
