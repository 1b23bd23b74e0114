"""The parts of a selection over several arrays: counts of keys that add up, marking by a key."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import bytes_of_bits, pack_flags
from bitlaw.ops.op import Shape, op
from bitlaw.ops.select import check_items, selection_key

BINS = 4096
ALL_KEYS = (0, 19)  # (lo, shift) of the range that holds every key


def _check_rows(x, **rows) -> None:
    check_items(x)
    for name, (array, dtype, shape) in rows.items():
        if str(array.dtype) != dtype or tuple(array.shape) != (x.shape[0], *shape):
            raise ValueError(
                f"{name} must be {dtype}{[x.shape[0], *shape]}, got {array.dtype}{array.shape}"
            )


def scaled_key(x, scale):
    """`selection_key` of x times one f32 per item, rounded to f32."""
    return selection_key(x.astype(np.float32) * scale[:, None])


def _histogram_out(x, scale, range):
    _check_rows(x, scale=(scale, "float32", ()), range=(range, "int32", (2,)))
    return Shape((x.shape[0],), np.int32), Shape((x.shape[0], BINS), np.int32)


def _histogram_examples(rng):
    import ml_dtypes

    for items, n in [(0, 8), (2, 0), (3, 1), (2, 777), (2, 40000), (1, 100003)]:
        x = rng.normal(size=(items, n)).astype(np.float32)
        x[rng.random(x.shape) < 0.02] = np.nan
        scale = np.exp(rng.normal(size=items)).astype(np.float32)
        some = np.array([0x3F000000, 10], np.int32)
        for span in (some, np.array(ALL_KEYS, np.int32), np.array([0x7F7FFFF0, 0], np.int32)):
            yield (x, scale, np.tile(span, (items, 1))), {}
        yield (x.astype(ml_dtypes.bfloat16), scale, np.tile(some, (items, 1))), {}
        yield (x.astype(np.float16), scale, np.tile(some, (items, 1))), {}


@op(out=_histogram_out, examples=_histogram_examples)
def key_histogram(x, scale, range):
    """How many keys of |x| scale[i] are in each bin of a range, and how many beyond it.

        bins[i, b] = #(lo + (b << shift) <= key < lo + ((b + 1) << shift)),  (lo, shift) = range[i]
        above[i] = #(key >= lo + (4096 << shift))

    Args:
        x: f32, bf16 or f16 [items, n]
        scale: f32[items]
        range: i32[items, 2], lo >= 0 and 0 <= shift <= 19; (0, 19) holds every key.

    Returns:
        above: i32[items], bins: i32[items, 4096]
    """
    key = scaled_key(x, scale)
    xp = key.__array_namespace__()
    lo, shift = range[:, :1], range[:, 1:]
    bin = xp.where(key >= lo, (key - lo) >> shift, np.int32(-1))
    above = (bin >= BINS).sum(axis=1, dtype=np.int32)
    # Bins as differences of ranks: array code without a scatter.
    ranked = xp.sort(bin, axis=1)
    edges = xp.arange(BINS + 1, dtype=np.int32)
    ranks = [xp.searchsorted(row, edges) for row in ranked]
    ranks = xp.stack(ranks) if ranks else xp.zeros((0, BINS + 1), np.int32)
    return above, (ranks[:, 1:] - ranks[:, :-1]).astype(np.int32)


def _mask_out(x, scale, threshold, ties):
    rows = {"scale": (scale, "float32", ()), "threshold": (threshold, "int32", ())}
    _check_rows(x, **rows, ties=(ties, "int32", ()))
    return (Shape((x.shape[0], bytes_of_bits(x.shape[1])), np.uint8),)


def _mask_examples(rng):
    import ml_dtypes

    for items, n in [(0, 8), (2, 0), (3, 1), (2, 777), (2, 40000), (1, 100003)]:
        x = np.round(rng.normal(size=(items, n)) * 4).astype(np.float32)  # full of ties
        scale = np.full(items, 0.5, np.float32)
        threshold = np.full(items, 0x3F800001, np.int32)  # of 1: |x| = 2
        for ties in (0, n // 9, n):
            yield (x, scale, threshold, np.full(items, ties, np.int32)), {}
        ties = np.full(items, n // 30, np.int32)
        yield (x.astype(ml_dtypes.bfloat16), scale, threshold, ties), {}
        yield (x.astype(np.float16), scale, threshold, ties), {}


@op(out=_mask_out, examples=_mask_examples)
def threshold_mask(x, scale, threshold, ties):
    """Packed mask of the keys of |x| scale[i] beyond a threshold, and the first ties[i] equal ones.

    Args:
        x: f32, bf16 or f16 [items, n]
        scale: f32[items]
        threshold: i32[items], a `selection_key`
        ties: i32[items]

    Returns:
        u8[items, ceil(n / 8)]
    """
    key = scaled_key(x, scale)
    equal = key == threshold[:, None]
    early = equal.cumsum(axis=1, dtype=np.int32) <= ties[:, None]
    return pack_flags((key > threshold[:, None]) | (equal & early))
