"""The table of training runs that a law is fitted to, checked when it comes in."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEEDS = "; runs that differ in their seed need a column seed"  # after an error of duplicates
LOST = "; a run that diverged has the status diverged in a column status"  # of no finite loss
REQUIRED = ("scheme", "n_params", "d_tokens", "loss")
STATUSES = ("ok", "diverged")
SMALLEST, LARGEST = 1e-30, 1e30  # of a positive column: beyond them arithmetic breaks down
MAX_ROWS = 20_000  # the batched solver keeps [starts, rows, parameters] in memory


@dataclass(frozen=True)
class Runs:
    """Training runs as columns of equal length, one entry per run.

    scheme      the compression, as its string; ``dense`` is the baseline
    n_params    N: weights the compression acts on
    n_total     all parameters, NaN where unknown
    d_tokens    D: training tokens
    seed        runs of one size and one seed share initialisation and data order
    loss        nats per token; NaN where the run diverged
    diverged    True where the run ended without a finite loss
    """

    run_id: NDArray[np.str_]
    scheme: NDArray[np.str_]
    n_params: NDArray[np.float64]
    n_total: NDArray[np.float64]
    d_tokens: NDArray[np.float64]
    seed: NDArray[np.int64]
    loss: NDArray[np.float64]
    diverged: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.loss)

    def __getitem__(self, rows) -> Runs:
        """The runs selected by a mask, a slice or an index array."""
        return Runs(**{name: column[rows] for name, column in vars(self).items()})

    @property
    def target(self) -> NDArray[np.float64]:
        """What the law's log losses are compared with."""
        return np.log(self.loss)

    def schemes(self) -> list[str]:
        """The schemes of the table in `ordered`'s order, whatever the order of its rows."""
        return ordered(self.scheme.tolist())

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, object]], numbers: Iterable[int] | None = None
    ) -> Runs:
        """The table of these rows (dicts; values may be strings, as a CSV gives them).

        ``seed`` (0), ``status`` (ok), ``run_id`` (the row's number) and ``n_total`` may be missing.

        Args:
            rows: one per run.
            numbers: of the rows in their file, for errors and run_ids; from 1 by default.

        Raises:
            ValueError: a column is missing, a number is not one, a size, budget or loss is not
                positive, a run appears twice, or there is no row, no dense row, or too many rows.
        """
        rows = list(rows)
        if not rows:
            raise ValueError("runs must hold at least one row, got none")
        if len(rows) > MAX_ROWS:
            raise ValueError(f"runs must hold at most {MAX_ROWS} rows, got {len(rows)}")
        for name in REQUIRED:
            if name not in rows[0]:
                raise ValueError(f"runs must have a column {name!r}, got {sorted(rows[0])}")
        numbers = list(range(1, len(rows) + 1) if numbers is None else numbers)
        records = [_record(row, number) for number, row in zip(numbers, rows, strict=True)]
        _refuse_duplicates(records, numbers)
        if all(record["scheme"] != "dense" for record in records):
            present = sorted({str(record["scheme"]) for record in records})
            raise ValueError(f"runs must include the scheme 'dense' (the baseline), got {present}")
        return cls(**{name: np.array([r[name] for r in records]) for name in records[0]})


def ordered(schemes: Iterable[str]) -> list[str]:
    """The schemes, each once: dense first, the others by name with numbers by their value."""

    def key(scheme: str) -> tuple:
        pieces = re.split(r"(\d+(?:\.\d+)?)", scheme)
        return scheme != "dense", [float(x) if k % 2 else x for k, x in enumerate(pieces)], scheme

    return sorted(set(schemes), key=key)


def read_runs(path: str | Path) -> Runs:
    """The runs of a CSV file with a header line. Errors name the file."""
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"runs must be a readable CSV file, got {path}: {error}") from error
    try:
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():  # what DictReader makes of another length
                raise ValueError(f"row {number} must have an entry for each column, no more")
        return Runs.from_rows(rows)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _record(row: Mapping[str, object], number: int) -> dict[str, object]:
    """One checked row; ``number`` counts rows from 1 for the error message."""
    scheme = str(row.get("scheme") or "").strip()
    if not scheme:
        raise ValueError(f"scheme must not be empty, got {row.get('scheme')!r} in row {number}")
    if not scheme.isprintable():
        raise ValueError(f"scheme must be one printable line, got {scheme!r} in row {number}")
    status = str(row.get("status") or "ok")
    if status not in STATUSES:
        raise ValueError(f"status must be one of {STATUSES}, got {status!r} in row {number}")
    diverged = status == "diverged"
    seed = _number(row, "seed", number) if _present(row, "seed") else 0.0
    if seed != int(seed):
        raise ValueError(f"seed must be an integer, got {seed} in row {number}")
    return {
        "run_id": str(row.get("run_id") or number),
        "scheme": scheme,
        "n_params": _positive(row, "n_params", number),
        "n_total": _positive(row, "n_total", number) if _present(row, "n_total") else math.nan,
        "d_tokens": _positive(row, "d_tokens", number),
        "seed": int(seed),
        "loss": math.nan if diverged else _positive(row, "loss", number),
        "diverged": diverged,
    }


def _present(row: Mapping[str, object], name: str) -> bool:
    return row.get(name) not in (None, "")


def _number(row: Mapping[str, object], name: str, number: int) -> float:
    value = row.get(name)
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        hint = LOST if name == "loss" and value in (None, "") else ""
        raise ValueError(
            f"{name} must be a number, got {value!r:.60} in row {number}{hint}"
        ) from None
    if not math.isfinite(result):
        hint = LOST if name == "loss" else ""
        raise ValueError(f"{name} must be finite, got {value!r} in row {number}{hint}")
    return result


def _positive(row: Mapping[str, object], name: str, number: int) -> float:
    result = _number(row, name, number)
    if result <= 0:
        raise ValueError(f"{name} must be positive, got {row[name]!r} in row {number}")
    if not SMALLEST <= result <= LARGEST:
        words = f"between {SMALLEST:g} and {LARGEST:g}"
        raise ValueError(f"{name} must be {words}, got {row[name]!r} in row {number}")
    return result


def _refuse_duplicates(records: list[dict[str, object]], numbers: list[int]) -> None:
    """Two rows of one run would count twice and narrow the intervals."""
    size = ("scheme", "n_params", "d_tokens", "seed")
    for what, names in (("run_id", ("run_id",)), (f"({', '.join(size)})", size)):
        if found := repeated(zip(*([r[name] for r in records] for name in names), strict=True)):
            one, other = found
            value = ", ".join(str(records[one][name]) for name in names)
            raise ValueError(
                f"{what} must be unique over runs, got {value} in rows {numbers[one]} and "
                f"{numbers[other]}" + (SEEDS if names == size else "")
            )


def repeated(keys: Iterable[Hashable]) -> tuple[int, int] | None:
    """The places of the first key that comes again, and of the one before it; None without."""
    seen: dict[Hashable, int] = {}
    for place, key in enumerate(keys):
        if key in seen:
            return seen[key], place
        seen[key] = place
    return None
