"""Rows of a plan, and the targets of the next-token loss."""

from __future__ import annotations

import numpy as np

from bitlaw.packing.plan import Plan


def materialize(plan: Plan, tokens) -> dict[str, np.ndarray]:
    """The plan's rows.

    Args:
        plan: where each piece goes.
        tokens: [n], all sequences concatenated in the order of the plan's lengths.

    Returns:
        tokens: like tokens [rows, capacity], padding 0
        tokens_segment_ids: i32[rows, capacity], from 1 in each row, padding 0
        tokens_positions: i32[rows, capacity], from 0 in each segment
    """
    tokens = np.asarray(tokens)
    if tokens.shape != (plan.length.sum(),):
        raise ValueError(
            f"tokens must be [{plan.length.sum()}], the sum of the plan's lengths, "
            f"got {list(tokens.shape)}"
        )
    shape = (plan.rows, plan.capacity)
    rows = np.zeros(shape, tokens.dtype)
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)

    # Pieces in the order they lie in; a segment id counts the pieces of its row so far.
    order = np.lexsort((plan.start, plan.row))
    row, length = plan.row[order], plan.length[order]
    first_of_row = np.searchsorted(row, row, side="left")
    segment = np.arange(len(row)) - first_of_row + 1

    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    target = np.repeat(row * plan.capacity + plan.start[order], length) + within
    rows.reshape(-1)[target] = tokens[np.repeat(plan.source[order], length) + within]
    segments.reshape(-1)[target] = np.repeat(segment, length)
    positions.reshape(-1)[target] = within
    return {"tokens": rows, "tokens_segment_ids": segments, "tokens_positions": positions}


def shift(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs and next-token targets; no target is padding or belongs to another segment.

    Args:
        rows: of `materialize`, each [rows, capacity].

    Returns:
        inputs, targets, segment_ids, positions: [rows, capacity - 1]
        weights: f32[rows, capacity - 1], 1 where the target continues the input's segment, else 0
    """
    tokens, segments = rows["tokens"], rows["tokens_segment_ids"]
    inside = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": inside.astype(np.float32),
        "segment_ids": segments[:, :-1],
        "positions": rows["tokens_positions"][:, :-1],
    }
