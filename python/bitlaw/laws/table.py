"""Anybody's table of runs: read from a file, renamed, derived, checked for the law it is for.

table = read_table("runs.csv", columns={"n_params": "N", "loss": "val_loss"})
table = read_table("runs.csv", columns={"n_params": "Model Size", "flop": "Training FLOP"},
                   derive={"d_tokens": "flop / (6 * n_params)"}, drop_highest=5)
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitlaw.laws import derive as expressions
from bitlaw.laws.runs import LARGEST, LOST, MAX_ROWS, SMALLEST, Runs

KINDS = (".csv", ".csv.gz", ".jsonl", ".json", ".parquet")
TEXT = ("run_id", "scheme", "status")
# What a column must be: the lowest and highest value, whether each is allowed itself, in words.
DOMAINS = {
    "sparsity": (0.0, 1.0, True, False, "in [0, 1)"),
    "gmse": (0.0, 1.0, True, False, "in [0, 1)"),
    "experts": (1.0, math.inf, True, False, "at least 1"),
    "group": (1.0, math.inf, True, False, "at least 1"),
    "bits_w": (0.0, math.inf, False, True, "positive"),
    "bits_a": (0.0, math.inf, False, True, "positive"),
    "bits_kv": (0.0, math.inf, False, True, "positive"),
    "loss": (0.0, math.inf, False, False, "positive"),
    "seed": (-math.inf, math.inf, False, False, "finite"),
}
SIZE_OR_BUDGET = (0.0, math.inf, False, False, "positive")
OTHER = (-math.inf, math.inf, False, False, "finite")


@dataclass(frozen=True)
class Table:
    """Columns of equal length, one entry per run, not yet checked for a law.

    columns   by name; values as the file has them (text or numbers)
    rows      the number of each run in its file, from 1: what an error names
    excluded  (run_id, reason) of the runs that were taken out
    source    for the reader: the file, or a published table's name, source and licence
    """

    columns: dict[str, NDArray]
    rows: NDArray[np.int64]
    excluded: tuple[tuple[str, str], ...] = ()
    source: str = ""
    _numbers: dict[str, NDArray] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, columns: Mapping[str, Sequence], source: str = "") -> Table:
        """The table of these columns.

        Raises:
            ValueError: there is no row, the columns differ in length, or there are too many rows.
        """
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns must be of equal length, got {lengths}")
        count = next(iter(lengths.values()), 0)
        if not count:
            raise ValueError("runs must hold at least one row, got none")
        arrays = {name: _array(column) for name, column in columns.items()}
        return cls(arrays, np.arange(1, count + 1), source=source)

    @property
    def run_id(self) -> list[str]:
        """The run_id column, or the number of each row."""
        ids = self.columns.get("run_id", self.rows)
        return [str(x) for x in ids.tolist()]

    def __getitem__(self, rows: NDArray) -> Table:
        """The table of some of the rows, by mask or index; the others are not noted."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Table(columns, self.rows[rows], self.excluded, self.source)

    def without(self, mask: NDArray[np.bool_], reason: str) -> Table:
        """The table without the runs of the mask, which are noted as excluded."""
        gone = tuple((run_id, reason) for run_id in self[mask].run_id)
        return replace(self[~mask], excluded=self.excluded + gone)

    def renamed(self, columns: Mapping[str, str]) -> Table:
        """The table with columns under new names: {new: old}."""
        for old in columns.values():
            if old not in self.columns:
                raise ValueError(
                    f"columns must name columns of the table, got {old!r}; there are "
                    f"{sorted(self.columns)}"
                )
        rest = {k: v for k, v in self.columns.items() if k not in columns.values()}
        new = {name: self.columns[old] for name, old in columns.items()}
        return replace(self, columns=rest | new, _numbers={})

    def derived(self, expressions_by_name: Mapping[str, str]) -> Table:
        """The table with further columns, computed in this order."""
        table = self
        for name, expression in expressions_by_name.items():
            needed = expressions.names(expression) & set(table.columns)
            numbers = {column: table.number(column) for column in needed}
            if needed != expressions.names(expression):
                numbers = {column: table.columns[column] for column in table.columns}
            value = expressions.evaluate(expression, numbers)
            column = np.broadcast_to(value, (len(table),)).copy()
            table = replace(table, columns=table.columns | {name: column}, _numbers={})
        return table

    def number(self, name: str) -> NDArray[np.float64]:
        """A column as numbers.

        Raises:
            ValueError: the column is missing, or an entry is no number; its row is named.
        """
        if name not in self.columns:
            raise ValueError(f"runs must have a column {name!r}, got {sorted(self.columns)}")
        if name not in self._numbers:
            column = self.columns[name]
            try:
                self._numbers[name] = column.astype(np.float64)
            except (TypeError, ValueError, OverflowError):
                for row, value in zip(self.rows, column.tolist(), strict=True):
                    if not _is_number(value):
                        raise ValueError(
                            f"{name} must be a number, got {value!r:.60} in row {row}"
                        ) from None
                raise
        return self._numbers[name]

    def checked(self, name: str) -> NDArray[np.float64]:
        """A column as numbers that are what the column must be.

        Raises:
            ValueError: as `number`, or a value is outside the column's domain.
        """
        column = self.number(name)
        sizes = name.startswith(("n_", "d_"))
        low, high, with_low, with_high, words = DOMAINS.get(
            name, SIZE_OR_BUDGET if sizes else OTHER
        )
        fine = (column >= low) if with_low else (column > low)
        fine &= (column <= high) if with_high else (column < high)
        if low == 0.0 and not with_low and fine.all():
            fine = (column >= SMALLEST) & ((column <= LARGEST) | (with_high & np.isinf(column)))
            words = f"between {SMALLEST:g} and {LARGEST:g}"
        if not fine.all():
            k = int(np.argmin(fine))
            value = self.columns[name][k]
            nan = np.isnan(column[k])
            hint = LOST if name == "loss" and not np.isfinite(column[k]) else ""
            raise ValueError(
                f"{name} must be {'a finite number' if nan else words}, got {value!s} in row "
                f"{self.rows[k]}{hint}"
            )
        return column

    def text(self, name: str) -> NDArray[np.str_]:
        """A column as text."""
        if name not in self.columns:
            raise ValueError(f"runs must have a column {name!r}, got {sorted(self.columns)}")
        return np.array([str(x).strip() for x in self.columns[name].tolist()])

    def converged(self) -> Table:
        """The table without the runs whose status is diverged."""
        if "status" not in self.columns:
            return self
        status = self.text("status")
        for row, value in zip(self.rows, status.tolist(), strict=True):
            if value not in ("", "ok", "diverged"):
                raise ValueError(f"status must be ok or diverged, got {value!r} in row {row}")
        return self.without(status == "diverged", "diverged")

    def without_highest(self, count: int) -> Table:
        """The table without the ``count`` highest losses of the runs that did not diverge."""
        lost = self.text("status") == "diverged" if "status" in self.columns else np.array(False)
        there = np.flatnonzero(np.broadcast_to(~lost, len(self)))
        if not 0 <= count < len(there):
            raise ValueError(f"drop_highest must be in 0..{len(there) - 1}, got {count}")
        mask = np.zeros(len(self), bool)
        highest = np.argsort(-self[there].checked("loss"), kind="stable")[:count]
        mask[there[highest]] = True
        return self.without(mask, f"one of the {count} highest losses")

    def runs(self) -> Runs:
        """The table as the runs of the law ``effective``."""
        if len(self) > MAX_ROWS:
            raise ValueError(f"runs must hold at most {MAX_ROWS} rows, got {len(self)}")
        names = list(self.columns)
        columns = (self.columns[name].tolist() for name in names)
        rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
        return Runs.from_rows(rows, self.rows.tolist())


def _array(column: Sequence) -> NDArray:
    """Numbers as an array of them, anything else as it is."""
    column = column.tolist() if isinstance(column, np.ndarray) else column
    try:
        array = np.asarray(column)
        if array.dtype.kind in "iufb" and array.ndim == 1:
            return array
    except (ValueError, OverflowError):  # lists among the entries
        pass
    return np.fromiter(column, object, len(column))


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def read_table(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    derive: Mapping[str, str] | None = None,
    drop_highest: int = 0,
) -> Table:
    """The runs of a file: .csv (or .csv.gz), .jsonl, .json (rows, or columns) or .parquet.

    Args:
        path: of the file.
        columns: {our name: the file's name}.
        derive: {our name: expression of other columns}, after renaming, in order.
        drop_highest: how many of the highest losses to take out; they are noted as excluded.

    Raises:
        ValueError: the file cannot be read or is no table, and whatever is wrong in it; the file is
            named.
    """
    path = Path(path)
    kind = next((k for k in KINDS if path.name.lower().endswith(k)), None)
    if kind is None:
        raise ValueError(f"runs must be a file of {', '.join(KINDS)}, got {path}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"runs must be a readable file, got {path}: {error.strerror}") from error
    try:
        table = Table.of(_columns(content, kind), source=path.name)
        table = table.renamed(columns or {}).derived(derive or {})
        return table.without_highest(drop_highest) if drop_highest else table
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: runs must be text in UTF-8, got a file where {error}") from error
    except (ValueError, csv.Error, EOFError, OSError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _columns(content: bytes, kind: str) -> dict[str, Sequence]:
    """The columns of a file of this kind."""
    if kind == ".parquet":
        return _parquet(content)
    text = (gzip.decompress(content) if kind.endswith(".gz") else content).decode("utf-8-sig")
    if kind.startswith(".csv"):
        return _csv(text)
    lines = json.loads(text) if kind == ".json" else _lines(text)
    if isinstance(lines, dict):
        return _by_column(lines)
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError("runs must be one JSON object per row, got something else")
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: [line.get(name) for line in lines] for name in names}


def _lines(text: str) -> list:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _by_column(found: dict) -> dict[str, Sequence]:
    """The columns of {name: values}, or of pandas' {name: {index: value}}."""
    if all(isinstance(column, list) for column in found.values()):
        return found
    keys = next((list(column) for column in found.values() if isinstance(column, dict)), [])
    if not all(isinstance(column, dict) and list(column) == keys for column in found.values()):
        raise ValueError("runs must be columns or rows of one shape, got something else")
    return {name: list(column.values()) for name, column in found.items()}


def _csv(text: str) -> dict[str, Sequence]:
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    if not rows:
        raise ValueError("runs must have a header and at least one row, got an empty file")
    header, *rows = rows
    header = [name.strip() for name in header]
    if len(header) == 1 and (found := re.search("[;\t|]", header[0])):
        raise ValueError(f"columns must be separated by commas, got {found[0]!r} in the header")
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise ValueError(f"columns must have names of their own, got {sorted(twice)} twice")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"row {number} must have {len(header)} entries, got {len(row)}")
    return dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else {}


def _parquet(content: bytes) -> dict[str, Sequence]:
    try:
        from pyarrow import BufferReader, lib, parquet
    except ModuleNotFoundError as error:
        raise ValueError(
            "runs as .parquet must have pyarrow installed: pip install 'bitlaw[parquet]'"
        ) from error
    try:
        table = parquet.read_table(BufferReader(content))
    except lib.ArrowException as error:
        raise ValueError(f"runs must be a parquet file, got {str(error)[:80]}") from error
    return {name: table[name].to_pylist() for name in table.column_names}
