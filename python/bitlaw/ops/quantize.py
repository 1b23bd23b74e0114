"""Fake quantization: to a grid of a few levels and back in float, one scale per group.

Arrays are [items, rows, cols] and `block` columns over all rows of an item share a scale. That one
layout is every granularity: a scale per row is items of one row and block = cols; blocks along a
row, block = 32; a scale per column, block = 1; a tile, rows and block both above 1. Items of one
row may come as [items, cols]: a reshape before an op costs it the chance to work in place.

A grid is five numbers per item (`bitlaw.ops.grid`). `bitlaw.formats` makes grids from format names;
being operands, one compiled program serves all formats of a kind.
"""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import bytes_of_bits, magnitude_bits, pack_flags
from bitlaw.ops.examples import arrays_and_blocks, choices_for, grids_of_kinds, noise_for
from bitlaw.ops.grid import (
    ESTIMATORS,
    GRID_NUMBERS,
    KINDS,
    ROUNDINGS,
    SCALINGS,
    map_elements,
    passes,
)
from bitlaw.ops.op import Shape, op
from bitlaw.ops.random import thresholds
from bitlaw.ops.scale import search_scale, statistic_scale
from bitlaw.ops.statistic import (
    STATISTICS,
    check_array,
    check_choice,
    check_operand,
    group_shape,
    group_statistic,
    groups_of,
    rotate,
)

# Attributes of all ops that map elements, here and in `bitlaw.ops.codes`.
MAP = {
    "block": "int",
    "kind": "str",
    "scaling": "str",
    "rounding": "str",
    "estimator": "str",
    "hadamard": "int",
}


def check_call(x, grid, noise, *, block, kind, scaling, rounding, estimator, pruned, hadamard):
    check_array(x, block, hadamard)
    check_operand("grid", grid, (x.shape[0], GRID_NUMBERS))
    check_operand("noise", noise, (x.shape[0], 3 if rounding == "stochastic" else 0), "uint32")
    check_choice("kind", kind, KINDS)
    check_choice("scaling", scaling, SCALINGS if kind == "float" else SCALINGS[:-1])
    check_choice("rounding", rounding, ROUNDINGS)
    check_choice("estimator", estimator, ESTIMATORS)
    if pruned and hadamard:
        raise ValueError(f"pruned must be False with hadamard, got {pruned} and {hadamard}")


def mask_shape(x, estimator: str) -> Shape:
    """One bit per element, rows starting on a byte; nothing for the identity."""
    cols = 0 if estimator == "identity" else bytes_of_bits(x.shape[-1])
    return Shape((*x.shape[:-1], cols), np.uint8)


def check_statistic(x, kind: str, statistic: str) -> None:
    """Raises ValueError unless a scale of the kind can be taken from this statistic."""
    check_choice("statistic", statistic, ("range",) if kind == "affine" else STATISTICS)
    if statistic == "range" and kind != "affine":
        raise ValueError(f"statistic must not be range unless kind is affine, got {kind}")
    if statistic == "mse_search" and x.ndim == 3 and x.shape[1] != 1:
        raise ValueError(f"mse_search must be of items of one row, got shape {x.shape}")


def _scaled_out(x, scale, zero, grid, noise, **attributes):
    block, kind = attributes["block"], attributes["kind"]
    check_call(x, grid, noise, **attributes)
    check_operand("scale", scale, group_shape(x, block).shape)
    check_operand("zero", zero, group_shape(x, block, kind == "affine").shape)
    return Shape(x.shape, x.dtype), mask_shape(x, attributes["estimator"])


def _out(x, grid, noise, *, statistic, **attributes):
    block, kind = attributes["block"], attributes["kind"]
    check_call(x, grid, noise, **attributes)
    check_statistic(x, kind, statistic)
    scale, zero = group_shape(x, block), group_shape(x, block, kind == "affine")
    return Shape(x.shape, x.dtype), scale, zero, mask_shape(x, attributes["estimator"])


def _examples(rng):
    for i, (x, block) in enumerate(arrays_and_blocks(rng)):
        for j in range(3):
            attributes = choices_for(x, block, 3 * i + j)
            grid = grids_of_kinds(rng, x, attributes["kind"], attributes["scaling"])
            yield (x, grid, noise_for(rng, x, attributes["rounding"])), attributes


def _scaled_examples(rng):
    for i, (x, block) in enumerate(arrays_and_blocks(rng)):
        attributes = choices_for(x, block, 7 * i)
        attributes.pop("statistic")
        groups = (x.shape[0], x.shape[-1] // block)
        scale = rng.lognormal(size=groups).astype(np.float32)
        zero = rng.integers(0, 4, groups).astype(np.float32)
        if attributes["kind"] != "affine":
            zero = zero[:, :0]
        grid = grids_of_kinds(rng, x, attributes["kind"], attributes["scaling"])
        noise = noise_for(rng, x, attributes["rounding"])
        yield (x, scale, zero, grid, noise), attributes


# ---- definitions -------------------------------------------------------------------------------


def scale_of(x, grid, *, block, kind, statistic, scaling, pruned, hadamard, **of_map):
    """(scale, zero) of the groups of x: the definition of what `fake_quantize` takes."""
    del of_map
    xp = x.__array_namespace__()
    if statistic == "mse_search":
        groups = groups_of(rotate(x, hadamard), block)
        numbers = [grid[:, k, None, None, None] for k in range(GRID_NUMBERS)]

        def error(scale):
            common = {"kind": kind, "scaling": scaling, "rounding": "nearest"}
            y = map_elements(groups, scale, None, numbers, None, **common)[3] * scale
            left_out = magnitude_bits(groups) == 0 if pruned else False
            return xp.where(left_out, np.float32(0), groups - y)

        uniform = kind == "uniform"
        scale = search_scale(groups, grid, error, uniform=uniform, scaling=scaling)
        return scale, xp.zeros((x.shape[0], 0), dtype=np.float32)
    high, low = group_statistic.definition(
        x, block=block, statistic=statistic, pruned=pruned, hadamard=hadamard
    )
    return statistic_scale.definition(
        high, low, xp.ones_like(high), grid, kind=kind, scaling=scaling
    )


def levels_of(x, scale, zero, grid, noise, *, block, kind, scaling, rounding, estimator, hadamard):
    """(levels f32[items, rows, groups, block], flags of what passes, None for the identity).

    Levels are in units of the scale.
    """
    groups = groups_of(rotate(x, hadamard), block)
    numbers = [grid[:, k, None, None, None] for k in range(GRID_NUMBERS)]
    zeros = zero[:, None, :, None] if kind == "affine" else np.float32(0)
    u = None
    if rounding == "stochastic":
        u = thresholds(noise, groups.shape[1], x.shape[-1]).reshape(groups.shape)
    elif rounding != "nearest":
        u = np.float32(0 if rounding == "away" else 1)
    common = {"kind": kind, "scaling": scaling, "rounding": rounding}
    mapped = map_elements(groups, scale[:, None, :, None], zeros, numbers, u, **common)
    if estimator == "identity":
        return mapped[3], None
    return mapped[3], passes(mapped, zeros, numbers, kind=kind, estimator=estimator)


def packed_mask(x, flags):
    """The packed mask of flags of what passes; u8[..., 0] of None."""
    if flags is None:
        return x.__array_namespace__().zeros((*x.shape[:-1], 0), dtype=np.uint8)
    return pack_flags(flags.reshape(x.shape))


@op(out=_scaled_out, examples=_scaled_examples, alias=(0, 0), attributes=MAP)
def fake_quantize_scaled(x, scale, zero, grid, noise, *, pruned: bool, **attributes):
    """Levels of x for the scales given, and where the gradient passes.

        inv   = min(1 / scale, FLT_MAX)
        ratio = x inv                                       scaling e4m3: x / scale; 0 of scale 0
        uniform, affine:  v = ratio - offset;  code = clamp(round(v), qmin, qmax)
                          y = (code + offset) scale         affine: of qmin - zero and qmax - zero
        float:            quantum = max(2^floor(log2 |ratio|), smallest_normal) epsilon
                          code = min(round(|ratio| / quantum) quantum, largest)
                          y = sign(ratio) code scale        keeps the sign of zero
        nf4:              y = the nearest of 16 levels times scale; midpoints go down

        round: nearest      half to even
               stochastic   away from zero with the part of a step that is left as its probability:
                            where that is above u[i, r, c] of `bitlaw.ops.random.uniform`
               toward_zero  never away (mid-rise grids: never to the other side of zero)
               away         always away, unless x is on a level

    The mask's bit is 1 where the straight-through estimator passes the gradient:
        clip_value:    ratio is within the grid's ends
        clip_rounded:  round(ratio), of the grid continued, is (nf4: as clip_value)
        trust:         |ratio - y / scale| is at most half the grid's largest step (QuEST,
                       arXiv:2502.05003, with T = alpha / (2^b - 1), which is half a step)
        identity:      everywhere; no mask is kept

    A NaN scale gives NaN for its whole group, and mask bits of 0. With `hadamard`, x is rotated
    before and y back after (`bitlaw.ops.hadamard`); mask bits are those of the rotated elements.

    Args:
        x: f32 or bf16 [items, rows, cols], or [items, cols] for items of one row
        scale: f32[items, cols / block]
        zero: as scale of affine grids, else f32[items, 0]
        grid: f32[items, 5], see `bitlaw.ops.grid`
        noise: u32[items, 3] if stochastic: key, key, number of the item's first row; else
            u32[items, 0]
        block: columns that share a scale; must divide cols.
        kind, scaling, rounding, estimator: see above; scaling matters for e4m3 only.
        pruned: exact zeros are pruned weights and stay zero; not together with hadamard.
        hadamard: columns of a rotated run, a power of two 16..4096 that divides block; 0 for none.

    Returns:
        y: like x; mask: u8, x's shape but ceil(cols / 8) bytes for cols (none: identity)
    """
    levels, flags = levels_of(x, scale, zero, grid, noise, **attributes)
    xp = x.__array_namespace__()
    y = levels * scale[:, None, :, None]
    if pruned:
        kept = magnitude_bits(groups_of(x, attributes["block"])) != 0
        y = xp.where(kept, y, np.float32(0))
    y = rotate(y.reshape(x.shape), attributes["hadamard"])
    return y.astype(x.dtype), packed_mask(x, flags)


def _given(x, grid, noise, *, statistic, **attributes):
    def outs(scale):
        zero = np.zeros((x.shape[0], 0), np.float32)
        y, mask = fake_quantize_scaled.definition(x, scale, zero, grid, noise, **attributes)
        return y, scale, zero, mask

    return (1, outs) if statistic == "rms" else None


@op(out=_out, examples=_examples, given=_given, alias=(0, 0), attributes=MAP)
def fake_quantize(x, grid, noise, *, statistic: str, pruned: bool, **attributes):
    """Levels of x, the scales used, and where the gradient passes, in one pass.

        scale, zero = statistic_scale(group_statistic(x))    NaN where NaN or infinity is
        y, mask     = fake_quantize_scaled(x, scale, zero)

    mse_search, of items of one row: of the scales of s = (16 - k) / 16 absmax, k = 0..7, the one
    with the least squared error of nearest rounding, the largest of equals.

    Args:
        x, grid, noise: as of `fake_quantize_scaled`.
        statistic: "absmax", "rms", "mse_search"; "range" of affine grids and of no others.
        the other attributes: as of the ops above.

    Returns:
        y: like x; scale: f32[items, cols / block]; zero: as scale of affine grids, else
        f32[items, 0]; mask: as above
    """
    attributes["pruned"] = pruned
    scale, zero = scale_of(x, grid, statistic=statistic, **attributes)
    y, mask = fake_quantize_scaled.definition(x, scale, zero, grid, noise, **attributes)
    return y, scale, zero, mask
