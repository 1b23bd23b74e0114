"""n:m masks, and the application of a packed mask."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import bytes_of_bits, pack_flags, unpack_flags
from bitlaw.ops.op import Shape, op
from bitlaw.ops.select import DTYPES, check_items, selection_key


def _nm_out(x, *, n, m, along_rows):
    if x.ndim != 3 or str(x.dtype) not in DTYPES:
        raise ValueError(
            f"x must be f32, bf16 or f16 [items, rows, cols], got {x.dtype}{list(x.shape)}"
        )
    if not 1 <= m <= 64:
        raise ValueError(f"m must be in [1, 64], got {m}")
    if not 1 <= n <= m:
        raise ValueError(f"n must be in [1, m] (n:m keeps n of every m), got {n}:{m}")
    axis = 1 if along_rows else 2
    if x.shape[axis] % m:
        raise ValueError(f"m must divide axis {axis} of x, got {m} and {x.shape}")
    return (Shape((x.shape[0], bytes_of_bits(x.shape[1] * x.shape[2])), np.uint8),)


def _nm_examples(rng):
    import ml_dtypes

    for shape, n, m, along_rows in [
        ((0, 4, 4), 2, 4, True), ((2, 3, 8), 2, 4, False), ((2, 8, 3), 2, 4, True),
        ((1, 5, 63), 1, 7, False), ((3, 128, 5), 33, 64, True), ((1, 200, 400), 2, 4, True),
        ((1, 300, 304), 4, 8, False), ((2, 16, 520), 3, 8, True), ((1, 4, 2100), 1, 4, False),
        ((2, 6, 6), 1, 1, True), ((1, 40, 1000), 3, 5, False),
    ]:  # fmt: skip
        x = np.round(rng.normal(size=shape) * 4).astype(np.float32)  # full of ties
        x[rng.random(shape) < 0.02] = np.nan
        attributes = {"n": n, "m": m, "along_rows": along_rows}
        yield (x,), attributes
        yield (x.astype(ml_dtypes.bfloat16),), attributes
        yield (x.astype(np.float16),), attributes


@op(out=_nm_out, examples=_nm_examples)
def nm_mask(x, *, n: int, m: int, along_rows: bool):
    """Packed mask that keeps the n largest magnitudes of every m consecutive elements.

    Among equal magnitudes the lowest index is kept first; NaN last.

    Args:
        x: f32, bf16 or f16 [items, rows, cols]
        n, m: keep n of every m, 1 <= n <= m <= 64.
        along_rows: groups run down the columns (m consecutive rows), the contraction axis of an
            [in, out] matrix; else along the columns of a row.

    Returns:
        u8[items, ceil(rows * cols / 8)], bits of the item's elements in memory order
    """
    key = selection_key(x)
    xp = key.__array_namespace__()
    if along_rows:
        key = xp.moveaxis(key, 1, 2)
    groups = key.reshape(*key.shape[:2], key.shape[2] // m, m)
    order = xp.argsort(-groups, axis=-1, stable=True)
    keep = (xp.argsort(order, axis=-1, stable=True) < n).reshape(key.shape)
    if along_rows:
        keep = xp.moveaxis(keep, 1, 2)
    return pack_flags(keep.reshape(x.shape[0], x.shape[1] * x.shape[2]))


def _prune_out(x, mask):
    check_items(x)
    shape = (x.shape[0], bytes_of_bits(x.shape[1]))
    if tuple(mask.shape) != shape or str(mask.dtype) != "uint8":
        raise ValueError(f"mask must be u8{list(shape)}, got {mask.dtype}{list(mask.shape)}")
    return (Shape(x.shape, x.dtype),)


def _prune_examples(rng):
    import ml_dtypes

    for items, n in [(0, 8), (2, 0), (3, 1), (5, 13), (2, 40000), (1, 100003)]:
        x = rng.normal(size=(items, n)).astype(np.float32)
        x[rng.random(x.shape) < 0.05] = np.nan
        mask = rng.integers(0, 256, (items, bytes_of_bits(n))).astype(np.uint8)
        yield (x, mask), {}
        yield (x.astype(ml_dtypes.bfloat16), mask), {}
        yield (x.astype(np.float16), mask), {}


@op(out=_prune_out, examples=_prune_examples, alias=(0, 0))
def prune(x, mask):
    """x where the mask's bit is 1, else +0 (also where x is NaN).

    Args:
        x: f32, bf16 or f16 [items, n]
        mask: u8[items, ceil(n / 8)]
    """
    xp = x.__array_namespace__()
    return xp.where(unpack_flags(mask, x.shape[1]), x, xp.zeros_like(x))
