"""Rows of a plan, and the targets of the next-token loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bitlaw.ops import pack
from bitlaw.packing.plan import Plan, kind_of


def materialize(plan, tokens, *, loss_mask=None, name: str = "tokens") -> dict[str, np.ndarray]:
    """The plan's rows.

    Args:
        plan: where each piece goes; or a plan of each feature, `tokens` and `loss_mask` then being
            mappings too, and a feature's arrays named after it.
        tokens: the sequences, a list of arrays [n, ...] in the order of the plan's lengths; or one
            array of all of them, concatenated.
        loss_mask: of the same form, bool; False where the loss must not count a token (a prompt's).
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
        for given, of in [("tokens", tokens), ("loss_mask", loss_mask)]:
            if not isinstance(of, Mapping) and (of is not None or given == "tokens"):
                raise ValueError(f"{given} must map features, as the plan does, got {kind_of(of)}")
        if missing := plan.keys() - tokens.keys():
            raise ValueError(f"tokens must have {sorted(missing)}, got {sorted(tokens)}")
        for of, each in plan.items():
            mask = None if loss_mask is None else loss_mask.get(of)
            arrays |= materialize(each, tokens[of], loss_mask=mask, name=of)
        return arrays
    if not isinstance(plan, Plan):
        raise ValueError(f"plan must be a packing.Plan or a mapping of them, got {kind_of(plan)}")
    parts, lengths = _parts("tokens", tokens)
    if lengths.sum() != plan.tokens:
        raise ValueError(
            f"tokens must be [{plan.tokens}], the sum of the plan's lengths, got {lengths.sum()}"
        )
    loss = []
    if loss_mask is not None:
        loss, lengths_of_loss = _parts("loss_mask", loss_mask)
        if loss[0].dtype != bool or not np.array_equal(lengths, lengths_of_loss):
            raise ValueError(
                f"loss_mask must be bool[{lengths.sum()}] in the same arrays as tokens, "
                f"{len(parts)}, got {loss[0].dtype}[{lengths_of_loss.sum()}] in {len(loss)}"
            )
    if len(parts) > 1 and plan.sequence.max(initial=-1) >= len(parts):
        raise ValueError(
            f"tokens must be one array or an array of each sequence, got {len(parts)} arrays"
        )
    # Of one array, a piece's source is where it is; of many, it counts from its sequence's array.
    part = np.zeros_like(plan.sequence) if len(parts) == 1 else plan.sequence
    source = plan.source - (np.cumsum(lengths) - lengths)[part]
    return fill(plan, parts, part, source, loss=loss, name=name)


def _parts(name: str, given) -> tuple[list[np.ndarray], np.ndarray]:
    """What is given as a list of arrays, of one where it is an array, and their lengths."""
    if isinstance(given, list | tuple) and given:
        first = given[0]
        if not np.isscalar(first) and getattr(first, "ndim", 1):
            return arrays(name, given)
    return arrays(name, [given])


def arrays(name: str, given: Sequence) -> tuple[list[np.ndarray], np.ndarray]:
    """Arrays [n, ...] of one kind, and their lengths; an error that names them if they are not."""
    try:
        parts = [*map(np.asarray, given)]
        if parts and parts[0].dtype.hasobject:
            raise ValueError(f"got {kind_of(given[0])}")
        return parts, pack.part_lengths(parts)
    except ValueError as error:
        raise ValueError(f"{name} must be arrays [n, ...] of one kind: {error}") from None


def fill(plan, parts: list, part, source, *, loss: list = (), name: str) -> dict[str, np.ndarray]:
    """The plan's rows, as of `materialize`, of tokens that lie in a list of arrays of one kind.

    Args:
        part, source: i64[pieces], the array that a piece is of, and its first token there.
        loss: no arrays, or as many, bool, as `parts`.
    """
    most = plan.max_segments
    if most is None:
        most = int(np.bincount(plan.row.clip(0, plan.rows), minlength=1).max())
    out, segments, positions, loss, sums, starts = pack.fill_rows.numpy(
        parts,
        list(loss),
        part,
        source,
        plan.length,
        plan.row,
        plan.start,
        rows=plan.rows,
        capacity=plan.capacity,
        max_segments=most,
    )
    kind, inner = parts[0].dtype, parts[0].shape[1:]
    return {
        name: out.view(kind).reshape(plan.rows, plan.capacity, *inner),
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
    for key in (name, f"{name}_segment_ids", f"{name}_positions"):
        if not isinstance(rows, Mapping) or not hasattr(rows.get(key), "shape"):
            got = sorted(rows) if isinstance(rows, Mapping) else kind_of(rows)
            raise ValueError(f"rows must have an array {key}, got {got}")
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
