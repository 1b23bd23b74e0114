"""The folder of a study: one JSON file per finished run, and the table made of them.

    OUT/rows/<run_id>.json   one finished run, written once and atomically
    OUT/runs.csv             the rows of the last study run here, sorted by run_id
    OUT/in_flight.json       what is running now; left behind only by a study that was killed
    OUT/lock                 held (flock) while a study runs here
    OUT/logs/worker-K.log    stderr of worker K

A file either has its whole content or does not exist: it is written under another name, flushed to
the disk and renamed. Only the executor's process writes here, so there is one place where a disk
can be full.
"""

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# The first columns of runs.csv; whatever else a row holds follows in its own order.
COLUMNS = (
    "run_id",
    "scheme",
    "n_params",
    "n_total",
    "n_nonzero",
    "d_tokens",
    "seed",
    "loss",
    "flops",
    "seconds",
    "data_sha256",
    "version",
)


class StudyError(RuntimeError):
    """A study cannot go on; the message is one line that says what to do."""


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file so that, whatever happens, `path` holds the old or the new content in full.

    Raises:
        StudyError: the disk is full, or the folder cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room" if full else "make the folder writable"
        raise StudyError(
            f"cannot write {path}: {error.strerror}; finished rows are kept, "
            f"{remedy} and run the same command again"
        ) from error


@contextlib.contextmanager
def opened(out: Path) -> Iterator[None]:
    """Makes the folder of a study, proves that it can be written, and locks it for the time inside.

    Raises:
        StudyError: the folder cannot be written, or another study is running in it.
    """
    try:
        (out / "rows").mkdir(parents=True, exist_ok=True)
        (out / "logs").mkdir(exist_ok=True)
        lock = open(out / "lock", "a+", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError as error:
        raise StudyError(
            f"out must be a folder that can be written, got {out}: {error.strerror}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise StudyError(
                f"out must not be in use, got {out}, where process {lock.read().strip() or '?'} "
                f"is running a study; wait for it or choose another folder"
            ) from None
        # A full disk shows here, before hours of work.
        write_atomic(out / "rows" / "probe", "x" * 65536)
        (out / "rows" / "probe").unlink()
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        for partial in (out / "rows").glob("*.partial"):
            partial.unlink()
        yield  # the lock file stays, unlocked: to remove it would race with the next study


def id_of(determining: Any) -> str:
    """The run_id of a run: 16 hex digits of the sha256 over all that decides its row, as JSON."""
    return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()[:16]


def path_of(out: Path, run_id: str) -> Path:
    """Where the row of a run is kept."""
    return out / "rows" / f"{run_id}.json"


def count(out: Path) -> int:
    """How many finished runs of any study the folder holds."""
    return sum(1 for _ in (out / "rows").glob("*.json"))


def check_row(row: Any, expected: Mapping[str, Any]) -> None:
    """Checks that a row is whole, of the expected run, and has a loss or says why not.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(row, dict):
        raise ValueError("an object expected")
    absent = [column for column in (*COLUMNS, "status") if column not in row]
    if absent:
        raise ValueError(f"{', '.join(absent)} missing")
    for name, value in expected.items():
        if row[name] != value:
            raise ValueError(f"{name} must be {value}, got {row[name]!r}")
    status, loss = row["status"], row["loss"]
    if status not in ("ok", "diverged"):
        raise ValueError(f"status must be ok or diverged, got {status!r}")
    if status == "diverged" and loss is not None:
        raise ValueError(f"loss must be null when diverged, got {loss!r}")
    if status == "ok" and not (type(loss) is float and math.isfinite(loss) and loss > 0):
        raise ValueError(f"loss must be a finite positive number, got {loss!r}")


def read_finished(
    out: Path, expected: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(finished rows by run_id, one warning per corrupt file).

    A corrupt file (cut short, hand-edited, or another run's) is renamed to *.corrupt, never
    deleted, and its run counts as not done.

    Args:
        expected: by run_id, the columns that the run alone decides.
    """
    rows, warnings = {}, []
    for run_id, columns in expected.items():
        path = path_of(out, run_id)
        try:
            row = json.loads(path.read_bytes())
            check_row(row, {"run_id": run_id} | dict(columns))
            rows[run_id] = row
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StudyError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            aside = path.with_name(path.name + ".corrupt")
            os.replace(path, aside)
            warnings.append(
                f"{path} must be one finished row as JSON, got a corrupt file ({error}); "
                f"moved to {aside.name}, the run is done again"
            )
    return rows, warnings


def write_runs(out: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Writes OUT/runs.csv, sorted by run_id, and returns its path. Floats read back bit for bit."""
    rows = sorted(rows, key=lambda row: row["run_id"])
    others = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=[*COLUMNS, *others], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    path = out / "runs.csv"
    write_atomic(path, text.getvalue())
    return path


def read_in_flight(out: Path) -> list[str]:
    """The runs that a study killed in this folder left unfinished, as it named them."""
    try:
        return [str(label) for label in json.loads((out / "in_flight.json").read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def write_in_flight(out: Path, labels: list[str]) -> None:
    """Notes what is running now, so that the next study here can say what a kill -9 lost."""
    write_atomic(out / "in_flight.json", json.dumps(labels, indent=1))


def clear_in_flight(out: Path) -> None:
    """Forgets the note: the study ended by itself or has said what it lost."""
    (out / "in_flight.json").unlink(missing_ok=True)
