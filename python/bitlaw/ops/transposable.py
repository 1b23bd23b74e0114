"""Masks that are n:m along both axes."""

from __future__ import annotations

import functools

import numpy as np

from bitlaw.ops.bits import bytes_of_bits, pack_flags
from bitlaw.ops.op import Shape, op
from bitlaw.ops.select import DTYPES, selection_key

_HUGE = np.float32(2.0**120)


def _out(x, *, n, m):
    if x.ndim != 3 or str(x.dtype) not in DTYPES:
        raise ValueError(
            f"x must be f32, bf16 or f16 [items, rows, cols], got {x.dtype}{list(x.shape)}"
        )
    if not 1 <= m <= 64:
        raise ValueError(f"m must be in [1, 64], got {m}")
    if not 1 <= n <= m:
        raise ValueError(f"n must be in [1, m] (n:m keeps n of every m), got {n}:{m}")
    for axis in (1, 2):
        if x.shape[axis] % m:
            raise ValueError(f"m must divide axis {axis} of x, got {m} and {x.shape}")
    return (Shape((x.shape[0], bytes_of_bits(x.shape[1] * x.shape[2])), np.uint8),)


def _examples(rng):
    import ml_dtypes

    for shape, n, m in [
        ((0, 4, 4), 2, 4), ((2, 4, 0), 2, 4), ((2, 8, 12), 2, 4), ((1, 4, 4), 1, 4),
        ((1, 12, 20), 3, 4), ((1, 4, 8), 4, 4), ((2, 6, 9), 2, 3), ((1, 16, 24), 4, 8),
        ((1, 8, 16), 5, 8), ((1, 180, 200), 2, 4), ((1, 3, 2), 1, 1),
    ]:  # fmt: skip
        x = np.round(rng.normal(size=shape) * 4).astype(np.float32)  # full of ties
        x[rng.random(shape) < 0.02] = np.nan
        x[rng.random(shape) < 0.01] = np.inf
        yield (x,), {"n": n, "m": m}
        yield (rng.normal(size=shape).astype(np.float32),), {"n": n, "m": m}
        yield (x.astype(ml_dtypes.bfloat16),), {"n": n, "m": m}
        yield (x.astype(np.float16),), {"n": n, "m": m}


@functools.lru_cache
def tile_patterns(n: int) -> np.ndarray:
    """bool[patterns, 16]: 4 by 4 with n ones in every row and column, earliest elements first."""
    every = (np.arange(0xFFFF, -1, -1)[:, None] >> np.arange(15, -1, -1)) & 1
    square = every.reshape(-1, 4, 4)
    regular = (square.sum(1) == n).all(1) & (square.sum(2) == n).all(1)
    return every[regular].astype(bool)


def _best_pattern(tiles, n):
    """bool[tiles, 16]: the pattern of largest sum, summed element by element."""
    xp = tiles.__array_namespace__()
    nan = selection_key(tiles) == 0
    values = xp.where(nan, -_HUGE, xp.minimum(xp.abs(tiles), _HUGE))
    patterns = xp.asarray(tile_patterns(n))
    sums = xp.zeros((tiles.shape[0], patterns.shape[0]), np.float32)
    for j in range(16):
        sums = sums + xp.where(patterns[:, j], values[:, j : j + 1], np.float32(0))
    return patterns[xp.argmax(sums, axis=1)]


def _greedy(tiles, n, m):
    """bool[tiles, m * m]: by greed over the smaller share, completed by single moves."""
    xp = tiles.__array_namespace__()
    pruning = n > m - n
    share = m - n if pruning else n
    order = xp.argsort(-selection_key(tiles), axis=1, stable=True)
    order = order[:, ::-1] if pruning else order
    one = xp.eye(m * m, dtype=bool)
    taken = xp.zeros(tiles.shape, bool)

    def room(taken):
        square = taken.reshape(-1, m, m)
        rows, cols = square.sum(2) < share, square.sum(1) < share
        return (rows[:, :, None] & cols[:, None, :]).reshape(taken.shape)

    for k in range(m * m):
        taken = taken | (one[order[:, k]] & room(taken))
    for _ in range((share * m + 1) // 2):  # a maximal choice holds at least half of a full one
        free = room(taken) & ~taken
        direct = free.any(axis=1)
        # Where there is none, all pairs of a short row and a short column are taken: move one.
        place = xp.where(direct, free.argmax(axis=1), room(taken).argmax(axis=1))
        row, col = place // m, place % m
        square = taken.reshape(-1, m, m)
        in_row = xp.take_along_axis(square, row[:, None, None], axis=1)
        in_col = xp.take_along_axis(square, col[:, None, None], axis=2)
        movable = (square & ~in_row & ~in_col).reshape(taken.shape)
        moved = movable.argmax(axis=1)
        change = one[moved] | one[row * m + moved % m] | one[moved // m * m + col]
        change = xp.where(direct[:, None], one[place], change)
        taken = taken ^ (change & room(taken).any(axis=1)[:, None])
    return ~taken if pruning else taken


@op(out=_out, examples=_examples)
def transposable_mask(x, *, n: int, m: int):
    """Packed mask with n ones in every row and every column of each m by m tile.

    For m = 4 the pattern (of 90 for 2:4) with the largest sum of magnitudes, up to 2^120 each, the
    one with the earliest elements among equals; for other m by greed, which is at least half as
    good. NaN is pruned first (arXiv:2102.08124).

    Args:
        x: f32, bf16 or f16 [items, rows, cols]
        n, m: 1 <= n <= m <= 64; m divides rows and cols.

    Returns:
        u8[items, ceil(rows * cols / 8)], bits of the item's elements in memory order
    """
    items, rows, cols = x.shape
    xp = x.__array_namespace__()
    tiles = x.astype(np.float32).reshape(items, rows // m, m, cols // m, m)
    tiles = xp.moveaxis(tiles, 2, 3).reshape(-1, m * m)
    keep = _best_pattern(tiles, n) if m == 4 else _greedy(tiles, n, m)
    keep = xp.moveaxis(keep.reshape(items, rows // m, cols // m, m, m), 3, 2)
    return pack_flags(keep.reshape(items, rows * cols))
