"""Statistics of groups, and the scales taken from them.

Arrays are [items, rows, cols] and `block` columns over all rows of an item share a scale, as in
`bitlaw.ops.quantize`.
"""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import magnitude_bits
from bitlaw.ops.examples import (
    HADAMARDS,
    arrays_and_blocks,
    grids_of_kinds,
    statistics_and_units,
)
from bitlaw.ops.grid import FLT_MAX, GRID_NUMBERS, INFINITY_BITS, KINDS, SCALINGS, minifloat
from bitlaw.ops.hadamard import butterflies
from bitlaw.ops.op import Shape, op

STATISTICS = ("absmax", "rms", "range", "mse_search")
CANDIDATES = 8
LANES = 16


def check_array(x, block: int, hadamard: int = 0) -> None:
    """Raises ValueError unless x is an array of items whose columns `block` divides."""
    if x.ndim not in (2, 3):
        raise ValueError(f"x must be [items, rows, cols] or [items, cols], got shape {x.shape}")
    if str(x.dtype) not in ("float32", "bfloat16"):
        raise ValueError(f"x must be float32 or bfloat16, got {x.dtype}")
    if block < 1 or x.shape[-1] % block:
        raise ValueError(f"block must divide the last axis of x, got {block} and {x.shape}")
    if hadamard and (hadamard not in HADAMARDS or block % hadamard):
        raise ValueError(
            f"hadamard must be 0 or a power of two from 16 to 4096 that divides block, "
            f"got {hadamard} and {block}"
        )
    if hadamard and x.ndim == 3 and x.shape[1] != 1:
        raise ValueError(f"hadamard must be of items of one row, got shape {x.shape}")


def check_operand(name: str, array, shape: tuple, dtype: str = "float32") -> None:
    """Raises ValueError unless the array has this shape and type."""
    if tuple(array.shape) != shape or str(array.dtype) != dtype:
        short = {"float32": "f32", "uint32": "u32", "uint8": "u8"}[dtype]
        raise ValueError(
            f"{name} must be {short}{list(shape)}, got {array.dtype}{list(array.shape)}"
        )


def check_choice(name: str, value: str, choices: tuple) -> None:
    """Raises ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def group_shape(x, block: int, there: bool = True) -> Shape:
    """Of one number per group, or of an array that is not there."""
    return Shape((x.shape[0], x.shape[-1] // block if there else 0), np.float32)


def groups_of(x, block: int):
    """f32[items, rows, groups, block]."""
    items, cols, rows = x.shape[0], x.shape[-1], x.shape[1] if x.ndim == 3 else 1
    return x.astype(np.float32).reshape(items, rows, cols // block, block)


def rotate(x, size: int):
    """x, or f32: its runs of `size` columns rotated (see `bitlaw.ops.hadamard`)."""
    return butterflies(x.astype(np.float32), size) if size else x


# ---- statistics --------------------------------------------------------------------------------


def _statistic_out(x, *, block, statistic, pruned, hadamard):
    check_array(x, block, hadamard)
    check_choice("statistic", statistic, STATISTICS[:3])
    return group_shape(x, block), group_shape(x, block, statistic == "range")


def _statistic_examples(rng):
    for i, (x, block) in enumerate(arrays_and_blocks(rng)):
        for statistic in STATISTICS[:3]:
            pruned = block % 2 == 0
            yield (x,), {"block": block, "statistic": statistic, "pruned": pruned, "hadamard": 0}
        sizes = [n for n in HADAMARDS if block % n == 0]
        if sizes and (x.ndim == 2 or x.shape[1] == 1):
            yield (
                (x,),
                {
                    "block": block,
                    "statistic": STATISTICS[i % 3],
                    "pruned": False,
                    "hadamard": sizes[i % len(sizes)],
                },
            )


def _statistic_given(x, *, statistic, **_):
    return None if statistic != "rms" else (0, lambda s: (s, np.zeros((len(s), 0), np.float32)))


@op(out=_statistic_out, examples=_statistic_examples, given=_statistic_given)
def group_statistic(x, *, block: int, statistic: str, pruned: bool, hadamard: int):
    """Largest magnitude, root mean square, or range of each group.

        absmax:  high[i, b] = max |x[i, r, c]|        over rows r and columns c of block b
        rms:     high[i, b] = sqrt(mean x[i, r, c]^2)   (pruned: over the non-zero elements)
        range:   high[i, b] = max(0, max x[i, r, c]),  low[i, b] = max(0, max -x[i, r, c])

    NaN or infinite where an element is.

    Args:
        x: f32 or bf16 [items, rows, cols], or [items, cols] for items of one row
        block: columns per group; must divide cols.
        statistic: "absmax", "rms" or "range".
        pruned: exact zeros are pruned weights and are not counted.
        hadamard: of x rotated in runs of this many columns; 0 for none.

    Returns:
        high: f32[items, cols / block]; low: as high for a range, else f32[items, 0]
    """
    groups = groups_of(rotate(x, hadamard), block)
    xp = groups.__array_namespace__()
    none = xp.zeros((x.shape[0], 0), dtype=np.float32)
    # On integer bits: a float maximum may drop NaN (jnp.max does, depending on the shape).
    bits = magnitude_bits(groups)
    if statistic == "range":
        negative = groups.view(np.int32) < 0
        high, low = (
            xp.where(side, bits, np.int32(0)).max(axis=(1, 3), initial=0).view(np.float32)
            for side in (~negative, negative)
        )
        return high, low
    amax = bits.max(axis=(1, 3), initial=0).view(np.float32)
    if statistic != "rms":
        return amax, none
    # Squares of x / 2^k, 2^k the power of two below amax, neither overflow nor underflow.
    unit = (magnitude_bits(amax) & INFINITY_BITS).view(np.float32)
    # Up to 2^126, so that its reciprocal, which XLA may take, is normal.
    unit = xp.clip(unit, np.float32(2.0**-126), np.float32(2.0**126))
    unit = xp.where(amax < np.inf, unit, np.float32(1))
    ratio = groups / unit[:, None, :, None]
    # Zeros by their bits: XLA flushes subnormals to zero before it compares.
    counted = magnitude_bits(groups) != 0 if pruned else xp.ones_like(groups, dtype=bool)
    count = counted.sum(axis=(1, 3)).astype(np.float32)
    # JAX has no doubles by default; there the order of the sum is XLA's.
    wide = np.float64 if xp is np else np.float32
    total = (ratio * ratio).sum(axis=(1, 3), dtype=wide)
    mean = total / xp.maximum(count, np.float32(1))
    return unit * xp.sqrt(mean).astype(np.float32), none


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


# ---- scales ------------------------------------------------------------------------------------


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
        inner = xp.minimum(scale * outer, np.float32(448))
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
