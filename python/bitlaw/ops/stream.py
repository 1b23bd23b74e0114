"""Placing a stream of sequences in a fixed number of open rows; on the host."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.op import Shape, op


def _out(lengths, state, *, capacity, max_segments, align, rows):
    if lengths.ndim != 1 or str(lengths.dtype) != "int64":
        raise ValueError(f"lengths must be i64[n], got {lengths.dtype}{list(lengths.shape)}")
    if state.ndim != 2 or state.shape[0] != 3 or str(state.dtype) != "int64" or not state.size:
        raise ValueError(f"state must be i64[3, bins], got {state.dtype}{list(state.shape)}")
    if not 1 <= capacity < 2**30:
        raise ValueError(f"capacity must be in [1, 2^30), got {capacity}")
    if max_segments < 0 or align < 1 or align >= 2**30 or rows < 0:
        raise ValueError(
            "max_segments and rows must not be negative and align be in [1, 2^30), got "
            f"{max_segments}, {rows}, {align}"
        )
    n, bins = len(lengths), state.shape[1]
    return (
        Shape((n,), np.int64),
        Shape((n,), np.int64),
        Shape((n + bins,), np.int64),
        Shape((3, bins), np.int64),
    )


def no_rows(bins: int, capacity: int) -> np.ndarray:
    """The state of `bins` without an open row."""
    return np.repeat(np.array([[capacity], [0], [-1]]), bins, axis=1)


def _examples(rng):
    for n, bins, capacity, max_segments, align in [
        (0, 3, 8, 0, 1), (40, 1, 8, 0, 1), (300, 4, 64, 0, 1), (300, 5, 64, 3, 1),
        (300, 70, 512, 0, 8), (200, 16, 128, 4, 16),
    ]:  # fmt: skip
        lengths = rng.integers(1, capacity + 1, n) // rng.integers(1, 4, n) + 1
        attributes = {"capacity": capacity, "max_segments": max_segments, "align": align}
        state = no_rows(bins, capacity)
        yield (lengths.clip(1, capacity), state), attributes | {"rows": 7}
        *_, state = fit_stream.definition(
            rng.integers(1, capacity // 2 + 1, bins), state, **attributes, rows=0
        )
        yield (lengths.clip(1, capacity), state), attributes | {"rows": 1000}


@op(out=_out, examples=_examples, host=True)
def fit_stream(lengths, state, *, capacity: int, max_segments: int, align: int, rows: int):
    """Where each sequence of a stream goes, and which rows are closed on the way.

    Into the open row with least room that has room for it, the lowest bin among equals; else into
    an empty bin as a new row; else the fullest row is closed and its bin taken. A row without room,
    or with max_segments sequences, is closed at once.

    Args:
        lengths: i64[n], each in [1, capacity]
        state: i64[3, bins]: the room left in each bin, its sequences, the number of its row or -1
        capacity: tokens per row.
        max_segments: sequences per row, 0 for no limit.
        align: every sequence starts at a multiple of this.
        rows: the number of the next row.

    Returns:
        row: i64[n], start: i64[n], the number of the sequence's row and its first position there
        closed: i64[n + bins], the rows closed, in that order, then -1
        state: i64[3, bins]
    """
    room, segments, number = np.array(state)
    row, start, closed = np.zeros_like(lengths), np.zeros_like(lengths), []

    def close(b):
        closed.append(number[b])
        room[b], segments[b], number[b] = capacity, 0, -1

    for i, length in enumerate(lengths):
        fits = np.flatnonzero(room >= length)
        b = fits[np.argmin(room[fits])] if fits.size else np.argmin(room)
        if not fits.size:
            close(b)
        if number[b] < 0:
            number[b] = rows
            rows += 1
        row[i], start[i] = number[b], capacity - room[b]
        room[b] = max(room[b] - -(-length // align) * align, 0)
        segments[b] += 1
        if segments[b] == max_segments or not room[b]:
            close(b)
    spare = np.full(len(lengths) + len(room) - len(closed), -1)
    return row, start, np.append(closed, spare).astype(np.int64), np.stack([room, segments, number])
