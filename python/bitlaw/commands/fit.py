"""`bitlaw fit`."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bitlaw.commands.door import UsageError, checked, find_law
from bitlaw.studies.rows import write_atomic

if TYPE_CHECKING:
    from bitlaw.laws import Fit as Record

NOTHING = "-"


@dataclass
class Fit:
    """Fit a scaling law to a table of runs; write the fit, its doubts and its data as JSON.

    A published table keeps the objective of its authors, and their fit is printed beside ours. The
    file that --out names is all that the planner and the pages need.

      bitlaw fit --published t5-sparse --out t5.json
      bitlaw fit --law effective --runs runs.csv --columns n_params=N d_tokens=D loss=val_loss
      bitlaw fit --law chinchilla --runs c.csv --columns "n_params=Model Size" "flop=Training FLOP"
          --derive "d_tokens=flop/(6*n_params)" --drop-highest 5 --delta 1e-3
    """

    published: str | None = None
    """t5-sparse, vit-sparse or routing; downloaded once, or found in $BITLAW_DATA_DIR."""

    law: str | None = None
    """effective (the default), chinchilla, sparse, routed, precision, capacity, qat, gamma,
    average, or your own as my_module:my_law."""

    runs: Path | None = None
    """Your table: .csv, .csv.gz, .jsonl, .json, or .parquet (pip install 'bitlaw[parquet]')."""

    columns: tuple[str, ...] = ()
    """What the law's columns are called in your table, as n_params=N."""

    derive: tuple[str, ...] = ()
    """Columns to compute, as d_tokens=steps*128*512; + - * / **, log, exp and sqrt are known."""

    drop_highest: int = 0
    """How many of the highest losses to leave out."""

    hold: tuple[str, ...] = ()
    """Coefficients not to fit, as e=1.69."""

    residual: Literal["log", "log10", "loss"] = "log"
    """What residuals are differences of."""

    reduction: Literal["sum", "mean"] = "sum"
    """What is minimised: the sum or the mean of Huber's loss of the residuals."""

    delta: float | None = None
    """Huber's delta; inf is least squares. From replicates by default, or 0.01 without any."""

    level: float = 0.9
    """Level of all intervals."""

    resamples: int = 1000
    """Resamples of the bootstrap."""

    seed: int = 0
    """Seed of the bootstrap."""

    out: Path = Path("fit.json")
    """The file for the record."""

    report: Path | None = None
    """A file for the page: table, figures and checklist, self-contained HTML."""

    def run(self) -> int:
        from bitlaw.laws import LawError

        with checked():
            self._check()
            fitted = self._prepared()
        try:
            fit = fitted()
        except LawError as error:  # the user's own law, which only a fit can try
            raise UsageError(str(error)) from error
        record = json.dumps(fit.to_dict(), indent=1, allow_nan=False)
        write_atomic(self.out, record + "\n")
        print(text(fit))
        print(f"\nfit      {self.out}")
        if self.report:
            from bitlaw.pages import fit as pages

            write_atomic(self.report, pages.page(fit))
            print(f"report   {self.report}")
        return 0

    def _check(self) -> None:
        """Raises UsageError for options that contradict each other, before any work."""
        own = {
            "law": self.law, "runs": self.runs, "columns": self.columns, "derive": self.derive,
            "drop-highest": self.drop_highest, "hold": self.hold, "delta": self.delta,
        }  # fmt: skip
        given = [name for name, value in own.items() if value not in (None, (), 0)]
        if self.published and given:
            raise UsageError(f"published must stand alone, got --{given[0]} with it")
        if not self.published and not self.runs:
            raise UsageError("runs must be a table, or published the name of one, got neither")
        for name, path in (("out", self.out), ("report", self.report)):
            if path and not path.absolute().parent.is_dir():
                raise UsageError(f"{name} must be in a folder that exists, got {path}")

    def _prepared(self) -> "Callable[[], Record]":
        """The fit to be made, of arguments and a table that have been checked."""
        from bitlaw import laws
        from bitlaw.laws import tables

        options = {"level": self.level, "resamples": self.resamples, "seed": self.seed}
        if self.published:
            table = tables.published_table(self.published)
            laws.check(table, tables.TABLES[self.published].law, self.level, self.resamples)
            return partial(tables.refit, self.published, **options)
        law = self.law or "effective"
        find_law(law)
        columns, derive = pairs("columns", self.columns), pairs("derive", self.derive)
        table = laws.read_table(self.runs, columns, derive, self.drop_highest)
        hold = {name: _number("hold", value) for name, value in pairs("hold", self.hold).items()}
        objective = self._objective()
        try:
            laws.check(table, law, self.level, self.resamples, **objective, hold=hold)
        except ValueError as error:
            raise ValueError(f"{error}{_what_to_do(str(error))}") from error
        return partial(laws.fit, table, law, hold=hold, **objective, **options)

    def _objective(self) -> dict:
        from bitlaw.laws import Objective

        if (self.residual, self.reduction) == ("log", "sum") and self.delta != math.inf:
            return {"delta": self.delta}
        if self.delta is None:
            raise ValueError("delta must be given with a residual or reduction, got none")
        delta = None if self.delta == math.inf else self.delta
        return {"objective": Objective(self.residual, delta, self.reduction)}


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """{name: value} of texts such as name=value."""
    found = {}
    for one in texts:
        name, equals, value = (part.strip() for part in one.partition("="))
        if not (name.isidentifier() and equals and value):
            raise ValueError(f"{option} must be name=value, got {one!r}")
        if name in found:
            raise ValueError(f"{option} must name each column once, got {name!r} twice")
        found[name] = value
    return found


def _what_to_do(error: str) -> str:
    """What the command line has for a column that is missing; nothing for another error."""
    missing = re.match(r"runs must have a column '(\w+)'", error)
    if not missing:
        return ""
    other = "; for a table without schemes: --law chinchilla" if missing[1] == "scheme" else ""
    return f"; say what yours is called with --columns {missing[1]}=NAME{other}"


def _number(option: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{option} must be name=number, got {value!r}") from None


def text(fit: "Record") -> str:
    """The fit for a terminal: coefficients, schemes, what was minimised, every doubt."""
    lines = [f"law {fit.law}: {fit.source}" if fit.source else f"law {fit.law}", ""]
    if fit.params:
        lines += [*_table(_coefficients(fit)), ""]
    if fit.schemes:
        lines += [*_table(_schemes(fit)), ""]
    if fit.derived:
        lines += [*_table(_derived(fit)), ""]
    if fit.objective is not None:
        lines += [
            f"objective {fit.objective:.4e}: {fit.minimised}",
            *(f"          {r.objective:.4e}: {r.label}" for r in fit.references if r.objective),
            f"rms residual {fit.rms:.3g}, R^2 {fit.r2:.5f}; {_agreement(fit.starts)}",
            f"{fit.level:.0%} intervals: {fit.bootstrap}; profile likelihood",
        ]
    lines.append(f"delta from: {fit.delta_source}")
    lines.append(f"runs: {fit.rows}, {len(fit.residuals)} fitted, {_excluded(fit)}")
    lines += [f"{r.label}: {r.source}{'; ' + r.note if r.note else ''}" for r in fit.references]
    lines += [f"status: {status}" for status in fit.status]
    return "\n".join(lines)


def _coefficients(fit: "Record") -> list[list[str]]:
    from bitlaw.laws import forms
    from bitlaw.laws.record import at_bound, inside

    law = forms.find(fit.law)
    published = [r for r in fit.references if r.params]
    header = ["", "fit", "bootstrap", "profile", *(r.label for r in published), "status"]
    rows = [header]
    profiles = {p.name: p for p in fit.profiles}
    for name, value in fit.params.items():
        p = profiles.get(name)
        status = fit.param_status.get(name, ())
        rows.append(
            [
                name,
                at_bound(name, status) or f"{value:.6g}",
                _interval(*inside(law, name, *fit.intervals[name]))
                if name in fit.intervals
                else NOTHING,
                _interval(p.low, p.high) if p else NOTHING,
                *(f"{r.params[name]:.6g}" for r in published),
                "; ".join(status) or NOTHING,
            ]
        )
    return rows


def _schemes(fit: "Record") -> list[list[str]]:
    rows = [["scheme", "eff", "interval", "rank", "detectable", "runs", "status"]]
    for entry in fit.schemes:
        rows.append(
            [
                entry.scheme,
                entry.bound or _or_nothing(entry.eff, ".3f"),
                NOTHING if entry.low is None else _interval(*entry.ends),
                _or_nothing(entry.rank, "d"),
                _or_nothing(entry.mdd, ".3f"),
                str(entry.converged),
                "; ".join(entry.status),
            ]
        )
    return rows


def _derived(fit: "Record") -> list[list[str]]:
    others = [r for r in fit.references if r.derived]
    rows = [["", "fit", *(r.label for r in others)]]
    for name, value in fit.derived.items():
        rows.append([name, f"{value:.5g}", *(_or_nothing(r.derived.get(name)) for r in others)])
    return rows


def _or_nothing(value: float | None, form: str = ".5g") -> str:
    return NOTHING if value is None else format(value, form)


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "unbounded"
    return " to ".join("unbounded" if end is None else f"{end:.4g}" for end in (low, high))


def _agreement(starts: Sequence[float]) -> str:
    agreeing = sum(end <= starts[0] * (1 + 1e-6) + 1e-18 for end in starts)
    return f"{agreeing} of {len(starts)} starts end there"


def _excluded(fit: "Record") -> str:
    counts: dict[str, int] = {}
    for _, reason in fit.excluded:
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{n} excluded ({reason})" for reason, n in counts.items()) or "none excluded"


def _table(rows: list[list[str]]) -> list[str]:
    """Rows with aligned columns, the first and the last to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if k == 0 or (row[-1:] == [cell] and k == len(row) - 1) else
            cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]  # fmt: skip
        lines.append("  ".join(cells).rstrip())
    return lines
