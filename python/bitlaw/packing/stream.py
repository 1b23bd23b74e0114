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
from bitlaw.packing.plan import Plan, Portion, pieces_of
from bitlaw.packing.rows import materialize


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
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if max_segments is not None and max_segments < 1:
            raise ValueError(f"max_segments must be at least 1, got {max_segments}")
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
        self, sequences: Iterable, *, name: str = "tokens", chunk: int = 2048
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
        at = np.searchsorted(closed, self._open[3], sorter=order)
        nth = np.append(order, -1)[at]
        done = np.append(closed, -1)[nth] == self._open[3]
        taken, self._open = self._open[:, done], self._open[:, ~done]
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


_TOGETHER = 1 << 16  # tokens of the rows that are filled at a time
_SETTINGS = ("capacity", "max_segments", "align", "overflow")
_COUNTS = ("sequences", "dropped", "truncated", "split", "_tokens", "_rows")


class PackedIterator(Iterator):
    """Rows of a stream, one mapping of arrays [capacity] each; see `packing.materialize`.

    Boundaries (`cu_seqlens`) are among them if the stream has max_segments, so that all rows have
    one shape. After the last sequence come the open rows.
    """

    def __init__(self, stream: Stream, sequences: Iterable, *, name: str, chunk: int):
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        if stream._open.size:
            raise ValueError(
                f"stream must have no open rows, got {stream._open.shape[1]} open pieces"
            )
        self._stream, self._sequences, self._name = stream, iter(sequences), name
        self._chunk = chunk
        self._none: np.ndarray | None = None  # no tokens, of the dtype and inner shape of all
        self._held: dict[int, np.ndarray] = {}  # source -> tokens, of the open pieces
        self._ready: Iterator[dict] = iter(())
        self._mark()

    @property
    def stream(self) -> Stream:
        return self._stream

    def __next__(self) -> dict[str, np.ndarray]:
        stream, row = self._stream, next(self._ready, None)
        while row is None:
            self._mark()
            chunk = list(itertools.islice(self._sequences, self._chunk))
            self._ready = self._rows(chunk) if chunk else self._filled(stream.flush())
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
        stream, held, source = self._marked
        buffer = self._joined(held.values())
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
        self._stream.load_state_dict(state["stream"])
        if state["source"] is not None:
            self._sequences.set_state(state["source"])
        flat = np.frombuffer(base64.b64decode(state["tokens"]), np.dtype(state["dtype"]))
        buffer = flat.reshape(state["shape"])
        _, sources, lengths, *_ = self._stream._open
        pieces = np.split(buffer, np.cumsum(lengths)[:-1])
        self._none, self._ready = buffer[:0] if lengths.size else None, iter(())
        self._held = dict(zip(sources.tolist(), pieces, strict=False))
        self._mark()
        for _ in range(state["emitted"]):
            if next(self, None) is None:
                raise ValueError(
                    f"sequences must go on behind number {state['sequences']}, got too few of them"
                )

    def _mark(self) -> None:
        source = self._sequences.get_state() if hasattr(self._sequences, "get_state") else None
        # No array of a stream is ever written to, so a shallow copy is a snapshot.
        self._marked, self._emitted = (copy.copy(self._stream), self._held.copy(), source), 0

    def _rows(self, chunk: list) -> Iterator[dict[str, np.ndarray]]:
        stream = self._stream
        if isinstance(chunk[0], Mapping):
            chunk = [c[self._name] for c in chunk]
        arrays = [np.asarray(c) for c in chunk]
        if not all(a.ndim for a in arrays):
            raise ValueError("sequences must be arrays of tokens, got a scalar")
        if self._none is None:
            self._none = arrays[0][:0].copy()
        lengths = np.array([len(a) for a in arrays])
        whole, before = pieces_of(lengths, stream.capacity, stream.overflow), stream._tokens
        plan = stream._place(whole)
        if whole.split or whole.dropped or whole.truncated:
            at = whole.source - (np.cumsum(lengths) - lengths)[whole.sequence]
            cut = zip(whole.sequence.tolist(), at.tolist(), whole.length.tolist(), strict=True)
            arrays = [arrays[i][a : a + n] for i, a, n in cut]
        self._held.update(zip((whole.source + before).tolist(), arrays, strict=True))
        return self._filled(plan)

    def _filled(self, plan: Plan) -> Iterator[dict[str, np.ndarray]]:
        """The rows, a few at a time: what is written of them should stay in a cache."""
        order = np.argsort(plan.row, kind="stable")
        source, length = plan.source[order], plan.length[order]
        row, start = plan.row[order], plan.start[order]
        step = max(1, _TOGETHER // plan.capacity)
        firsts = range(0, plan.rows, step)
        ends = np.searchsorted(row, [*firsts, plan.rows]).tolist()
        parts = [self._held.pop(s) for s in source.tolist()]
        for first, begin, end in zip(firsts, ends[:-1], ends[1:], strict=True):
            here, tokens = slice(begin, end), self._joined(parts[begin:end])
            some = dataclasses.replace(
                plan,
                rows=min(step, plan.rows - first),
                source=np.cumsum(length[here]) - length[here],
                length=length[here],
                row=row[here] - first,
                start=start[here],
                tokens=len(tokens),
            )
            rows = materialize(some, tokens, name=self._name)
            if plan.max_segments is None:
                rows = {key: a for key, a in rows.items() if "cu_seqlens" not in key}
            for each in zip(*rows.values(), strict=True):
                yield dict(zip(rows, each, strict=True))

    def _joined(self, parts: Iterable[np.ndarray]) -> np.ndarray:
        none = np.zeros(0, np.int32) if self._none is None else self._none
        try:
            return np.concatenate([none, *parts], dtype=none.dtype, casting="safe")
        except TypeError:
            kinds = sorted({str(part.dtype) for part in parts})
            raise ValueError(f"sequences must all be {none.dtype}, got {kinds}") from None
