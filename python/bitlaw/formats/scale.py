"""Scales that hang on more than one group: of a whole tensor, and NVFP4's two levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bitlaw.ops import statistic
from bitlaw.ops.bits import magnitude_bits
from bitlaw.ops.scale import outer_scale, statistic_ratio, statistic_scale

if TYPE_CHECKING:
    from bitlaw.formats.quantizer import Quantizer


def scales(q: Quantizer, flat, grid, scale, block: int, pruned: bool):
    """(scales, zero points, f32[1, 5] grid); no scales where each group has its own."""
    xp = _xp(flat)
    items, groups = flat.shape[0], flat.shape[-1] // block
    grid = grid[None]
    if q.scaling == "e4m3":
        grid = _with_outer(q, flat, grid, pruned)
    zero = xp.zeros((items, 0), np.float32)
    if q.statistic == "given":
        if scale is None:  # fixed; as with scales from data, not for what is not finite
            finite = q.absmax(flat) <= np.finfo(np.float32).max
            scale = xp.where(finite, grid[0, 3], np.float32(np.nan))
        scale = xp.asarray(scale, dtype=np.float32)
        return xp.broadcast_to(scale, (items, groups)), zero, grid
    if q.granularity != "tensor":
        return None, None, grid
    scale, zero = _tensor_scale(q, flat, grid, block, pruned)
    shape = (items, groups)
    return xp.broadcast_to(scale, shape), xp.broadcast_to(zero, (items, zero.shape[1])), grid


def _with_outer(q: Quantizer, flat, grid, pruned: bool):
    """The grid with NVFP4's scale of the whole tensor, which the scales of blocks are in."""
    high, _ = statistic.group_statistic(
        flat,
        block=flat.shape[-1] or 1,
        statistic="absmax",
        pruned=pruned,
        hadamard=q.hadamard,
    )
    outer = outer_scale(largest(high), grid)
    return _xp(flat).concatenate([grid[:, :4], outer], axis=1)


def _tensor_scale(q: Quantizer, flat, grid, block: int, pruned: bool):
    """(f32[1, 1], f32[1, 1 or 0]): of a statistic per row: sharded rows need one all-reduce.

    XLA sees integers, and floats near 1 only: it would flush subnormals and divide inexactly.
    """
    xp = _xp(flat)
    high, low = statistic.group_statistic(
        flat, block=block, statistic=q.statistic, pruned=pruned, hadamard=q.hadamard
    )
    most, unit = largest(high), xp.ones((1, 1), np.float32)
    low = largest(low) if low.shape[1] else xp.zeros((1, 0), np.float32)
    s = most
    if q.statistic == "rms":
        ratio, _ = statistic_ratio(high, xp.broadcast_to(most, high.shape))
        count = xp.full_like(high, flat.shape[-1])
        if pruned:
            count = (magnitude_bits(flat) != 0).sum(axis=1).astype(np.float32)[:, None]
        total = xp.maximum(count.sum(), np.float32(1))
        s = xp.sqrt((ratio * ratio * count).sum() / total).reshape(1, 1)
        _, unit = statistic_ratio(s, most)
    return statistic_scale(s, low, unit, grid, kind=q.kind, scaling=q.scaling)


def largest(rows):
    """f32[1, 1]: integer bits keep NaN through the maximum, also where XLA splits it over devices.

    Magnitudes only.
    """
    return rows.view(np.int32).max(initial=0).view(np.float32).reshape(1, 1)


def _xp(x):
    return x.__array_namespace__()
