"""A fit and what it says, as files.

    DIR/runs.csv -> DIR/fit.json      the record of the fit: the source of all the rest
                    DIR/report.html   one page, self-contained
                    DIR/figure.png    collapse and multipliers side by side
    fit.json -> OUT/report.html, OUT/figures/NAME.svg and .png, OUT/tables/NAME.csv

The terminal's table and the page's are the same rows.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

from bitlaw import laws
from bitlaw.pages import fit as pages
from bitlaw.pages import multiplier_figures, multipliers
from bitlaw.pages.figure import png, svg
from bitlaw.pages.view import View
from bitlaw.studies.rows import StudyError, write_atomic
from bitlaw.train.data import EPOCHS_FREE


def write(
    out: Path, level: float = 0.9, resamples: int = 1000, delta: float | None = None, seed: int = 0
) -> str:
    """The table for the terminal; writes fit.json, report.html and figure.png beside runs.csv.

    Args:
        out: a folder with runs.csv.
        level, resamples, delta, seed: as in `laws.fit`.
    Raises:
        ValueError: runs.csv is missing or is no table of runs.
        StudyError: the folder cannot be written.
    """
    out = Path(out)
    runs = laws.read_runs(out / "runs.csv")
    fit = laws.fit(runs, level=level, resamples=resamples, delta=delta, seed=seed)
    view = View(fit)
    record = json.dumps(fit.to_dict(), indent=1, allow_nan=False)
    write_atomic(out / "fit.json", record + "\n")
    notes = [*per_nonzero(fit), *repeated(out / "runs.csv")]
    write_atomic(out / "report.html", pages.page(view, bits_per_weight, notes))
    picture = out / "figure.png"
    if fit.params:
        write_atomic(picture, png(multiplier_figures.headline(view)))
    else:
        _remove(picture)
    return "\n".join([multipliers.text(view, bits_per_weight), *notes])


def write_files(fit: laws.Fit, out: Path) -> list[Path]:
    """The page of any fit, its figures as SVG and PNG and its tables as CSV, below a folder.

    Raises:
        StudyError: the folder cannot be written.
    """
    view, written = View(fit), []
    for name in ("figures", "tables"):
        try:
            (out / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"cannot make {out / name}: {error.strerror}") from error

    def put(path: Path, content: str | bytes) -> None:
        write_atomic(path, content)
        written.append(path)

    put(out / "report.html", pages.page(view, bits_per_weight, per_nonzero(fit)))
    for drawn in pages.drawings(view):
        put(out / "figures" / f"{drawn.name}.svg", svg(drawn.figure))
        put(out / "figures" / f"{drawn.name}.png", png(drawn.figure))
    for table in pages.tables(view, bits_per_weight):
        put(out / "tables" / f"{table.name}.csv", table.csv)
    return written


def read_fit(path: Path) -> laws.Fit:
    """The record in a fit.json.

    Raises:
        ValueError: it cannot be read, or is no record of a fit.
    """
    try:
        return laws.Fit.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"fit must be a readable file, got {path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"fit must be the record that a fit writes, got {path}: {error}; if it is of another "
            "version, fit the runs again (bitlaw fit --runs, bitlaw report DIR)"
        ) from error


def bits_per_weight(scheme: str) -> float | None:
    """What a weight takes in memory under a scheme; None for one that is not ours."""
    from bitlaw.formats import Scheme  # needs jax, which a fit does not

    try:
        bits = Scheme.parse(scheme).bits_per_weight
    except ValueError:  # a table of runs may name any scheme
        return None
    return None if math.isnan(bits) else bits  # NaN: of a user's quantizer


def per_nonzero(fit: laws.Fit) -> list[str]:
    """The multipliers in the other convention, of non-zero weights, as a sentence if there are any.

    A law in N (1 - S) instead of N has the same fit, with eff / (1 - S) for eff.
    """
    from bitlaw.formats import Scheme  # needs jax, which a fit does not

    found = []
    for entry in fit.schemes:
        try:
            sparsity = Scheme.parse(entry.scheme).sparsity
        except ValueError:  # a table of runs may name any scheme
            continue
        if sparsity and entry.eff is not None and not entry.bound:
            found.append(f"{entry.scheme}: {entry.eff / (1 - sparsity):.3f}")
    where = "eff counts all weights; per non-zero weight, as in arXiv:2309.08520"
    return [f"{where}: {', '.join(found)}"] if found else []


def repeated(table: Path) -> list[str]:
    """A sentence if a run saw its text more than once, by the column epochs of runs.csv."""
    with open(table, newline="", encoding="utf-8-sig") as file:
        epochs = [_number(row.get("epochs")) for row in csv.DictReader(file)]
    often = sum(e > EPOCHS_FREE for e in epochs)
    if max(epochs, default=0) <= 1:
        return []
    return [
        f"Text is repeated: {sum(e > 1 for e in epochs)} runs see it more than once, up to "
        f"{max(epochs):.1f} times, {often} of them more than {EPOCHS_FREE} times (up to "
        f"{EPOCHS_FREE} are about as good as fresh text, arXiv:2305.16264)."
    ]


def _remove(path: Path) -> None:
    """Removes what an earlier fit left, which the present one does not support."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(f"cannot remove {path}: {error.strerror}; remove it by hand") from error


def _number(text: str | None) -> float:
    """A finite number, 0 for what is none."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
