"""Proof that a batch is packed as it says, or where it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from bitlaw.packing.plan import as_array, kind_of


def verify(batch, *, name: str = "tokens", sequences=None) -> None:
    """Proves that a packed batch keeps its documents apart.

    Segments are numbered from 1 without gap or return, each contiguous; positions count from 0 in
    each; padding is 0 in every array; no target is padding, of another segment than its input, or
    other than the next token; boundaries agree with the segments.

    Args:
        batch: rows of `materialize`, or inputs and targets of `shift` (the target of a row's last
            position is not among the inputs, and is taken as it is).
        name: of the arrays of `materialize`.
        sequences: the documents, if they are to be in the rows once each, whole.

    Raises:
        ValueError: what is wrong, with the row and column where it first is.
    """
    if not isinstance(batch, Mapping):
        raise ValueError(f"batch must be a mapping of arrays, got {kind_of(batch)}")
    shifted = f"{name}_segment_ids" not in batch
    if shifted:
        tokens, prefix = "inputs", ""
    else:
        tokens, prefix = name, f"{name}_"
    arrays = {}
    for key in (tokens, f"{prefix}segment_ids", f"{prefix}positions"):
        if key not in batch:
            raise ValueError(f"batch must have {key}, got {sorted(batch)}")
        arrays[key] = as_array(key, "an array", batch[key])
    values, segments, positions = arrays.values()
    for key in (f"{prefix}segment_ids", f"{prefix}positions"):
        array = arrays[key]
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise ValueError(
                f"{key} must be integers [rows, n], got {array.dtype}{list(array.shape)}"
            )
    for key, array in [*arrays.items(), *_others(batch, shifted, name)]:
        if array.shape[:2] != segments.shape:
            raise ValueError(f"{key} must be {list(segments.shape)}, got {list(array.shape)}")
    checks = [_segments(segments), _positions(segments, positions)]
    checks.append(_padding(values, segments, tokens))
    if shifted:
        checks.append(_targets(batch, values, segments))
    else:
        checks.append(_loss_mask(batch, name, segments, positions))
    places = [(int(bad.argmax()), reason) for check in checks for reason, bad in check if bad.any()]
    if places:
        at, reason = min(places, key=lambda place: place[0])
        row, column = divmod(at, segments.shape[1])
        raise ValueError(f"row {row}, column {column}: {reason}")
    if not shifted:
        _cu_seqlens(batch, name, segments)
    if sequences is not None:
        _sequences(values, segments, sequences)


Check = Iterator[tuple[str, np.ndarray]]


def _others(batch, shifted: bool, name: str):
    keys = ("targets", "weights") if shifted else (f"{name}_loss_mask",)
    for key in keys:
        if key in batch:
            yield key, np.asarray(batch[key])
        elif shifted:
            raise ValueError(f"batch must have {key}, got {sorted(batch)}")


def _before(array, edge: int):
    return np.concatenate([np.full((len(array), 1), edge, array.dtype), array[:, :-1]], axis=1)


def _segments(segments) -> Check:
    before = _before(segments, 0)
    so_far = np.maximum.accumulate(before, axis=1) if segments.shape[1] else before
    new = (segments > 0) & (segments != before)
    yield "a segment id is negative", segments < 0
    yield "a segment comes back after another, or after padding", new & (segments <= so_far)
    yield "a segment's number is not the next", new & (segments > so_far + 1)


def _positions(segments, positions) -> Check:
    starts = (segments > 0) & (segments != _before(segments, 0))
    inside = (segments > 0) & ~starts
    yield "a segment's first position is not 0", starts & (positions != 0)
    yield (
        "a position is not one more than the last",
        (inside & (positions != _before(positions, 0) + 1)),
    )
    yield "a position of padding is not 0", (segments == 0) & (positions != 0)


def _padding(values, segments, tokens: str) -> Check:
    filled = (values != 0).any(tuple(range(2, values.ndim)))
    yield f"{tokens} holds a token where the segment id says padding", (segments == 0) & filled


def _loss_mask(batch, name: str, segments, positions) -> Check:
    mask = np.asarray(batch.get(f"{name}_loss_mask", np.zeros(segments.shape, bool)))
    yield "the loss counts padding", (segments == 0) & (mask != 0)
    yield (
        "the loss counts the first token of a segment, which its document does not predict",
        ((segments > 0) & (positions == 0) & (mask != 0)),
    )


def _targets(batch, inputs, segments) -> Check:
    targets, weights = np.asarray(batch["targets"]), np.asarray(batch["weights"])
    yield "the loss counts padding", (segments == 0) & (weights != 0)
    yield "a weight is negative or not finite", ~((weights >= 0) & np.isfinite(weights))
    counted = weights[:, :-1] > 0
    crosses, other = np.zeros((2, *segments.shape), bool)
    crosses[:, :-1] = counted & (segments[:, :-1] != segments[:, 1:])
    other[:, :-1] = counted & (targets[:, :-1] != inputs[:, 1:])
    yield "a target belongs to another document than its input, or to padding", crosses
    yield "a target is not the next input", other


def _cu_seqlens(batch, name: str, segments) -> None:
    starts = (segments > 0) & (segments != _before(segments, 0))
    for key in (f"{name}_cu_seqlens", f"{name}_cu_seqlens_padded"):
        if key not in batch:
            continue
        got = np.asarray(batch[key])
        for row in range(len(segments)):
            begin = np.flatnonzero(starts[row])
            count = np.bincount(segments[row], minlength=len(begin) + 1)[1:]
            if key.endswith("padded"):
                want = np.append(begin, begin[-1] + count[-1] if len(begin) else 0)
            else:
                want = np.append(0, np.cumsum(count))
            want = np.append(want, np.full(max(got.shape[1] - len(want), 0), want[-1]))
            if len(want) != got.shape[1] or (got[row] != want).any():
                column = int(np.argmax(got[row] != want)) if len(want) == got.shape[1] else 0
                raise ValueError(
                    f"row {row}, column {column} of {key}: the segments say {want.tolist()}, "
                    f"got {got[row].tolist()}"
                )


def _sequences(values, segments, sequences) -> None:
    missing = Counter(np.ascontiguousarray(s).astype(values.dtype).tobytes() for s in sequences)
    for row, ids in enumerate(segments):
        for column in np.flatnonzero((ids > 0) & (ids != _before(ids[None], 0)[0])):
            found = values[row][ids == ids[column]].tobytes()
            if not missing[found]:
                raise ValueError(
                    f"row {row}, column {column}: segment {ids[column]} is none of the sequences, "
                    "or is in the rows once too often"
                )
            missing[found] -= 1
    if left := sum(missing.values()):
        raise ValueError(f"the rows must hold every sequence, got {left} of them in none")
