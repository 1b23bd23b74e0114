"""Packing a stream of sequences, with a few open rows and an exact resume."""

from __future__ import annotations

import base64
import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bitlaw.ops.stream import fit_stream, no_rows
from bitlaw.packing.plan import Plan, Portion, kind_of, pieces_of, positive
from bitlaw.packing.rows import arrays, fill


class Stream:
    """Open rows for a stream of lengths: `bins` at most, of which the fullest makes way.

    Best fit: see `ops.stream.fit_stream`. Pushing the same lengths in other portions gives the same
    rows in the same order.

    Attributes:
        sequences: how many have been pushed.
        dropped, truncated, split: how many of them were.
    """

    def __init__(
        self,
        capacity: int,
        bins: int = 64,
        *,
        overflow: str = "error",
        max_segments: int | None = None,
        align: int = 1,
    ):
        """
        Args:
            capacity: tokens per row.
            bins: open rows.
            overflow: of sequences longer than a row, as for `packing.plan`.
            max_segments: the most pieces in a row.
            align: every piece starts at a multiple of this.
        """
        for name, value in [("capacity", capacity), ("bins", bins), ("align", align)]:
            positive(name, value)
        if bins >= 2**24:
            raise ValueError(f"bins must be below 2^24, got {bins}")
        if max_segments is not None:
            positive("max_segments", max_segments)
        self.capacity, self.max_segments, self.align = capacity, max_segments, align
        self.overflow = overflow
        pieces_of([], capacity, overflow)  # errors now
        self.sequences = self.dropped = self.truncated = self.split = 0
        self._tokens = self._rows = 0
        self._state = no_rows(bins, capacity)
        self._open = np.zeros((5, 0), np.int64)  # sequence, source, length, row, start

    def push(self, lengths) -> Plan:
        """Places sequences; the plan of the rows closed now, in the order they were.

        `sequence` and `source` of the plan count from the first push on.

        Raises:
            ValueError: a length below 1, or above the capacity under overflow="error"; nothing is
                placed then.
        """
        return self._place(pieces_of(lengths, self.capacity, self.overflow))

    def _place(self, whole: Portion) -> Plan:
        row, start, closed, self._state = fit_stream(
            whole.length,
            self._state,
            capacity=self.capacity,
            max_segments=self.max_segments or 0,
            align=self.align,
            rows=self._rows,
        )
        self._rows = max(self._rows, int(row.max(initial=-1)) + 1)
        new = [whole.sequence + self.sequences, whole.source + self._tokens, whole.length]
        self._open = np.concatenate([self._open, np.stack([*new, row, start])], axis=1)
        self.sequences += whole.sequences
        self._tokens += whole.tokens
        for name in ("dropped", "truncated", "split"):
            setattr(self, name, getattr(self, name) + getattr(whole, name))
        return self._take(closed[closed >= 0])

    def flush(self) -> Plan:
        """The plan of all open rows, in the order they were opened; none is open afterwards."""
        self._state = no_rows(self._state.shape[1], self.capacity)
        return self._take(np.unique(self._open[3]))

    def pack(
        self, sequences: Iterable, *, name: str = "tokens", chunk: int = 4096
    ) -> PackedIterator:
        """The rows of an iterator of arrays (or of mappings, whose `name` is taken).

        Args:
            sequences: arrays [n, ...] of one dtype.
            name: of the arrays of a row.
            chunk: how many sequences are read ahead at a time; changes no row.
        """
        return PackedIterator(self, sequences, name=name, chunk=chunk)

    def _take(self, closed: np.ndarray) -> Plan:
        """Takes the pieces of these rows out, the rows numbered in the order given."""
        order = np.argsort(closed, kind="stable")
        at = np.searchsorted(closed[order], self._open[3])
        nth = np.append(order, -1)[at]
        done = np.append(closed, -1)[nth] == self._open[3]
        taken, self._open = self._open.compress(done, 1), self._open.compress(~done, 1)
        sequence, source, length, _, start = taken
        return Plan(
            self.capacity,
            len(closed),
            sequence,
            source,
            length,
            nth[done],
            start,
            int(length.sum()),
            max_segments=self.max_segments,
        )

    def state_dict(self) -> dict[str, Any]:
        """All there is to go on from here, as JSON can hold it."""
        state = {name: getattr(self, name) for name in _SETTINGS + _COUNTS}
        return state | {"state": self._state.tolist(), "open": self._open.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, by a stream with the same arguments."""
        _needs("state", state, ("state", "open", *_SETTINGS, *_COUNTS))
        for name in _SETTINGS:
            if state[name] != getattr(self, name):
                raise ValueError(f"{name} must be that of the state, {state[name]}, got "
                                 f"{getattr(self, name)}")  # fmt: skip
        if len(state["state"][0]) != self._state.shape[1]:
            raise ValueError(
                f"bins must be those of the state, {len(state['state'][0])}, "
                f"got {self._state.shape[1]}"
            )
        for name in _COUNTS:
            setattr(self, name, state[name])
        self._state = np.array(state["state"], np.int64)
        self._open = np.array(state["open"], np.int64).reshape(5, -1)


_TOGETHER = 1 << 22  # the most tokens of the rows that are filled at a time
_SETTINGS = ("capacity", "max_segments", "align", "overflow")
_COUNTS = ("sequences", "dropped", "truncated", "split", "_tokens", "_rows")


class PackedIterator(Iterator):
    """Rows of a stream, one mapping of arrays [capacity] each; see `packing.materialize`.

    Boundaries (`cu_seqlens`) are among them if the stream has max_segments, so that all rows have
    one shape. After the last sequence come the open rows.
    """

    def __init__(self, stream: Stream, sequences: Iterable, *, name: str, chunk: int):
        positive("chunk", chunk)
        if stream._open.size:
            raise ValueError(
                f"stream must have no open rows, got {stream._open.shape[1]} open pieces"
            )
        try:
            self._sequences = iter(sequences)
        except TypeError:
            raise ValueError(
                f"sequences must be an iterable of arrays, got {kind_of(sequences)}"
            ) from None
        self._stream, self._name = stream, name
        self._chunk = chunk
        # Whatever open pieces are of, and its first token's number in the stream; first of all an
        # array without tokens, which says of what kind they are.
        self._parts: list[np.ndarray] = []
        self._begins = np.zeros(0, np.int64)
        self._ready: Iterator[dict] = iter(())
        self._mark()

    @property
    def stream(self) -> Stream:
        return self._stream

    def __next__(self) -> dict[str, np.ndarray]:
        row = next(self._ready, None)
        while row is None:
            self._mark()
            chunk = list(itertools.islice(self._sequences, self._chunk))
            if chunk:
                several = self._rows(chunk)
            else:
                several = self._filled(self._stream.flush(), self._parts, self._begins)
            self._ready = itertools.chain.from_iterable(several)
            row = next(self._ready, None)
            if row is None and not chunk:
                raise StopIteration
        self._emitted += 1
        return row

    def state_dict(self) -> dict[str, Any]:
        """What resumes after the row given last, as JSON can hold it.

        "sequences" says how many sequences the source had given: the iterator that goes on must
        begin with the next one. A source with get_state and set_state, as grain's iterators have,
        is taken along as "source".
        """
        stream, parts, begins, source = self._marked
        _, at, length, *_ = stream._open
        part = _part(begins, at)
        cut = zip(part.tolist(), (at - begins[part]).tolist(), length.tolist(), strict=True)
        pieces = [parts[p][a : a + n] for p, a, n in cut]
        buffer = np.concatenate([*parts[:1], *pieces]) if parts else np.zeros(0, np.int32)
        return {
            "source": source,
            "sequences": stream.sequences,
            "emitted": self._emitted,
            "stream": stream.state_dict(),
            "tokens": base64.b64encode(buffer.tobytes()).decode(),
            "dtype": buffer.dtype.str,
            "shape": list(buffer.shape),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken; `sequences` was given from that one on."""
        needed = ("source", "sequences", "emitted", "stream", "tokens", "dtype", "shape")
        _needs("state", state, needed)
        self._stream.load_state_dict(state["stream"])
        if state["source"] is not None:
            self._sequences.set_state(state["source"])
        flat = np.frombuffer(base64.b64decode(state["tokens"]), np.dtype(state["dtype"]))
        buffer, self._ready = flat.reshape(state["shape"]), iter(())
        _, at, length, *_ = self._stream._open
        self._parts, self._begins = [], np.zeros(0, np.int64)
        if at.size:
            order, pieces = np.argsort(at), np.split(buffer, np.cumsum(length)[:-1])
            self._parts = [buffer[:0], *(pieces[i] for i in order)]
            self._begins = np.append(-1, at[order])
        self._mark()
        for _ in range(state["emitted"]):
            if next(self, None) is None:
                raise ValueError(
                    f"sequences must go on behind number {state['sequences']}, got too few of them"
                )

    def _mark(self) -> None:
        source = self._sequences.get_state() if hasattr(self._sequences, "get_state") else None
        # No array or list is ever written to, so a shallow copy is a snapshot.
        self._marked = copy.copy(self._stream), self._parts, self._begins, source
        self._emitted = 0

    def _rows(self, chunk: list) -> Iterator[Iterable[dict[str, np.ndarray]]]:
        stream = self._stream
        if isinstance(chunk[0], Mapping):
            try:
                chunk = [c[self._name] for c in chunk]
            except (KeyError, TypeError):
                for c in chunk:
                    _needs("sequences", c, (self._name,))
                raise
        kind = self._parts[:1]
        parts, lengths = arrays("sequences", kind + chunk)
        parts, lengths = parts[len(kind) :], lengths[len(kind) :]
        if not kind:
            self._parts, self._begins = [parts[0][:0].copy()], np.array([-1])
        parts = self._parts + parts
        begins = np.append(self._begins, np.cumsum(lengths) - lengths + stream._tokens)
        plan = stream._place(pieces_of(lengths, stream.capacity, stream.overflow))
        still = np.append(0, np.unique(_part(begins, stream._open[1])))
        self._parts, self._begins = [parts[p] for p in still.tolist()], begins[still]
        return self._filled(plan, parts, begins)

    def _filled(self, plan: Plan, parts, begins) -> Iterator[Iterable[dict[str, np.ndarray]]]:
        """The rows, of a chunk at once unless they take much memory."""
        part, step = _part(begins, plan.source), max(1, _TOGETHER // plan.capacity)
        source = plan.source - begins[part]
        # Without a name, arrays that are given are gone, their memory free, before the next fill.
        if not plan.rows:
            return
        if plan.rows <= step:
            yield self._each(plan, parts, part, source)
            return
        order = np.argsort(plan.row, kind="stable")
        row, source, of = plan.row[order], source[order], [parts[p] for p in part[order].tolist()]
        firsts = range(0, plan.rows, step)
        ends = np.searchsorted(row, [*firsts, plan.rows]).tolist()
        for first, begin, end in zip(firsts, ends[:-1], ends[1:], strict=True):
            here = slice(begin, end)
            some = dataclasses.replace(
                plan,
                rows=min(step, plan.rows - first),
                length=plan.length[order[here]],
                row=row[here] - first,
                start=plan.start[order[here]],
            )
            yield self._each(some, of[here], np.arange(end - begin), source[here])

    def _each(self, plan: Plan, parts, part, source) -> Iterator[dict[str, np.ndarray]]:
        """A mapping of each row; written out, since these take a good part of a stream's time."""
        rows = fill(plan, parts, part, source, name=self._name)
        tokens, segments, positions, loss, sums, starts = rows
        if plan.max_segments is not None:
            return (
                {tokens: a, segments: b, positions: c, loss: d, sums: e, starts: f}
                for a, b, c, d, e, f in zip(*rows.values(), strict=True)
            )
        return (
            {tokens: a, segments: b, positions: c, loss: d}
            for a, b, c, d in zip(*[*rows.values()][:4], strict=True)
        )


def _needs(name: str, given, keys: Iterable[str]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} must be a mapping with {', '.join(keys)}, got {kind_of(given)}")
    if missing := [key for key in keys if key not in given]:
        raise ValueError(f"{name} must have {', '.join(missing)}, got {sorted(given)}")


def _part(begins: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Which part each of these tokens is in."""
    return np.searchsorted(begins, at, side="right") - 1
