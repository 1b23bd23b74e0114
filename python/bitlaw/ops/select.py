"""The k largest magnitudes: their mask, and the smallest of them."""

from __future__ import annotations

import itertools

import numpy as np

from bitlaw.ops.bits import bytes_of_bits, magnitude_bits, pack_flags
from bitlaw.ops.op import Shape, op

INFINITY_BITS = np.int32(0x7F800000)


DTYPES = ("float32", "bfloat16", "float16")


def check_items(x, name: str = "x") -> None:
    """Raises ValueError unless x is f32, bf16 or f16 [items, n] with n < 2^31."""
    if x.ndim != 2 or str(x.dtype) not in DTYPES:
        raise ValueError(
            f"{name} must be f32, bf16 or f16 [items, n], got {x.dtype}{list(x.shape)}"
        )
    if x.shape[1] >= 2**31:
        raise ValueError(f"{name} must have fewer than 2^31 elements per item, got {x.shape[1]}")


def _check_keep(x, keep, name: str = "x") -> None:
    check_items(x, name)
    if tuple(keep.shape) != x.shape[:1] or str(keep.dtype) != "int32":
        raise ValueError(f"keep must be i32[{x.shape[0]}], got {keep.dtype}{list(keep.shape)}")


def _top_k_out(x, keep):
    _check_keep(x, keep)
    return (Shape((x.shape[0], bytes_of_bits(x.shape[1])), np.uint8),)


def _top_k_examples(rng):
    import ml_dtypes

    for items, n in [(0, 8), (2, 0), (3, 1), (4, 77), (2, 16385), (3, 40000), (1, 300001)]:
        x = rng.normal(size=(items, n)).astype(np.float32)
        keep = rng.integers(0, n + 1, items).astype(np.int32)
        yield (x, keep), {}
        yield (x.astype(ml_dtypes.bfloat16), keep), {}  # full of ties
        yield (x.astype(np.float16), keep), {}
    n = 50000
    for x in [np.zeros(n), np.full(n, -2.5), np.full(n, np.nan), rng.integers(-3, 4, n) * 1e-40]:
        x = np.stack([x, np.roll(x, 1)]).astype(np.float32)
        yield (x, np.array([n // 3, n], np.int32)), {}
    x = rng.integers(-2, 3, (2, 300_001)).astype(np.float32)  # two crowded keys, and zeros
    for keep in (70_001, 200_002, 250_003):
        yield (x, np.full(2, keep, np.int32)), {}
        yield (x.astype(ml_dtypes.bfloat16), np.full(2, keep, np.int32)), {}
    x = rng.normal(size=(2, n)).astype(np.float32)
    x[:, rng.integers(0, n, 900)] = np.nan
    x[:, rng.integers(0, n, 900)] = -np.inf
    yield (x, np.array([n - 500, 300], np.int32)), {}
    some = np.where(rng.random((2, n)) < 0.4, np.nan, 0.0)
    some[:, :300] = 1.5
    for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):  # the last among zeros, among NaN
        yield (some.astype(dtype), np.array([n // 4, n - n // 4], np.int32)), {}
    yield (_misleading(x, 8192), np.array([n // 2, 40], np.int32)), {}


def _misleading(x, sample: int):
    """f32 [items, n] of which the kernel's sample, at these positions, sees the largest only."""
    x = x.astype(np.float32)
    position = np.uint64(0x9E3779B97F4A7C15) * np.arange(sample, dtype=np.uint64)
    x[:, ((position >> np.uint64(32)) * np.uint64(x.shape[1])) >> np.uint64(32)] = 1e6
    return x


def selection_key(x):
    """i32, ordered like |x| with NaN lowest: 0 for NaN, else the magnitude's bits plus 1."""
    bits = magnitude_bits(x)
    return bits.__array_namespace__().where(bits > INFINITY_BITS, np.int32(0), bits + np.int32(1))


@op(out=_top_k_out, examples=_top_k_examples)
def top_k_mask(x, keep):
    """Packed mask of the keep[i] largest magnitudes of each item: exactly keep[i] ones.

    Among equal magnitudes the lowest index is taken first; NaN is taken last. Values of `keep`
    outside [0, n] are an error in the kernels.

    Args:
        x: f32, bf16 or f16 [items, n]
        keep: i32[items]

    Returns:
        u8[items, ceil(n / 8)], bit j % 8 of byte j / 8 is element j
    """
    key = selection_key(x)
    xp = key.__array_namespace__()
    order = xp.argsort(-key, axis=-1, stable=True)
    rank = xp.argsort(order, axis=-1, stable=True)
    return pack_flags(rank < keep[:, None])


def _joint_out(keep, scale, *arrays):
    if not arrays:
        raise ValueError("arrays must be at least one, got none")
    first = arrays[0]
    _check_keep(first, keep, "arrays")
    for x in arrays[1:]:  # may be many
        if x.dtype != first.dtype:
            raise ValueError(f"arrays must be of one dtype, got {first.dtype} and {x.dtype}")
        if x.ndim != 2 or x.shape[0] != first.shape[0]:
            raise ValueError(f"arrays must be [{first.shape[0]}, n] each, got {list(x.shape)}")
    if (n := sum(x.shape[1] for x in arrays)) >= 2**31:
        raise ValueError(f"arrays must have fewer than 2^31 elements per item in all, got {n}")
    wanted = (keep.shape[0], len(arrays))
    if tuple(scale.shape) != wanted or str(scale.dtype) != "float32":
        raise ValueError(f"scale must be f32{list(wanted)}, got {scale.dtype}{list(scale.shape)}")
    return tuple(Shape((x.shape[0], bytes_of_bits(x.shape[1])), np.uint8) for x in arrays)


def _joint_examples(rng):
    import ml_dtypes

    plain = lambda items, arrays: np.ones((items, arrays), np.float32)
    for items, sizes in [
        (0, (8, 9)),
        (2, (0, 0)),
        (1, (1,)),
        (3, (77, 0, 12)),
        (2, (16383, 2)),
        (2, (40000, 9, 0, 33000)),
        (1, (5, 200001, 70000)),
    ]:
        arrays = [rng.normal(size=(items, n)).astype(np.float32) for n in sizes]
        keep = rng.integers(0, sum(sizes) + 1, items).astype(np.int32)
        scale = np.exp(rng.normal(size=(items, len(sizes)))).astype(np.float32)
        yield (keep, scale, *arrays), {}
        for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):  # narrow ones are full of ties
            yield (keep, plain(items, len(sizes)), *(x.astype(dtype) for x in arrays)), {}
        yield (keep, scale, *(x.astype(ml_dtypes.bfloat16) for x in arrays)), {}
    for value in (0.0, -2.5, np.nan):  # all equal: the first array, its lowest indices
        arrays = [np.full((2, n), value, np.float32) for n in (30000, 50000)]
        yield (np.array([10_000, 70_001], np.int32), plain(2, 2), *arrays), {}
    arrays = [rng.integers(-2, 3, (2, n)).astype(np.float32) for n in (70_000, 9, 231_000)]
    for keep in (70_001, 200_002, 250_003):  # two crowded keys, and zeros
        yield (np.full(2, keep, np.int32), plain(2, 3), *arrays), {}
        yield (np.full(2, keep, np.int32), plain(2, 3) * np.float32(1e-42), *arrays), {}
    arrays = [_misleading(rng.normal(size=(1, n)), 8192) for n in (30_000, 50_000)]
    yield (np.array([40_000], np.int32), plain(1, 2), *arrays), {}


@op(out=_joint_out, examples=_joint_examples)
def joint_top_k_mask(keep, scale, *arrays):
    """Packed masks of the keep[i] largest |x| scale[i, array] of all arrays of an item together.

    Exactly keep[i] ones. Among equal magnitudes the first array is taken first, in it the lowest
    index; NaN is taken last. Values of `keep` outside [0, n] are an error in the kernels. Those
    copy nothing; where there is none, on a TPU, the definition sorts a copy of all arrays.

    Args:
        keep: i32[items]
        scale: f32[items, len(arrays)], positive and finite; products are rounded to f32.
        arrays: f32, bf16 or f16 [items, n_a] each, of one dtype; fewer than 2^31 in all.

    Returns:
        u8[items, ceil(n_a / 8)] for each array, bits as in `top_k_mask`
    """
    xp = arrays[0].__array_namespace__()
    scaled = [x.astype(np.float32) * scale[:, a : a + 1] for a, x in enumerate(arrays)]
    order = xp.argsort(-selection_key(xp.concat(scaled, axis=1)), axis=-1, stable=True)
    kept = xp.argsort(order, axis=-1, stable=True) < keep[:, None]
    ends = np.cumsum([0, *(x.shape[1] for x in arrays)])
    return tuple(pack_flags(kept[:, a:b]) for a, b in itertools.pairwise(ends))


def _threshold_out(x, keep):
    _check_keep(x, keep)
    return Shape(keep.shape, np.int32), Shape(keep.shape, np.int32)


@op(out=_threshold_out, examples=_top_k_examples)
def select_threshold(x, keep):
    """The key of the keep[i]-th largest magnitude of each item, and how many with that key to take.

    The mask of the keep[i] largest is then all keys beyond, and the first `take` equal ones.

    Args:
        x: f32, bf16 or f16 [items, n]
        keep: i32[items]

    Returns:
        key: i32[items], `selection_key` of the smallest element taken; 0x7f800002 for keep 0
        take: i32[items]
    """
    keys = selection_key(x)
    xp = keys.__array_namespace__()
    # One more column, for keep 0, and for items of no elements.
    beyond = xp.full((keys.shape[0], 1), INFINITY_BITS + np.int32(2), np.int32)
    ranked = xp.concat([beyond, -xp.sort(-keys, axis=-1)], axis=1)
    key = xp.take_along_axis(ranked, keep[:, None], axis=1)
    take = keep[:, None] - (keys > key).sum(axis=1, keepdims=True, dtype=np.int32)
    return key[:, 0], take[:, 0].astype(np.int32)
