"""Where each sequence goes, from lengths alone."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping

import numpy as np

from bitlaw.ops import pack
from bitlaw.packing.ranks import BALANCE, by_rank

OVERFLOW = ("error", "drop", "split", "truncate")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Pieces of sequences and their places in rows of `capacity` tokens.

    Attributes:
        capacity: tokens per row.
        rows: how many rows; with `ranks`, row r is step r // ranks of rank r % ranks.
        sequence: i64[pieces], which sequence a piece is of.
        source: i64[pieces], the first token of each piece in the concatenated sequences.
        length: i64[pieces], its tokens.
        row, start: i64[pieces], its row and its first position there.
        tokens: of all sequences, those left out included.
        split, dropped, truncated: how many sequences were.
        max_segments: the most pieces a row was allowed, None for any number.
    """

    capacity: int
    rows: int
    sequence: np.ndarray
    source: np.ndarray
    length: np.ndarray
    row: np.ndarray
    start: np.ndarray
    tokens: int
    split: int = 0
    dropped: int = 0
    truncated: int = 0
    max_segments: int | None = None

    @property
    def lost(self) -> int:
        """Tokens in no row: of dropped sequences, and behind the cut of truncated ones."""
        return self.tokens - int(self.length.sum())

    @property
    def fill(self) -> float:
        """Share of the rows' tokens that are not padding."""
        return float(self.length.sum() / max(self.rows * self.capacity, 1))

    def __str__(self) -> str:
        parts = [f"{len(self.sequence):,} pieces in {self.rows:,} rows of {self.capacity:,} tokens"]
        parts += [f"fill {self.fill:.2%}"]
        for name in ("split", "dropped", "truncated"):
            if count := getattr(self, name):
                parts.append(f"{count:,} {name}")
        if self.lost:
            parts.append(f"{self.lost:,} of {self.tokens:,} tokens lost")
        return ", ".join(parts)


def plan(
    lengths,
    capacity,
    *,
    algorithm: str = "first_fit_decreasing",
    overflow: str = "error",
    max_segments: int | None = None,
    align: int = 1,
    ranks: int = 1,
    balance: str = "tokens",
    seed: int | None = None,
) -> Plan | dict[str, Plan]:
    """A plan of rows. The same arguments give the same plan.

    Args:
        lengths: tokens per sequence, each at least 1. Or, for sequences of several features that
            must share a row (inputs and targets), a mapping feature -> lengths.
        capacity: tokens per row; a mapping for several features.
        algorithm: see `ops.pack.fit_rows`: next_fit, first_fit, best_fit, first_fit_decreasing,
            best_fit_decreasing, or wrap, which splits at the end of every row and so asks for
            overflow="split".
        overflow: of sequences longer than a row: "error"; "drop" them; "split" them into pieces of
            one row each (the last one shorter), one feature only; "truncate" them to one row.
        max_segments: the most pieces in a row.
        align: every piece starts at a multiple of this.
        ranks: of data parallelism: the rows, filled up with empty ones, divide evenly, and the
            rows of a step, r // ranks, cost about the same.
        balance: what costs: "tokens", or "l2", the sum of squared lengths, as attention does.
        seed: takes the sequences in random order, and shuffles the rows (their steps, with
            `ranks`); None keeps the given order.

    Returns:
        a Plan; for several features a Plan of each, with the same rows.

    Raises:
        ValueError: a length below 1, or above the capacity under "error"; features that disagree
            in number; an argument that is not as above.
    """
    if isinstance(lengths, Mapping) or isinstance(capacity, Mapping):
        names, table, capacities = _features(lengths, capacity)
    else:
        names, table = None, _integers("lengths", lengths)[:, None]
        capacities = np.array([positive("capacity", capacity)])
    for name, value in [("align", align), ("ranks", ranks), ("max_segments", max_segments)]:
        if value is not None:
            positive(name, value)
    if ranks >= 2**24:
        raise ValueError(f"ranks must be below 2^24, got {ranks}")
    if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
        raise ValueError(f"seed must be a non-negative integer or None, got {seed!r}")
    if balance not in BALANCE:
        raise ValueError(f"balance must be tokens or l2, got {balance!r}")
    _check(table, capacities, names, overflow, algorithm)

    if seed is None:
        rng, order = None, np.arange(len(table))
    else:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(table))
    pieces = _pieces(table, order, capacities, overflow, algorithm)
    row, start = pack.fit_rows(
        pieces.length,
        capacities,
        algorithm=algorithm,
        max_segments=max_segments or 0,
        align=align,
    )
    if algorithm == "wrap":
        pieces, row, start = _unwrap(pieces, row, start, int(capacities[0]))
    rows = int(row.max(initial=-1)) + 1
    if ranks > 1:
        new, rows = by_rank(row, pieces.length[:, 0], rows, ranks, balance, rng)
        row = new[row]
    elif rng is not None:
        row = rng.permutation(rows)[row]

    split = int((np.bincount(pieces.sequence, minlength=1) > 1).sum())
    over = (table > capacities).any(1)
    plans = [
        Plan(
            int(capacities[f]),
            rows,
            pieces.sequence,
            pieces.source[:, f],
            pieces.length[:, f],
            row,
            start[:, f],
            int(table[:, f].sum()),
            split,
            int(over.sum()) if overflow == "drop" else 0,
            int((table[:, f] > capacities[f]).sum()) if overflow == "truncate" else 0,
            max_segments,
        )
        for f in range(len(capacities))
    ]
    return plans[0] if names is None else dict(zip(names, plans, strict=True))


def positive(name: str, value) -> int:
    return integer(name, value, 1)


def integer(name: str, value, least: int) -> int:
    """The value as an int, from `least` on; it may be an array of no axes, as JAX's numbers are."""
    try:
        found = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if found < least:
        raise ValueError(f"{name} must be at least {least}, got {found}")
    return found


def _integers(name: str, values) -> np.ndarray:
    array = as_array(name, "integers [n]", values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(f"{name} must be integers [n], got {array.dtype}{list(array.shape)}")
    if array.size and array.sum(dtype=float) >= 2**62:
        raise ValueError(f"{name} must sum to less than 2^62, got {array.sum(dtype=float):.3g}")
    return array.astype(np.int64)


def as_array(name: str, expected: str, values) -> np.ndarray:
    """The values as an array; an error that names them if numpy makes none, or one of objects."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = None
    if array is None or array.dtype.hasobject:
        raise ValueError(f"{name} must be {expected}, got {kind_of(values)}")
    return array


def kind_of(value) -> str:
    """What an error says that it got."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return "None" if value is None else type(value).__name__


def _features(lengths, capacity) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, lengths [n, features] and capacities [features] of mappings."""
    if not (isinstance(lengths, Mapping) and isinstance(capacity, Mapping) and lengths):
        raise ValueError(
            f"lengths and capacity must both map features, got {kind_of(lengths)} and "
            f"{kind_of(capacity)}"
        )
    if lengths.keys() != capacity.keys():
        raise ValueError(
            f"lengths and capacity must have the same features, got {sorted(lengths)} and "
            f"{sorted(capacity)}"
        )
    names = list(lengths)
    columns = [_integers(f"lengths[{name!r}]", lengths[name]) for name in names]
    counts = {name: len(c) for name, c in zip(names, columns, strict=True)}
    if len(set(counts.values())) > 1:
        raise ValueError(f"lengths must be as many in every feature, got {counts}")
    capacities = np.array([positive(f"capacity[{name!r}]", capacity[name]) for name in names])
    return names, np.stack(columns, axis=1), capacities


def _check(table, capacities, names, overflow: str, algorithm: str) -> None:
    if overflow not in OVERFLOW:
        raise ValueError(f"overflow must be error, drop, split or truncate, got {overflow!r}")
    if algorithm == "wrap" and overflow != "split":
        raise ValueError(f"wrap splits sequences: overflow must be 'split', got {overflow!r}")
    if overflow == "split" and len(capacities) > 1:
        raise ValueError("overflow='split' must have one feature: pieces of two would not pair up")
    for f in range(len(capacities)):
        column, of = table[:, f], "lengths" if names is None else f"lengths[{names[f]!r}]"
        if column.size and column.min() < 1:
            i = int(column.argmin())
            raise ValueError(f"{of} must be at least 1, got {column[i]} at {i}")
        if overflow == "error" and column.size and column.max() > capacities[f]:
            i = int(column.argmax())
            raise ValueError(
                f"{of} must be at most the capacity {capacities[f]} (or overflow='split', 'drop' "
                f"or 'truncate'), got {column[i]} at {i}"
            )


@dataclasses.dataclass(frozen=True)
class _Pieces:
    sequence: np.ndarray  # i64[pieces]
    source: np.ndarray  # i64[pieces, features]
    length: np.ndarray  # i64[pieces, features]


def _pieces(table, order, capacities, overflow: str, algorithm: str) -> _Pieces:
    """What is placed: the sequences in their order, cut, left out or split."""
    source = np.cumsum(table, axis=0) - table
    if overflow == "drop":
        order = order[(table <= capacities).all(1)[order]]
    whole = _Pieces(order, source[order], table[order])
    if overflow == "truncate":
        return dataclasses.replace(whole, length=np.minimum(whole.length, capacities))
    capacity = int(capacities[0])
    if overflow != "split" or algorithm == "wrap" or table.max(initial=0) <= capacity:
        return whole
    return _cut(whole, np.minimum(whole.length[:, 0], capacity), capacity)[0]


def _cut(whole: _Pieces, first: np.ndarray, capacity: int) -> tuple[_Pieces, np.ndarray]:
    """Every sequence as a first piece of `first` tokens and more of at most the capacity.

    Also returns nth: i64[pieces], the number of a piece in its sequence.
    """
    length = whole.length[:, 0]
    pieces = 1 + -(-(length - first) // capacity)
    if pieces.sum() >= 2**31:
        raise ValueError(f"overflow='split' must make fewer than 2^31 pieces, got {pieces.sum()}")
    nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = np.where(nth == 0, 0, np.repeat(first - capacity, pieces) + nth * capacity)
    end = np.minimum(np.repeat(length, pieces), np.repeat(first, pieces) + nth * capacity)
    source = np.repeat(whole.source[:, 0], pieces) + begin
    sequence = np.repeat(whole.sequence, pieces)
    return _Pieces(sequence, source[:, None], (end - begin)[:, None]), nth


def _unwrap(whole: _Pieces, row, start, capacity: int):
    """The pieces of sequences that run on over the ends of rows, and their places."""
    first = np.minimum(whole.length[:, 0], capacity - start[:, 0])
    pieces, nth = _cut(whole, first, capacity)
    counts = np.diff(np.append(np.flatnonzero(nth == 0), len(nth)))
    row = np.repeat(row, counts) + nth
    start = np.where(nth == 0, np.repeat(start[:, 0], counts), 0)
    return pieces, row, start[:, None]


@dataclasses.dataclass(frozen=True)
class Portion:
    """Pieces of a portion of a stream, of one feature, and what overflow did to it."""

    sequence: np.ndarray
    source: np.ndarray
    length: np.ndarray
    sequences: int
    tokens: int
    split: int
    dropped: int
    truncated: int


def pieces_of(lengths, capacity: int, overflow: str) -> Portion:
    """The pieces that sequences make, in their order, before any is placed."""
    table, capacities = _integers("lengths", lengths)[:, None], np.array([capacity])
    _check(table, capacities, None, overflow, "best_fit")
    pieces = _pieces(table, np.arange(len(table)), capacities, overflow, "best_fit")
    over = int((table > capacity).sum())
    did = {rule: over if overflow == rule else 0 for rule in ("split", "drop", "truncate")}
    return Portion(
        pieces.sequence,
        pieces.source[:, 0],
        pieces.length[:, 0],
        len(table),
        int(table.sum()),
        *did.values(),
    )
