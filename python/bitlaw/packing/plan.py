"""Where each sequence goes, from lengths alone."""

from __future__ import annotations

import dataclasses
import operator

import numpy as np

from bitlaw.ops import pack


@dataclasses.dataclass(frozen=True)
class Plan:
    """Pieces of sequences and their places in rows of `capacity` tokens.

    Attributes:
        capacity: tokens per row.
        source: i64[pieces], the first token of each piece in the concatenated sequences.
        length: i64[pieces], its tokens.
        row, start: i64[pieces], its row and its first position there.
        split: how many sequences were split.
    """

    capacity: int
    source: np.ndarray
    length: np.ndarray
    row: np.ndarray
    start: np.ndarray
    split: int

    @property
    def rows(self) -> int:
        return int(self.row.max(initial=-1)) + 1

    @property
    def fill(self) -> float:
        """Share of the rows' tokens that are not padding."""
        return float(self.length.sum() / max(self.rows * self.capacity, 1))


def plan(lengths, capacity: int, *, overflow: str = "error") -> Plan:
    """First-fit-decreasing plan: longest first, each into the first row with room. Deterministic.

    Args:
        lengths: tokens per sequence, each at least 1.
        capacity: tokens per row.
        overflow: of sequences longer than a row: "error", or "split" into pieces of one row each
            (the last one shorter).

    Raises:
        ValueError: a length below 1, or above the capacity under "error".
    """
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or (lengths.dtype.kind not in "iu" and lengths.size):
        raise ValueError(f"lengths must be integers [n], got {lengths.dtype}{list(lengths.shape)}")
    capacity, lengths = operator.index(capacity), lengths.astype(np.int64)
    if overflow not in ("error", "split"):
        raise ValueError(f"overflow must be error or split, got {overflow!r}")
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1, got {capacity}")
    longest = 1 if not lengths.size else int(lengths.max())
    if lengths.size and lengths.min() < 1:
        i = int(lengths.argmin())
        raise ValueError(f"lengths must be at least 1, got {lengths[i]} at {i}")
    if overflow == "error" and longest > capacity:
        i = int(lengths.argmax())
        raise ValueError(
            f"lengths must be at most the capacity {capacity} (or overflow='split'), "
            f"got {longest} at {i}"
        )
    # Every sequence in pieces of at most one row.
    pieces = -(-lengths // capacity)
    first = np.cumsum(lengths) - lengths
    nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    source = np.repeat(first, pieces) + nth * capacity
    length = np.minimum(np.repeat(lengths, pieces) - nth * capacity, capacity)
    row, start = pack.first_fit_decreasing(length, capacity=capacity)
    return Plan(capacity, source, length, row, start, int((pieces > 1).sum()))
