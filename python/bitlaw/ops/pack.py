"""Placing sequences in rows, from their lengths alone, and filling the rows; on the host."""

from __future__ import annotations

import math

import numpy as np

from bitlaw.ops.op import Shape, op

ALGORITHMS = (
    "next_fit",
    "first_fit",
    "best_fit",
    "first_fit_decreasing",
    "best_fit_decreasing",
    "wrap",
)


def _fit_out(lengths, capacity, *, algorithm, max_segments, align):
    if lengths.ndim != 2 or str(lengths.dtype) != "int64":
        raise ValueError(
            f"lengths must be i64[n, features], got {lengths.dtype}{list(lengths.shape)}"
        )
    if capacity.shape != lengths.shape[1:] or str(capacity.dtype) != "int64" or not capacity.size:
        raise ValueError(
            f"capacity must be i64[features] with a feature at least, one per column of lengths, "
            f"got {capacity.dtype}{list(capacity.shape)} for {list(lengths.shape)}"
        )
    if len(lengths) >= 2**31:
        raise ValueError(f"lengths must be fewer than 2^31, got {len(lengths)}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    most = 2**24 if algorithm.startswith("best_fit") else 2**30 - 1
    if capacity.min() < 1 or capacity.max() > most:
        raise ValueError(f"capacity must be in [1, {most}] for {algorithm}, got {capacity}")
    if max_segments < 0:
        raise ValueError(f"max_segments must be positive, or 0 for no limit, got {max_segments}")
    if not 1 <= align < 2**30:
        raise ValueError(f"align must be in [1, 2^30), got {align}")
    if algorithm == "wrap" and capacity.size > 1:
        raise ValueError(f"wrap takes one feature, got {capacity.size}")
    return Shape(lengths.shape[:1], np.int64), Shape(lengths.shape, np.int64)


def _fit_examples(rng):
    by_hand = np.array([3, 5, 8, 1, 1, 7, 2])[:, None]
    even, skewed = rng.integers(1, 129, (500, 1)), rng.geometric(0.05, (400, 1)).clip(1, 128)
    two = np.stack([rng.integers(1, 100, 250), rng.integers(1, 40, 250)], axis=1)
    for algorithm in ALGORITHMS:
        for max_segments, align in [(0, 1), (3, 1), (0, 8), (2, 16)]:
            attributes = {"algorithm": algorithm, "max_segments": max_segments, "align": align}
            yield (np.zeros((0, 1), np.int64), np.array([8])), attributes
            yield (by_hand, np.array([8])), attributes
            yield (skewed, np.array([128])), attributes
            if algorithm != "wrap":
                yield (two, np.array([128, 48])), attributes
        yield (even, np.array([128])), attributes | {"max_segments": 0, "align": 1}
        yield (even, np.array([1 << 20])), attributes | {"max_segments": 5, "align": 1}


@op(out=_fit_out, examples=_fit_examples, host=True)
def fit_rows(lengths, capacity, *, algorithm: str, max_segments: int, align: int):
    """Where each sequence goes.

        next_fit: into the last row, or a new one.
        first_fit: into the first row with room, or a new one.
        best_fit: into the row with least room (of the first feature) that has room; among equals
            the one placed into last.
        first_fit_decreasing, best_fit_decreasing: the same, longest first, in the given order among
            equals. Both use at most 11/9 OPT + 6/9 rows (first fit: Dosa, 2007; best fit: Johnson,
            1974, with another constant). Of several features the largest share of a capacity
            counts.
        wrap: one after the other; a sequence that reaches the end of its row goes on in the next.

    A row has room for a sequence if it has it in every feature, and fewer than max_segments.
    O(n log n) for one feature. Several features make first_fit leap from one feature's next row to
    the other's, and best_fit try the rows in their order: O(n rows) where these disagree.

    Args:
        lengths: i64[n, features], each in [1, capacity of the feature]; any from 1 for wrap.
        capacity: i64[features], tokens per row.
        max_segments: sequences per row, 0 for no limit.
        align: every sequence starts at a multiple of this.

    Returns:
        row: i64[n], start: i64[n, features], the sequence's row and its first positions there
    """
    n, features = lengths.shape
    row, start = np.zeros(n, np.int64), np.zeros_like(lengths)
    if algorithm == "wrap":
        return _wrap(lengths, capacity, max_segments, align)
    order = range(n)
    if algorithm.endswith("decreasing"):
        order = np.argsort(-(lengths / capacity).max(1), kind="stable")
    used = np.zeros((0, features), np.int64)  # aligned, per row
    segments, touched = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for now, i in enumerate(order):
        has_room = (used + lengths[i] <= capacity).all(1)
        if max_segments:
            has_room &= segments < max_segments
        if algorithm == "next_fit":
            has_room[:-1] = False
        fits = np.flatnonzero(has_room)
        if not fits.size:
            r = len(used)
            used = np.concatenate([used, np.zeros((1, features), np.int64)])
            segments, touched = np.append(segments, 0), np.append(touched, now)
        elif algorithm.startswith("best_fit"):
            r = fits[np.lexsort((-touched[fits], -used[fits, 0]))[0]]
        else:
            r = fits[0]
        row[i], start[i] = r, used[r]
        used[r] += -(-lengths[i] // align) * align
        segments[r] += 1
        touched[r] = now
    return row, start


def _wrap(lengths, capacity, max_segments, align):
    row, start = np.zeros(len(lengths), np.int64), np.zeros_like(lengths)
    at = segments = 0  # rows laid end to end; segments of the row that `at` is in
    for i, length in enumerate(lengths[:, 0]):
        if max_segments and segments == max_segments:
            at = -(-at // capacity[0]) * capacity[0]
        if at % capacity[0] == 0:
            segments = 0
        row[i], start[i] = divmod(at, capacity[0])
        over = (start[i, 0] + length - 1) // capacity[0]
        segments = 1 if over else segments + 1
        within = start[i, 0] + length - over * capacity[0]
        within = min(-(-within // align) * align, capacity[0])
        at = (row[i] + over) * capacity[0] + within
    return row, start


def _lengths_out(parts):
    return (Shape((len(parts),), np.int64),)


def _lengths_examples(rng):
    for counts in [], [0], [3, 0, 7]:
        yield ([rng.random((n, 2), np.float32) for n in counts],), {}


@op(out=_lengths_out, examples=_lengths_examples, host=True)
def part_lengths(parts):
    """How many items each array of a list has, i64[parts]; proof that they are of one kind.

    Args:
        parts: a list of arrays [n, ...] that differ in n only; anything else is an error in the
            kernel.
    """
    return np.array([len(part) for part in parts], np.int64)


def _fill_out(tokens, loss, part, source, length, row, start, *, rows, capacity, max_segments):
    if not isinstance(tokens, list) or not tokens:
        raise ValueError(f"tokens must be a list of one array at least, got {type(tokens)}")
    if not isinstance(loss, list) or len(loss) not in (0, len(tokens)):
        raise ValueError(f"loss must be a list of 0 or {len(tokens)} arrays, got {type(loss)}")
    for name, of in [("part", part), ("source", source), ("row", row), ("start", start)]:
        if of.shape != length.shape or of.ndim != 1 or of.dtype != np.int64:
            raise ValueError(f"{name} must be i64{list(length.shape)}, got {of.dtype}{of.shape}")
    for name, value in [("rows", rows), ("capacity", capacity), ("max_segments", max_segments)]:
        if not 0 <= value < 2**31 - 1:
            raise ValueError(f"{name} must be in [0, 2^31 - 1), got {value}")
    return (
        Shape((rows, capacity * _width(tokens)), np.uint8),
        Shape((rows, capacity), np.int32),
        Shape((rows, capacity), np.int32),
        Shape((rows, capacity), np.uint8),
        Shape((rows, max_segments + 1), np.int32),
        Shape((rows, max_segments + 1), np.int32),
    )


def _width(tokens) -> int:
    first = np.asarray(tokens[0])
    return first.itemsize * math.prod(first.shape[1:])


def _fill_examples(rng):
    for n, capacity, width, align, spare in [
        (0, 8, 4, 1, 0), (5, 16, 2, 4, 3), (60, 64, 4, 1, 0), (400, 512, 1, 8, 2),
    ]:  # fmt: skip
        length = rng.integers(1, capacity // 2 + 1, n)
        fit = {"algorithm": "best_fit_decreasing", "max_segments": 0, "align": align}
        row, start = fit_rows.definition(length[:, None], np.array([capacity]), **fit)
        tokens = rng.integers(0, 256, (int(length.sum()) + 1, width)).astype(np.uint8)
        loss = rng.integers(0, 2, len(tokens)).astype(np.uint8)
        most = int(np.bincount(row, minlength=1).max())
        attributes = {"rows": int(row.max(initial=-1)) + 1 + spare, "capacity": capacity}
        attributes |= {"max_segments": most + spare}
        ends, places = np.cumsum(length), (length, row, start[:, 0])
        part, source = np.zeros((2, n), np.int64)
        yield ([tokens], [loss], part, ends - length, *places), attributes
        several = np.split(tokens, ends), np.split(loss, ends)
        yield (*several, np.arange(n), source, *places), attributes
        yield (several[0], [], np.arange(n), source, *places), attributes


@op(out=_fill_out, examples=_fill_examples, host=True)
def fill_rows(
    tokens, loss, part, source, length, row, start, *, rows: int, capacity: int, max_segments: int
):
    """The rows of a plan.

    Args:
        tokens: a list of arrays [n, ...] of one kind
        loss: of as many arrays u8[n], 1 where the loss may count a token; or of none, for
            everywhere
        part, source: i64[pieces], which array a piece is of, and its first token there
        length, row, start: i64[pieces], as of `packing.Plan`; pieces that overlap or reach out of a
            row or of their array are an error in the kernel.

    Returns:
        out: u8[rows, capacity * width], the bytes of the tokens, padding 0
        segment: i32[rows, capacity], from 1 in each row by position, padding 0
        position: i32[rows, capacity], from 0 in each segment
        out_loss: u8[rows, capacity], 0 on padding and on the first token of each segment, which
            nothing of its segment predicts
        cu_seqlens: i32[rows, max_segments + 1], the lengths of a row's segments summed up from 0
        cu_seqlens_padded: the same shape, the segments' starts, then the end of the last

    Where a row has fewer segments than max_segments, the last value is repeated.
    """
    out = np.zeros((rows, capacity, _width(tokens)), np.uint8)
    segment, position = np.zeros((2, rows, capacity), np.int32)
    out_loss = np.zeros((rows, capacity), np.uint8)
    sums, starts = np.zeros((2, rows, max_segments + 1), np.int32)
    seen = np.zeros(rows, np.int64)
    for i in np.lexsort((start, row)):
        at, r, n = start[i], row[i], length[i]
        of = slice(source[i], source[i] + n)
        seen[r] += 1
        out[r, at : at + n] = tokens[part[i]][of].reshape(n, -1).view(np.uint8)
        segment[r, at : at + n] = seen[r]
        position[r, at : at + n] = np.arange(n)
        out_loss[r, at : at + n] = loss[part[i]][of] if loss else 1
        out_loss[r, at] = 0
        sums[r, seen[r] :] += n
        starts[r, seen[r] - 1] = at
        starts[r, seen[r] :] = at + n
    return out.reshape(rows, capacity * _width(tokens)), segment, position, out_loss, sums, starts
