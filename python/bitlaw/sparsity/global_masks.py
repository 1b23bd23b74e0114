"""One selection over all arrays of a tree, and over the shards of a mesh, without gathering them.

Without a mesh it is one op over all leaves. Over mesh axes histograms of keys are added up, by
`psum`: that of a few sampled elements says in which range the smallest kept key lies; a count of
all elements in that range says in which bin, a count of that bin which key. What every leaf and
shard then marks needs no further communication but the number of equal keys before it. Weights are
read three times, and once more where the sample misled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.ops import histogram, select
from bitlaw.ops.histogram import ALL_KEYS, BINS
from bitlaw.sparsity.masks import BitMask

SAMPLED = 1 << 16  # elements of the whole tree, about
_SHIFT_BITS = BINS.bit_length() - 1
_LARGE = 1 << 22  # from here a narrower range costs less than its sampling
NORMS = (None, "l2", "rms")


def global_masks(
    tree: Any,
    sparsity: float,
    *,
    normalize: str | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Any:
    """Masks of the largest magnitudes of all leaves together: exactly that many, also under ties.

        masks = bitlaw.global_masks(params, 0.75)
        params = jax.tree.map(lambda mask, w: mask.apply(w), masks, params, is_leaf=...)

    keep = max(1, round_half_even(n (1 - sparsity))) of all n weights. Among equal magnitudes the
    first leaf in tree order is kept, in it the lowest index (the lowest shard first, in mesh order,
    where shards split the first axis). NaN is pruned first.

    Args:
        tree: f32, bf16 or f16 arrays, numpy or JAX; fewer than 2^31 elements in all.
        sparsity: in [0, 1).
        normalize: what a leaf's magnitudes are divided by: nothing, its "l2" norm, or its "rms".
            The norm is a sum, so its last bits depend on the door and the mesh; given the norms the
            selection is exact. Squares are f32: weights beyond 1e19 or below 1e-23 are not normal.
        axis_name: inside shard_map, the mesh axes that every leaf is sharded over.
    Raises:
        ValueError: sparsity or normalize is out of range; the tree is too large, or a leaf is not
            f32, bf16 or f16.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    shards = _shards(axis_name)
    total = shards * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    keep = max(1, int(np.rint(total * (1.0 - sparsity)))) if total else 0
    return masks_keeping(tree, keep, normalize=normalize, axis_name=axis_name)


def masks_keeping(
    tree: Any, keep: Any, *, normalize: str | None = None, axis_name: Any = None
) -> Any:
    """`global_masks` by the number of weights to keep in all, which may be traced."""
    if normalize not in NORMS:
        raise ValueError(f"normalize must be None, 'l2' or 'rms', got {normalize!r}")
    leaves, treedef = jax.tree.flatten(tree)
    total = _shards(axis_name) * sum(math.prod(leaf.shape) for leaf in leaves)
    if total >= 2**31:
        raise ValueError(f"tree must have fewer than 2^31 elements in all, got {total}")
    if not leaves:
        return tree
    on_device = any(isinstance(x, jax.Array) for x in [*leaves, keep])
    xp = jnp if on_device or axis_name is not None else np
    rows = [xp.asarray(leaf).reshape(1, -1) for leaf in leaves]
    for row in rows:
        select.check_items(row)
    keep = xp.asarray(keep, dtype=np.int32)
    if axis_name is None:
        bits = _joint_bits(xp, rows, keep, normalize)
    else:
        bits = _mesh_bits(rows, keep, normalize, axis_name, total)
    masks = [BitMask(b, tuple(leaf.shape)) for b, leaf in zip(bits, leaves, strict=True)]
    return jax.tree.unflatten(treedef, masks)


def _joint_bits(xp, rows: list, keep, normalize: str | None) -> list:
    """The bits of every row, by one op."""
    scale = xp.ones((1, len(rows)), np.float32)
    if normalize is not None:
        scale = xp.concatenate([_scale(xp, row, normalize, lambda x: x) for row in rows])[None]
    if len({row.dtype for row in rows}) > 1:
        rows = [row.astype(np.float32, copy=False) for row in rows]
    bits = select.joint_top_k_mask(keep.reshape(1), scale, *rows)
    return [b[0] for b in (bits if isinstance(bits, tuple) else (bits,))]


def _mesh_bits(rows: list, keep, normalize: str | None, axis_name, total: int) -> list:
    """The bits of every row here, by counts over the mesh."""
    total_of = lambda x: jax.lax.psum(x, axis_name)
    if normalize is None:
        scales = [jnp.ones((1,), np.float32)] * len(rows)
    else:
        scales = [_scale(jnp, row, normalize, total_of) for row in rows]
    selection = _Selection(rows, scales, total_of)
    key, left, equal = selection.search(keep, selection.sampled_range(keep, total))
    # At keep 0 the key is beyond all: nothing is marked.
    key = jnp.where(keep > 0, key, np.int32(0x7FFFFFF0))
    bits = []
    before = _equal_before(equal, axis_name)
    for row, scale, found, earlier in zip(rows, scales, equal, before, strict=True):
        ties = jnp.clip(left - earlier, 0, found)
        # All equal ones: mark from the key before, which needs no order.
        whole = (ties == found) & (keep > 0)
        threshold = jnp.where(whole, key - 1, key).astype(np.int32).reshape(1)
        ties = jnp.where(whole, 0, ties).astype(np.int32).reshape(1)
        bits.append(histogram.threshold_mask(row, scale, threshold, ties)[0])
    return bits


class _Selection:
    """The counts of all leaves and shards together."""

    def __init__(self, rows: list, scales: list, total_of: Callable):
        self.rows, self.scales, self.total_of = rows, scales, total_of

    def counts(self, rows, lo, shift):
        """(above i32[], bins i32[4096] of all, [i32[4096] of each leaf here])."""
        span = jnp.stack([lo, shift]).astype(np.int32).reshape(1, 2)
        each = [
            histogram.key_histogram(row, scale, span)
            for row, scale in zip(rows, self.scales, strict=True)
        ]
        above = sum(a[0] for a, _ in each)
        bins = sum(b[0] for _, b in each)
        return self.total_of(above), self.total_of(bins), [b[0] for _, b in each]

    def sampled_range(self, keep, total: int):
        """(lo, shift) of the keys among which, by a sample, the smallest kept one is."""
        lo, shift = (jnp.asarray(v, dtype=np.int32) for v in ALL_KEYS)
        stride = max(1, total // SAMPLED)
        if stride == 1:
            return lo, shift
        sample = [row[:, stride // 2 :: stride] for row in self.rows]
        share = keep.astype(np.float32) / np.float32(total)
        n = None
        # All keys, in which bins are coarse, and where that pays those of a few bins.
        for _ in range(2 if total >= _LARGE else 1):
            above, bins, _ = self.counts(sample, lo, shift)
            at_least = jnp.cumsum(bins[::-1])[::-1] + above  # keys in this bin or beyond
            n = jnp.maximum(at_least[0], 1).astype(np.float32) if n is None else n
            rank, margin = share * n, 6 * jnp.sqrt(n * share * (1 - share)) + 8
            # The lowest and the highest bin that may hold it.
            low = jnp.maximum((at_least >= rank + margin).sum() - 1, 0)
            high = jnp.maximum((at_least >= jnp.maximum(rank - margin, 1)).sum() - 1, low)
            width = high - low + 1
            bits = sum((width > (1 << b)).astype(np.int32) for b in range(_SHIFT_BITS))
            lo = (lo + (low << shift)).astype(np.int32)
            shift = jnp.maximum(shift + bits - _SHIFT_BITS, 0).astype(np.int32)
        return lo, shift

    def search(self, keep, first):
        """(key of the smallest element kept, how many with it, [how many each leaf here has])."""
        rest = [jnp.zeros((), np.int32) for _ in range(2)]
        each = [self._varying(row) for row in self.rows]
        state = (*first, jnp.asarray(False), *rest, each)
        state = jax.lax.while_loop(
            lambda s: ~s[2], lambda s: self._narrowed(keep, s), self._narrowed(keep, state)
        )
        return state[3], state[4], state[5]

    def _varying(self, row):
        """0 as i32[], that differs over the mesh as the row does."""
        return (row[0, :1] != row[0, :1]).sum(dtype=np.int32) * 0

    def _narrowed(self, keep, state):
        """One count of all elements, and the range it leaves: a key, a bin, or all keys again."""
        lo, shift, *_ = state
        above, bins, each = self.counts(self.rows, lo, shift)
        at_least = jnp.cumsum(bins[::-1])[::-1] + above
        inside = (above < keep) & (at_least[0] >= keep)
        bin = jnp.maximum((at_least >= keep).sum() - 1, 0).astype(np.int32)
        done = (inside | (keep <= 0)) & (shift == 0)
        left = keep - (at_least[bin] - bins[bin])
        finer = jnp.maximum(shift - _SHIFT_BITS, 0)
        inside = inside | (keep <= 0)
        new_lo = jnp.where(inside, lo + (bin << shift), ALL_KEYS[0]).astype(np.int32)
        new_shift = jnp.where(inside, finer, ALL_KEYS[1]).astype(np.int32)
        equal = [own[bin] for own in each]
        return new_lo, new_shift, done, new_lo, left.astype(np.int32), equal


def _shards(axis_name) -> int:
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def _scale(xp, row, normalize: str, total_of: Callable):
    """f32[1]: 1 over the leaf's norm, at most 2^126; 1 where all squares are 0 in f32."""
    x = row.astype(np.float32)
    squares = total_of(xp.where(xp.isfinite(x), x * x, np.float32(0)).sum(dtype=np.float32))
    if normalize == "rms":
        n = total_of(xp.asarray(row.shape[1], dtype=np.float32))
        squares = squares / xp.maximum(n, np.float32(1))
    norm = xp.minimum(xp.sqrt(squares), np.float32(2.0**126))
    return xp.where(norm > 0, 1 / xp.where(norm > 0, norm, 1), 1).astype(np.float32).reshape(1)


def _equal_before(equal: list, axis_name) -> list:
    """How many elements with the key come before each leaf's here: leaves, then shards."""
    shards, me = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)
    own = jnp.zeros((shards, len(equal)), jnp.int32).at[me].set(jnp.stack(equal))
    everyone = jax.lax.psum(own, axis_name)
    counts = everyone.sum(axis=0)
    leaves = jnp.cumsum(counts) - counts
    earlier = jnp.where(jnp.arange(shards)[:, None] < me, everyone, 0).sum(axis=0)
    return list(leaves + earlier)
