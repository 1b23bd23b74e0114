"""Attention masks, block ranges and per-document means of packed rows, for jitted code."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bitlaw.packing.plan import as_array, positive


def attention_mask(segment_ids, *, causal: bool = True) -> jax.Array:
    """Whether query l may look at key m: inside one segment, and not ahead of itself if causal.

        mask[..., l, m] = segment[l] = segment[m] > 0  and  (m <= l or not causal)

    Args:
        segment_ids: i32[..., L], padding 0

    Returns:
        bool[..., L, L]; a padding query sees nothing
    """
    segment = _segments(segment_ids)
    mask = (segment[..., :, None] == segment[..., None, :]) & (segment[..., :, None] > 0)
    if causal:
        at = jnp.arange(segment.shape[-1])
        mask &= at[:, None] >= at
    return mask


def block_ranges(segment_ids, block: int, *, causal: bool = True) -> tuple[jax.Array, jax.Array]:
    """Which key blocks a flash-style kernel has to visit for each block of queries.

    Key blocks outside [begin, end) hold no key that any query of the block may look at; those
    inside may still need the mask. O(L), without making the mask.

    Args:
        segment_ids: i32[..., L], each segment contiguous, padding 0
        block: queries, and keys, per block; must divide L.

    Returns:
        begin, end: i32[..., L / block]; both 0 where all queries are padding
    """
    segment = _segments(segment_ids)
    block = positive("block", block)
    length = segment.shape[-1]
    if length % block:
        raise ValueError(
            f"block must divide axis {segment.ndim - 1} of segment_ids, got {block} and "
            f"{segment.shape}"
        )
    at = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), segment.shape)
    axis = segment.ndim - 1
    edge = jnp.ones((*segment.shape[:-1], 1), bool)
    change = segment[..., 1:] != segment[..., :-1]
    first = jax.lax.cummax(jnp.where(jnp.concatenate([edge, change], -1), at, 0), axis)
    last = at
    if not causal:
        ends = jnp.where(jnp.concatenate([change, edge], -1), at, length)
        last = jax.lax.cummin(ends, axis, reverse=True)
    real = segment > 0
    blocks = (*segment.shape[:-1], length // block, block)
    begin = jnp.where(real, first, length).reshape(blocks).min(-1) // block
    end = jnp.where(real, last, -1).reshape(blocks).max(-1) // block + 1
    any_real = real.reshape(blocks).any(-1)
    return jnp.where(any_real, begin, 0), jnp.where(any_real, end, 0)


def _segments(given) -> jax.Array:
    segment = given if isinstance(given, jax.Array) else as_array("segment_ids", "an array", given)
    if segment.ndim < 1 or segment.dtype.kind not in "iu":
        raise ValueError(
            f"segment_ids must be i32[..., L], got {segment.dtype}{list(segment.shape)}"
        )
    return jnp.asarray(segment)


def segment_means(losses, weights, segment_ids, segments: int) -> tuple[jax.Array, jax.Array]:
    """The mean loss of each document, and the weight it rests on.

        mean[b, s] = sum of weights losses over segment s + 1 / sum of its weights, 0 without any

    `means.sum() / (weight > 0).sum()` gives every document the same say, whatever its length.

    Args:
        losses, weights: f32[rows, L]; a loss of weight 0 may be anything, NaN included
        segment_ids: i32[rows, L]
        segments: S, the most segments of a row.

    Returns:
        mean: f32[rows, S], weight: f32[rows, S]
    """
    weights = jnp.asarray(weights, jnp.float32)
    counted = jnp.where(weights == 0, 0, weights * jnp.asarray(losses, jnp.float32))
    member = jnp.asarray(segment_ids)[..., None] == jnp.arange(1, segments + 1)
    total = jnp.where(member, counted[..., None], 0).sum(-2)
    weight = jnp.where(member, weights[..., None], 0).sum(-2)
    return total / jnp.where(weight == 0, 1, weight), weight
