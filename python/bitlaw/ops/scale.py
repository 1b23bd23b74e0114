"""Scales of statistics, as a format stores them."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import magnitude_bits
from bitlaw.ops.examples import grids_of_kinds, statistics_and_units
from bitlaw.ops.grid import FLT_MAX, GRID_NUMBERS, INFINITY_BITS, KINDS, SCALINGS, minifloat
from bitlaw.ops.op import Shape, op
from bitlaw.ops.statistic import check_choice, check_operand

CANDIDATES = 8
LANES = 16


def _ratio_out(statistic, largest):
    if statistic.ndim != 2:
        raise ValueError(f"statistic must be f32[items, groups], got shape {statistic.shape}")
    check_operand("statistic", statistic, tuple(statistic.shape))
    check_operand("largest", largest, tuple(statistic.shape))
    return Shape(statistic.shape, np.float32), Shape(statistic.shape, np.float32)


def _ratio_examples(rng):
    for statistic, _ in statistics_and_units(rng):
        yield (statistic, statistic.copy()), {}
        yield (statistic, np.roll(statistic, 1, axis=0)), {}


@op(out=_ratio_out, examples=_ratio_examples)
def statistic_ratio(statistic, largest):
    """Statistics over a power of two near the largest of them, so that sums of squares are safe.

        unit  = the power of two at or below largest, in [2^-126, 2^126]; 1 where not finite
        ratio = statistic / unit                                                       exact

    For the root mean square of a tensor, whose rows XLA adds up, maybe over devices: XLA flushes
    subnormals, and squares of small numbers are subnormal.

    Args:
        statistic, largest: f32[items, groups]

    Returns:
        ratio, unit: f32[items, groups]
    """
    xp = statistic.__array_namespace__()
    bits = magnitude_bits(largest) & INFINITY_BITS
    power = xp.clip(bits.view(np.float32), np.float32(2.0**-126), np.float32(2.0**126))
    unit = xp.where(bits == INFINITY_BITS, np.float32(1), power)
    return statistic / unit, unit


def _e8m0(field):
    """2^(field - 127) of whole exponent fields; 0 and below are 2^-127."""
    xp = field.__array_namespace__()
    bits = xp.where(field > 0, xp.maximum(field, 0) << 23, np.int32(0x00400000))
    return bits.astype(np.int32).view(np.float32)


def stored_scale(s, span, outer, *, uniform: bool, scaling: str):
    """The scale of a statistic, as it is stored; arrays that broadcast (see `statistic_scale`)."""
    xp = s.__array_namespace__()
    scale = xp.minimum(s / span, FLT_MAX)
    bits = scale.view(np.int32)
    exponent = (xp.asarray(span, dtype=np.float32).view(np.int32) >> 23) - np.int32(127)
    if scaling == "bf16":
        rounded = (bits + np.int32(0x7FFF) + ((bits >> 16) & 1)) & np.int32(-0x10000)
        rounded = xp.minimum(rounded, np.int32(0x7F7F0000))
        rounded = xp.where((rounded == 0) & (bits > 0), np.int32(0x10000), rounded)
        scale = rounded.view(np.float32)
    elif scaling == "pow2":
        up = (bits + np.int32(0x7FFFFF)) & INFINITY_BITS
        scale = xp.minimum(up, np.int32(0x7F000000)).view(np.float32)
    elif scaling == "e8m0_floor":
        scale = _e8m0((s.view(np.int32) >> 23) - exponent)
    elif scaling == "e8m0_rceil":
        up = (bits + np.int32(0x7FFFFF)) >> 23
        field = xp.where(bits <= np.int32(0x00400000), np.int32(0), up)
        most = np.int32(254) - exponent if uniform else np.int32(254)
        scale = xp.where(field > most, np.float32(np.nan), _e8m0(field))
    elif scaling == "e4m3":
        inner = xp.clip(scale * outer, np.float32(-448), np.float32(448))
        scale = minifloat(inner, np.float32(2.0**-6), np.float32(2.0**-3)) / outer
    return xp.where(s <= FLT_MAX, scale, np.float32(np.nan))


def _scale_out(high, low, unit, grid, *, kind, scaling):
    check_choice("kind", kind, KINDS)
    check_choice("scaling", scaling, SCALINGS)
    shape, _ = _ratio_out(high, high)
    none = Shape((high.shape[0], 0), np.float32)
    check_operand("low", low, shape.shape if kind == "affine" else none.shape)
    check_operand("unit", unit, tuple(high.shape))
    check_operand("grid", grid, (high.shape[0], GRID_NUMBERS))
    return shape, shape if kind == "affine" else none


def _scale_examples(rng):
    for i, (statistic, units) in enumerate(statistics_and_units(rng)):
        for j, scaling in enumerate(SCALINGS):
            kind = "float" if scaling == "e4m3" else KINDS[(i + j) % 4]
            low = statistic[:, ::-1].copy() if kind == "affine" else statistic[:, :0]
            unit = (np.ones_like(statistic), units)[j % 2]
            grid = grids_of_kinds(rng, statistic, kind, scaling)
            yield (statistic, low, unit, grid), {"kind": kind, "scaling": scaling}
    below = np.float32([[-3, -1e9, -FLT_MAX, -np.inf, -1e-40, -0.0]])  # as no data has them
    for scaling in SCALINGS:
        grid = grids_of_kinds(rng, below, "float", scaling)
        attributes = {"kind": "float", "scaling": scaling}
        yield (below, below[:, :0], np.ones_like(below), grid), attributes


@op(out=_scale_out, examples=_scale_examples)
def statistic_scale(high, low, unit, grid, *, kind: str, scaling: str):
    """Scales of statistics s = high unit, as they are stored; NaN where s is not finite.

        f32:         min(s / span, FLT_MAX)
        bf16:        that, to the nearest bfloat16, ties to even; never to infinity, nor to zero
        pow2:        2^ceil(log2(s / span)), in [2^-126, 2^127]; 0 of 0
        e8m0_floor:  2^(floor(log2 s) - floor(log2 span)), at least 2^-127 (OCP MX 1.0)
        e8m0_rceil:  2^ceil(log2(s / span)), at least 2^-127 (as CUDA rounds); NaN beyond the
                     largest scale, 2^127, of uniform grids 2^(127 - floor(log2 span))
        e4m3:        e4m3(s / span outer) / outer, at most 448 / outer (NVFP4)

        affine:  s = min((high + low) unit, FLT_MAX)
                 zero = round_half_even(min(low unit / scale, span)), 0 where the scale is

    True divisions, which XLA's own `x / constant` is not: it multiplies by a reciprocal.

    Args:
        high, unit: f32[items, groups]; the statistic is in units of `unit`
        low: as high of affine grids, else f32[items, 0]
        grid: f32[items, 5]: span and outer are used here
        kind, scaling: see `bitlaw.ops.grid`.

    Returns:
        scale: f32[items, groups]; zero: as low
    """
    xp = high.__array_namespace__()
    span, outer = grid[:, 3, None], grid[:, 4, None]
    s, lows = high * unit, low * unit[:, : low.shape[1]]
    if kind == "affine":
        finite = (s <= FLT_MAX) & (lows <= FLT_MAX)
        s = xp.where(finite, xp.minimum(s + lows, FLT_MAX), np.float32(np.nan))
    scale = stored_scale(s, span, outer, uniform=kind == "uniform", scaling=scaling)
    if kind != "affine":
        return scale, xp.zeros_like(lows)
    steps = xp.rint(xp.minimum(lows / scale, span))
    return scale, xp.where(scale > 0, steps, np.float32(0))


def _outer_out(statistic, grid):
    check_operand("grid", grid, (statistic.shape[0], GRID_NUMBERS))
    return _ratio_out(statistic, statistic)[:1]


def _outer_examples(rng):
    for statistic, _ in statistics_and_units(rng):
        yield (statistic, grids_of_kinds(rng, statistic, "float", "e4m3")), {}


@op(out=_outer_out, examples=_outer_examples)
def outer_scale(statistic, grid):
    """NVFP4's scale of a tensor, by which block scales are multiplied before they are rounded.

        outer = min(448 span / statistic, FLT_MAX); 1 of a zero tensor; NaN where not finite

    Args:
        statistic: f32[items, groups], the largest magnitude of the tensor
        grid: f32[items, 5]: span is used here, 6 of e2m1

    Returns:
        f32[items, groups]; goes into grid[:, 4] (NVFP4: arXiv:2509.25149)
    """
    xp = statistic.__array_namespace__()
    scale = xp.minimum(np.float32(448) * grid[:, 3, None] / statistic, FLT_MAX)
    scale = xp.where(statistic > 0, scale, np.float32(1))
    return xp.where(statistic <= FLT_MAX, scale, np.float32(np.nan))


def search_scale(groups, grid, error, *, uniform: bool, scaling: str):
    """f32[items, groups]: the scale of least squared error among those of (16 - k) / 16 of absmax.

        error: scale f32[items, 1, groups, 1] -> x - y, zero where nothing counts

    Errors are in units of absmax and add up in 16 lanes, element j of a group to lane j mod 16.
    """
    xp = groups.__array_namespace__()
    amax = magnitude_bits(groups).max(axis=(1, 3), initial=0).view(np.float32)
    unit = np.float32(1) / amax
    unit = xp.where(unit > FLT_MAX, FLT_MAX, unit)[:, None, :, None]
    span, outer = grid[:, 3, None], grid[:, 4, None]
    best = least = None
    for k in range(CANDIDATES):
        s = amax * np.float32((16 - k) / 16)
        scale = stored_scale(s, span, outer, uniform=uniform, scaling=scaling)
        e = _sum_in_lanes((error(scale[:, None, :, None]) * unit) ** 2)
        if best is None:
            best, least = scale, xp.full_like(e, np.inf)
        best = xp.where(e < least, scale, best)
        least = xp.where(e < least, e, least)
    return best


def _sum_in_lanes(x):
    """f32[items, groups]: sums of f32[items, 1, groups, block] over the block, lane by lane."""
    xp = x.__array_namespace__()
    n = x.shape[-1]
    x = xp.pad(x[:, 0], [(0, 0), (0, 0), (0, -n % LANES)])
    x = x.reshape(*x.shape[:2], x.shape[2] // LANES, LANES)
    if xp is not np:  # the order is XLA's
        return x.sum(axis=(2, 3))
    lanes = np.zeros((*x.shape[:2], LANES), np.float32)
    for i in range(x.shape[2]):
        lanes += x[:, :, i]
    total = np.zeros(x.shape[:2], np.float32)
    for lane in range(LANES):
        total = total + lanes[:, :, lane]
    return total
