"""Rows of a plan, and the targets of the next-token loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bitlaw.ops import pack


def materialize(plan, tokens, *, loss_mask=None, name: str = "tokens") -> dict[str, np.ndarray]:
    """The plan's rows.

    Args:
        plan: where each piece goes; or a plan of each feature, `tokens` and `loss_mask` then being
            mappings too, and a feature's arrays named after it.
        tokens: [n, ...], all sequences concatenated in the order of the plan's lengths.
        loss_mask: bool[n], False where the loss must not count a token (a prompt's).
        name: of the arrays.

    Returns:
        tokens: like tokens [rows, capacity, ...], padding 0
        tokens_segment_ids: i32[rows, capacity], from 1 in each row, padding 0
        tokens_positions: i32[rows, capacity], from 0 in each segment
        tokens_loss_mask: bool[rows, capacity], whether a token is a target: not if it is padding or
            the first of its segment, nor where loss_mask says so
        tokens_cu_seqlens: i32[rows, segments + 1], the lengths of a row's segments summed up; the
            last value is repeated. `segments` is the plan's max_segments, else the most there are.
        tokens_cu_seqlens_padded: the same shape, their starts, then the last one's end; other than
            the sums where `align` leaves gaps.
    """
    if isinstance(plan, Mapping):
        arrays: dict[str, np.ndarray] = {}
        for of, each in plan.items():
            mask = None if loss_mask is None else loss_mask.get(of)
            arrays |= materialize(each, tokens[of], loss_mask=mask, name=of)
        return arrays
    tokens = np.ascontiguousarray(tokens)
    if tokens.ndim < 1 or len(tokens) != plan.tokens:
        raise ValueError(
            f"tokens must be [{plan.tokens}], the sum of the plan's lengths, "
            f"got {list(tokens.shape)}"
        )
    loss = np.zeros(0, np.uint8)
    if loss_mask is not None:
        loss = np.ascontiguousarray(loss_mask)
        if loss.shape != tokens.shape[:1] or loss.dtype != bool:
            raise ValueError(f"loss_mask must be bool[{len(tokens)}], got {loss.dtype}{loss.shape}")
        loss = loss.view(np.uint8)
    inner = tokens.shape[1:]
    width = tokens.itemsize * math.prod(inner)
    most = plan.max_segments
    if most is None:
        most = int(np.bincount(plan.row.clip(0, plan.rows), minlength=1).max())
    out, segments, positions, loss, sums, starts = pack.fill_rows(
        tokens.reshape(-1).view(np.uint8).reshape(len(tokens), width),
        loss,
        plan.source,
        plan.length,
        plan.row,
        plan.start,
        rows=plan.rows,
        capacity=plan.capacity,
        max_segments=most,
    )
    return {
        name: out.view(tokens.dtype).reshape(plan.rows, plan.capacity, *inner),
        f"{name}_segment_ids": segments,
        f"{name}_positions": positions,
        f"{name}_loss_mask": loss.view(bool),
        f"{name}_cu_seqlens": sums,
        f"{name}_cu_seqlens_padded": starts,
    }


def shift(rows: dict[str, np.ndarray], name: str = "tokens") -> dict[str, np.ndarray]:
    """Inputs and next-token targets; no target is padding or belongs to another segment.

    Args:
        rows: of `materialize`, each [rows, capacity].
        name: of the arrays.

    Returns:
        inputs, targets, segment_ids, positions: [rows, capacity - 1]
        weights: f32[rows, capacity - 1], 1 where the target continues the input's segment and its
            loss mask, if there is one, allows it; else 0
    """
    tokens, segments = rows[name], rows[f"{name}_segment_ids"]
    inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    if f"{name}_loss_mask" in rows:
        inside = inside & rows[f"{name}_loss_mask"][:, 1:]
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": inside.astype(np.float32),
        "segment_ids": segments[:, :-1],
        "positions": rows[f"{name}_positions"][:, :-1],
    }
