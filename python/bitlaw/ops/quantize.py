"""Fake quantization: to a grid of a few levels and back in float, one scale per group.

Arrays are [items, rows, cols] and `block` columns over all rows of an item share a scale. That one
layout is every granularity: a scale per row is items of one row and block = cols; blocks along a
row, block = 32; a scale per column, block = 1; a tile, rows and block both above 1. Items of one
row may come as [items, cols]: a reshape before an op costs it the chance to work in place.

A grid is four numbers per item: levels (code + offset) * scale for whole codes qmin..qmax, and
span, how many steps the statistic covers: scale = statistic / span. `bitlaw.formats` makes grids
from format names; being operands, one compiled program serves all of them.
"""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import bytes_of_bits, magnitude_bits, pack_flags
from bitlaw.ops.op import Shape, op

INFINITY_BITS = np.int32(0x7F800000)
FLT_MAX = np.finfo(np.float32).max
STATISTICS = ("absmax", "rms")
ESTIMATORS = ("identity", "clip_rounded", "trust")


def _check(x, block: int) -> None:
    if x.ndim not in (2, 3):
        raise ValueError(f"x must be [items, rows, cols] or [items, cols], got shape {x.shape}")
    if str(x.dtype) not in ("float32", "bfloat16"):
        raise ValueError(f"x must be float32 or bfloat16, got {x.dtype}")
    if block < 1 or x.shape[-1] % block:
        raise ValueError(f"block must divide the last axis of x, got {block} and {x.shape}")


def _check_operand(name: str, array, shape: tuple) -> None:
    if tuple(array.shape) != shape or str(array.dtype) != "float32":
        raise ValueError(f"{name} must be f32{list(shape)}, got {array.dtype}{list(array.shape)}")


def _check_choice(name: str, value: str, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _mask_shape(x, estimator: str) -> Shape:
    """One bit per element, rows starting on a byte; nothing for the identity."""
    _check_choice("estimator", estimator, ESTIMATORS)
    cols = 0 if estimator == "identity" else bytes_of_bits(x.shape[-1])
    return Shape((*x.shape[:-1], cols), np.uint8)


def _statistic_out(x, *, block, statistic, pruned):
    _check(x, block)
    _check_choice("statistic", statistic, STATISTICS)
    return (Shape((x.shape[0], x.shape[-1] // block), np.float32),)


def _fake_quantize_out(x, grid, *, block, statistic, estimator, pruned):
    (scale,) = _statistic_out(x, block=block, statistic=statistic, pruned=pruned)
    _check_operand("grid", grid, (x.shape[0], 4))
    return Shape(x.shape, x.dtype), scale, _mask_shape(x, estimator)


def _ratio_out(statistic, largest):
    if statistic.ndim != 2 or str(statistic.dtype) != "float32":
        raise ValueError(
            f"statistic must be f32[items, groups], got {statistic.dtype}{list(statistic.shape)}"
        )
    _check_operand("largest", largest, tuple(statistic.shape))
    return Shape(statistic.shape, np.float32), Shape(statistic.shape, np.float32)


def _scale_out(statistic, unit, grid):
    shape, _ = _ratio_out(statistic, statistic)
    _check_operand("unit", unit, tuple(statistic.shape))
    _check_operand("grid", grid, (statistic.shape[0], 4))
    return (shape,)


def _scaled_out(x, scale, grid, *, block, estimator, pruned):
    _check(x, block)
    _check_operand("scale", scale, (x.shape[0], x.shape[-1] // block))
    _check_operand("grid", grid, (x.shape[0], 4))
    return Shape(x.shape, x.dtype), _mask_shape(x, estimator)


# ---- examples ----------------------------------------------------------------------------------

INT4 = (-7.0, 7.0, 0.0, 7.0)
QUEST2 = (-2.0, 1.0, 0.5, 1.5 / 1.49353462)
TERNARY = (-1.0, 1.0, 0.0, 1.0)


def grids(x: np.ndarray, *choices: tuple) -> np.ndarray:
    """f32[items, 4]: the grids given, in turn."""
    rows = [choices[i % len(choices)] for i in range(x.shape[0])]
    return np.asarray(rows, np.float32).reshape(x.shape[0], 4)


def hard_values(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Normals with ties, both zeros, subnormals and huge values strewn in."""
    x = rng.normal(size=shape).astype(np.float32)
    strewn = [0.0, -0.0, 0.5, -1.5, 2.5, 1e-45, -1e-40, 1e-30, 1e30, 3.5]
    return np.where(rng.random(shape) < 0.05, rng.choice(np.float32(strewn), shape), x)


def _arrays(rng):
    """(array, block) pairs of every layout; the last ones are large enough to reach threads."""
    import ml_dtypes

    for shape, block in [
        ((0, 1, 32), 32), ((2, 0, 8), 4), ((3, 1, 1), 1), ((1, 1, 7), 7), ((5, 1, 96), 32),
        ((4, 1, 48), 6), ((2, 33, 20), 1), ((2, 5, 12), 4), ((3, 4, 9), 9), ((64, 1, 1024), 1024),
        ((24, 1, 4096), 32), ((1, 300, 200), 1), ((2, 300, 300), 300), ((1, 1, 70001), 70001),
        ((2, 256, 257), 257),
    ]:  # fmt: skip
        x = hard_values(rng, shape)
        yield x, block
        yield x.astype(ml_dtypes.bfloat16), block
    x = hard_values(rng, (48, 1000))
    yield x, 8
    yield x.astype(ml_dtypes.bfloat16), 1000
    poison = rng.normal(size=(40, 1, 2048)).astype(np.float32)
    poison[3, 0, 2047], poison[17, 0, 5], poison[30, 0, 0] = np.nan, np.inf, -np.inf
    yield poison, 2048
    yield poison, 64
    tiny = (2.0 ** -np.arange(120, 150)).astype(np.float32)[:, None, None]
    yield tiny * np.linspace(-1, 1, 16, dtype=np.float32), 16
    yield np.zeros((4, 1, 64), np.float32), 32
    yield np.full((2, 1, 64), FLT_MAX, np.float32), 64


def _statistic_examples(rng):
    for x, block in _arrays(rng):
        for statistic in STATISTICS:
            yield (x,), {"block": block, "statistic": statistic, "pruned": block % 2 == 0}


def _fake_quantize_examples(rng):
    for i, (x, block) in enumerate(_arrays(rng)):
        for j, estimator in enumerate(ESTIMATORS):
            yield (
                (x, grids(x, INT4, QUEST2, TERNARY)),
                {
                    "block": block,
                    "statistic": STATISTICS[(i + j) % 2],
                    "estimator": estimator,
                    "pruned": (i // 2) % 3 == 0,
                },
            )


def _statistics(rng):
    for shape in [(0, 3), (2, 0), (1, 1), (5, 33), (300, 200)]:
        statistic = np.abs(hard_values(rng, shape))
        for extreme in (np.nan, np.inf, FLT_MAX, 1e-40, 1e-45):
            statistic[rng.random(shape) < 0.1] = extreme
        yield statistic


def _ratio_examples(rng):
    for statistic in _statistics(rng):
        yield (statistic, statistic.copy()), {}
        yield (statistic, np.roll(statistic, 1, axis=0)), {}


def _scale_examples(rng):
    for statistic in _statistics(rng):
        unit = np.ldexp(np.float32(1), rng.integers(-126, 127, statistic.shape))
        for units in (np.ones_like(statistic), unit.astype(np.float32)):
            yield (statistic, units, grids(statistic, INT4, QUEST2, TERNARY)), {}


def _scaled_examples(rng):
    for i, (x, block) in enumerate(_arrays(rng)):
        scale = rng.lognormal(size=(x.shape[0], x.shape[-1] // block)).astype(np.float32)
        attributes = {"block": block, "estimator": ESTIMATORS[i % 3], "pruned": i % 4 == 0}
        yield (x, scale, grids(x, INT4, QUEST2)), attributes


# ---- definitions -------------------------------------------------------------------------------


def _groups(x, block: int):
    """f32[items, rows, groups, block]."""
    items, cols, rows = x.shape[0], x.shape[-1], x.shape[1] if x.ndim == 3 else 1
    return x.astype(np.float32).reshape(items, rows, cols // block, block)


def _statistic_given(x, *, block, statistic, pruned):
    return None if statistic == "absmax" else (0, lambda s: (s,))


@op(out=_statistic_out, examples=_statistic_examples, given=_statistic_given)
def group_statistic(x, *, block: int, statistic: str, pruned: bool):
    """Largest magnitude, or root mean square, of each group.

        absmax:  s[i, b] = max |x[i, r, c]|          over rows r and columns c of block b
        rms:     s[i, b] = sqrt(mean x[i, r, c]^2)   (pruned: over the non-zero elements)

    NaN or infinite where an element is.

    Args:
        x: f32 or bf16 [items, rows, cols], or [items, cols] for items of one row
        block: columns per group; must divide cols.
        statistic: "absmax" or "rms".
        pruned: exact zeros are pruned weights and are not counted.

    Returns:
        f32[items, cols / block]
    """
    groups = _groups(x, block)
    xp = groups.__array_namespace__()
    # On integer bits: a float maximum may drop NaN (jnp.max does, depending on the shape).
    amax = magnitude_bits(groups).max(axis=(1, 3), initial=0).view(np.float32)
    if statistic == "absmax":
        return amax
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
    return unit * xp.sqrt(mean).astype(np.float32)


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


@op(out=_scale_out, examples=_scale_examples)
def statistic_scale(statistic, unit, grid):
    """Scales of statistics: min(statistic unit / span, FLT_MAX), NaN where that is not finite.

    A true division, which XLA's own `x / constant` is not: it multiplies by a reciprocal.

    Args:
        statistic, unit: f32[items, groups]; the statistic is in units of `unit`
        grid: f32[items, 4]: qmin, qmax, offset (not used here), span

    Returns:
        f32[items, groups]
    """
    xp = statistic.__array_namespace__()
    s = statistic * unit
    scale = xp.minimum(s / grid[:, 3, None], FLT_MAX)
    return xp.where(s <= FLT_MAX, scale, np.float32(np.nan))


@op(out=_scaled_out, examples=_scaled_examples, alias=(0, 0))
def fake_quantize_scaled(x, scale, grid, *, block: int, estimator: str, pruned: bool):
    """Nearest levels of x for the scales given, and where the gradient passes.

        inv  = min(1 / scale, FLT_MAX)
        v    = x * inv - offset
        code = clamp(round_half_even(v), qmin, qmax)
        y    = (code + offset) * scale

    The mask's bit is 1 where the straight-through estimator passes the gradient:
        clip_rounded:  qmin <= round_half_even(v) <= qmax
        trust:         |v - code| <= 1/2, half a step from the level taken (QuEST, arXiv:2502.05003,
                       with T = alpha / (2^b - 1), which is half a step)
        identity:      everywhere; no mask is kept

    A NaN scale gives NaN for its whole group, and mask bits of 0.

    Args:
        x: f32 or bf16 [items, rows, cols], or [items, cols] for items of one row
        scale: f32[items, cols / block]
        grid: f32[items, 4]: qmin, qmax, offset, span (not used here)
        block: columns that share a scale; must divide cols.
        estimator: "identity", "clip_rounded" or "trust".
        pruned: exact zeros are pruned weights and stay zero.

    Returns:
        y: like x; mask: u8, x's shape but ceil(cols / 8) bytes for cols (none: identity)
    """
    groups = _groups(x, block)
    xp = groups.__array_namespace__()
    qmin, qmax, offset = (grid[:, k, None, None, None] for k in range(3))
    step = scale[:, None, :, None]
    inv = np.float32(1) / step
    inv = xp.where(inv > FLT_MAX, FLT_MAX, inv)
    v = groups * inv - offset
    rounded = xp.rint(v)
    code = xp.clip(rounded, qmin, qmax)
    y = (code + offset) * step
    if pruned:
        y = xp.where(magnitude_bits(groups) == 0, np.float32(0), y)
    y = y.reshape(x.shape).astype(x.dtype)
    if estimator == "identity":
        return y, xp.zeros((*x.shape[:-1], 0), dtype=np.uint8)
    keep = xp.abs((v if estimator == "trust" else rounded) - code) <= np.float32(0.5)
    return y, pack_flags(keep.reshape(x.shape))


def _fake_quantize_given(x, grid, *, block, statistic, estimator, pruned):
    def outs(scale):
        y, mask = fake_quantize_scaled.definition(
            x, scale, grid, block=block, estimator=estimator, pruned=pruned
        )
        return y, scale, mask

    return None if statistic == "absmax" else (1, outs)


@op(
    out=_fake_quantize_out,
    examples=_fake_quantize_examples,
    given=_fake_quantize_given,
    alias=(0, 0),
)
def fake_quantize(x, grid, *, block: int, statistic: str, estimator: str, pruned: bool):
    """Nearest levels of x, the scales used, and where the gradient passes, in one pass.

        scale = statistic_scale(group_statistic(x))      NaN where the group holds NaN or infinity
        y     = fake_quantize_scaled(x, scale)

    Args:
        x: f32 or bf16 [items, rows, cols], or [items, cols] for items of one row
        grid: f32[items, 4]: qmin, qmax, offset, span
        block, statistic, estimator, pruned: as of the two ops above.

    Returns:
        y: like x; scale: f32[items, cols / block]; mask as above
    """
    s = group_statistic.definition(x, block=block, statistic=statistic, pruned=pruned)
    scale = statistic_scale.definition(s, s.__array_namespace__().ones_like(s), grid)
    y, mask = fake_quantize_scaled.definition(
        x, scale, grid, block=block, estimator=estimator, pruned=pruned
    )
    return y, scale, mask
