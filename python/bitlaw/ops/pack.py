"""Placing sequences in rows, from their lengths alone, on the host."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.op import Shape, op


def _out(lengths, *, capacity):
    if lengths.ndim != 1 or str(lengths.dtype) != "int64":
        raise ValueError(f"lengths must be i64[n], got {lengths.dtype}{list(lengths.shape)}")
    if not 1 <= capacity < 2**62:
        raise ValueError(f"capacity must be in [1, 2^62), got {capacity}")
    return Shape(lengths.shape, np.int64), Shape(lengths.shape, np.int64)


def _examples(rng):
    yield (np.array([], np.int64),), {"capacity": 8}
    yield (np.array([3, 5, 8, 1, 1, 7, 2]),), {"capacity": 8}
    yield (rng.integers(1, 129, 700),), {"capacity": 128}
    yield (rng.geometric(0.02, 500).clip(1, 200),), {"capacity": 200}


@op(out=_out, examples=_examples, host=True)
def first_fit_decreasing(lengths, *, capacity: int):
    """Where each sequence goes: longest first, each into the first row with room for it.

    Equal lengths go in their given order. Uses at most 11/9 OPT + 6/9 rows (Dosa, 2007).

    Args:
        lengths: i64[n], each in [1, capacity]
        capacity: tokens per row.

    Returns:
        row: i64[n], start: i64[n], the sequence's row and its first position there
    """
    row, start = np.zeros_like(lengths), np.zeros_like(lengths)
    used = np.zeros(0, np.int64)
    for i in np.argsort(-lengths, kind="stable"):
        fits = np.flatnonzero(used + lengths[i] <= capacity)
        if not fits.size:
            used = np.append(used, 0)
        row[i] = fits[0] if fits.size else used.size - 1
        start[i] = used[row[i]]
        used[row[i]] += lengths[i]
    return row, start
