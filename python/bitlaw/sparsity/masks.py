"""Masks of one bit per weight."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.ops import mask, select
from bitlaw.ops.bits import pack_flags, unpack_flags


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BitMask:
    """Which weights of one array are kept: a pytree with one leaf.

    Attributes:
        bits: u8[ceil(n / 8)]; bit j % 8 of byte j / 8 is element j in memory order, spare bits 0.
        shape: the array's shape, n = prod(shape); static.
    """

    bits: jax.Array | np.ndarray
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def ones(cls, shape: tuple[int, ...]) -> BitMask:
        """The mask that keeps everything."""
        n = math.prod(shape)
        bits = np.packbits(np.ones(n, bool), bitorder="little")
        return cls(jnp.asarray(bits), tuple(shape))

    @classmethod
    def of(cls, kept) -> BitMask:
        """The mask of a bool array."""
        return cls(pack_flags(kept.reshape(-1)), tuple(kept.shape))

    def apply(self, x):
        """x where kept, else +0, in x's shape and dtype."""
        if tuple(x.shape) != self.shape:
            raise ValueError(f"x must have the mask's shape {self.shape}, got {tuple(x.shape)}")
        return mask.prune(x.reshape(1, -1), self.bits[None]).reshape(x.shape)

    def to_bool(self):
        """bool array of the mask's shape."""
        return unpack_flags(self.bits, math.prod(self.shape)).reshape(self.shape)

    def count(self):
        """How many weights are kept."""
        return self.to_bool().sum()


def top_k_mask(x, keep) -> BitMask:
    """The mask of the `keep` largest magnitudes of x: exactly that many, also under ties.

        mask = bitlaw.top_k_mask(w, w.size // 2)
        w = mask.apply(w)

    Among equal magnitudes the lowest flat index is kept; NaN is pruned first. Under jit a sharded x
    is gathered; in shard_map `global_masks` of x alone, with axis_name, gathers nothing.

    Args:
        x: f32, bf16 or f16 array of any shape, numpy or JAX.
        keep: how many to keep, 0 <= keep <= x.size; under jit it may be traced (then a value
            outside the range fails when the program runs).
    """
    count = _count(x, keep)
    return BitMask(select.top_k_mask(x.reshape(1, -1), count)[0], tuple(x.shape))


def _count(x, keep):
    """keep as i32[1]."""
    known = not isinstance(keep, jax.core.Tracer)
    if known and (np.asarray(keep).dtype.kind not in "iu" or not 0 <= int(keep) <= x.size):
        raise ValueError(f"keep must be a whole number in [0, {x.size}], got {keep}")
    xp = jnp if isinstance(x, jax.Array) or isinstance(keep, jax.Array) else np
    return xp.asarray(keep, dtype=np.int32).reshape(1)


def select_threshold(x, keep):
    """(magnitude, ties): the smallest of the `keep` largest magnitudes, and how many of it belong.

    The `keep` largest are everything above the magnitude, and the first `ties` equal to it. NaN
    where only NaN is left; infinity and 0 ties for keep 0.

    Args:
        x: f32, bf16 or f16 array of any shape, numpy or JAX.
        keep: 0 <= keep <= x.size.

    Returns:
        f32[], i32[]
    """
    key, take = select.select_threshold(x.reshape(1, -1), _count(x, keep))
    xp = jnp if isinstance(key, jax.Array) else np
    bits = xp.minimum(key[0] - 1, select.INFINITY_BITS).astype(np.int32)
    return xp.where(key[0] == 0, np.float32(np.nan), bits.view(np.float32)), take[0]


def nm_mask(x, n: int, m: int, axis: int = -2) -> BitMask:
    """The mask that keeps the n largest magnitudes of every m consecutive elements along `axis`.

        mask = bitlaw.nm_mask(w, 2, 4)        # 2:4 along the contraction axis of [in, out]

    Args:
        x: f32, bf16 or f16 array, numpy or JAX.
        n, m: keep n of every m, 1 <= n <= m <= 64; m must divide the axis.
        axis: of x; -2 is the contraction axis of an [in, out] matrix.
    """
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be an axis of x, got {axis} and {x.shape}")
    if not 1 <= m <= 64:
        raise ValueError(f"m must be in [1, 64], got {m}")
    if x.shape[axis] % m:
        raise ValueError(f"m must divide axis {axis} of x, got {m} and {x.shape}")
    axis %= x.ndim
    # [outer, axis, inner]: groups down the rows; the last axis needs no inner.
    last = axis == x.ndim - 1
    outer = math.prod(x.shape[:axis])
    inner = math.prod(x.shape[axis + 1 :])
    shape = (1, outer, x.shape[axis]) if last else (1, outer * x.shape[axis], inner)
    bits = mask.nm_mask(x.reshape(shape), n=n, m=m, along_rows=not last)
    return BitMask(bits[0], tuple(x.shape))
