"""The largest runs predicted from the others, by one law or by several.

    hold_outs(fit)       the largest size and the largest budget, with predictive intervals
    compare(fit)         the laws that the same table can be fitted with, by their error there

What a fit says about the runs it has seen is no measure of what it says about larger ones. Every
number here is made from `Fit.table` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bitlaw.laws import forms, search
from bitlaw.laws.law import Law
from bitlaw.laws.problem import Array, Problem
from bitlaw.laws.record import Fit

SIZES = ("n_params", "n_nonzero", "n_average")
DATA = "d_tokens"
FEWEST = 3  # values of a column: the largest is held out, two remain
FEW_RUNS = 3  # at the largest value: below, the largest tenth is held out
STARTS = 8
RESAMPLES = 200


@dataclass(frozen=True)
class HoldOut:
    """Runs predicted by a fit to the others.

    law      a name of `forms.LAWS`
    column   what was largest in them
    value    the smallest of it among them
    rms      of log(predicted / measured)
    bias     mean of it
    level    of the intervals
    rows     (run_id, measured, predicted, low, high): the predictive interval of one run, from
             refits of tables drawn from the fit with independent normal noise, and that noise again
    note     what was held
    """

    law: str
    column: str
    value: float
    rms: float
    bias: float
    level: float
    rows: tuple[tuple[str, float, float, float, float], ...]
    note: str

    @property
    def covered(self) -> int:
        """How many measured losses lie in their intervals."""
        return sum(low <= measured <= high for _, measured, _, low, high in self.rows)


def problem_of(fit: Fit, law: Law | None = None) -> Problem | None:
    """The fit's table as a problem, for its own law or another; None if that lacks a column.

    Another law may take the table's size for its n_params, whatever it counts; and where it has
    multipliers per scheme and the table has no schemes, the values of the one column that is
    neither size nor data are schemes, their base being dense.
    """
    table = {name: np.array(column) for name, column in fit.table.items()}
    own = forms.find(fit.law)
    law = law or own
    size = next((name for name in SIZES if name in table), None)
    columns = {}
    for name in law.columns:
        source = size if name == "n_params" and name not in table else name
        if source in table:
            columns[name] = table[source].astype(float)
        elif name not in law.defaults:
            return None
    if law.defaults and not set(law.defaults) & set(columns):  # nothing of what the law is about
        return None
    scheme, names = None, ("dense",)
    if law.has_schemes:
        kinds = _kinds(own, table)
        if kinds is None:
            return None
        names = tuple(dict.fromkeys(sorted(kinds.tolist(), key=lambda kind: kind != "dense")))
        scheme = np.array([names.index(kind) for kind in kinds], dtype=np.int64)
    return Problem.of(law, columns, table["loss"], fit.minimised, scheme, names)


def _kinds(own: Law, table: dict[str, NDArray]) -> NDArray | None:
    """The scheme of every run; None where the table has no compressions, or no dense runs."""
    if "scheme" in table:
        return table["scheme"]
    others = [name for name in own.columns if name not in (*SIZES, DATA) and name in table]
    base = {"sparsity": 0.0, "experts": 1.0, "gmse": 0.0, "group": 1.0}
    if len(others) != 1 or others[0] not in base:
        return None
    column = table[others[0]]
    kinds = np.array([f"{others[0]}={value:g}" for value in column], dtype=object)
    kinds[column == base[others[0]]] = "dense"
    return kinds if (kinds == "dense").any() and len(set(kinds)) > 1 else None


def hold_outs(fit: Fit, resamples: int = RESAMPLES, seed: int = 0) -> tuple[HoldOut, ...]:
    """The hold-outs of the largest size and of the largest budget, where the table allows them.

    None where the multiplier of a scheme is on its bound: the rest would be fitted around what it
    is not.
    """
    problem = problem_of(fit) if _may_be_refitted(fit) else None
    if problem is None:
        return ()
    columns = [name for name in (*SIZES, DATA) if name in problem.columns]
    found = (hold_out(problem, fit, column, resamples, seed) for column in columns)
    return tuple(entry for entry in found if entry is not None)


def compare(fit: Fit, laws: Iterable[str] | None = None) -> dict[str, tuple[HoldOut, ...]]:
    """Hold-outs by column: one of each law that the table can be fitted with, the best first.

    Args:
        fit: its table and objective are used for all.
        laws: names of `forms.LAWS`; None takes every one that has the columns it needs.
    """
    if not _may_be_refitted(fit):
        return {}
    names = list(forms.LAWS) if laws is None else list(laws)
    names = [fit.law, *(name for name in names if name != fit.law)]
    found: dict[str, list[HoldOut]] = {}
    for name in names:
        law = forms.find(name)
        problem = problem_of(fit, law)
        if problem is None or not _told(problem):
            continue
        for column in (*SIZES, DATA):
            if column in problem.columns and (entry := hold_out(problem, fit, column, resamples=0)):
                axis = DATA if column == DATA else "size"
                found.setdefault(axis, []).append(entry)
    ranked = {axis: sorted(entries, key=lambda entry: entry.rms) for axis, entries in found.items()}
    return {axis: tuple(entries) for axis, entries in ranked.items() if len(entries) > 1}


def _may_be_refitted(fit: Fit) -> bool:
    """Whether there is a table, and numbers to start from that are those of its optimum."""
    return bool(fit.params and fit.table) and not any(entry.bound for entry in fit.schemes)


def _told(problem: Problem) -> bool:
    """Whether a law's columns vary: one that does not tells its coefficients nothing."""
    varying = all(len(np.unique(column)) > 1 for column in problem.columns.values())
    return varying and len(problem.loss) > len(problem.coordinates) + 1


def largest(column: Array) -> NDArray[np.bool_] | None:
    """The runs to hold out: those of the largest value, or the largest tenth; None if too few."""
    if len(np.unique(column)) < FEWEST:
        return None
    held = column >= column.max() * (1 - 1e-9)
    if held.sum() < FEW_RUNS:
        held = column >= np.quantile(column, 0.9)
    return held if (~held).sum() >= FEWEST else None


def hold_out(
    problem: Problem, fit: Fit, column: str, resamples: int = RESAMPLES, seed: int = 0
) -> HoldOut | None:
    """The runs of the largest value of a column, predicted from the others; None if too few.

    Where two values of the column remain they hardly tell its exponent from the other
    coefficients: then it is held at the value of the whole fit (if the law is the fit's own).
    """
    held = largest(problem.columns[column])
    if held is None:
        return None
    known = np.isin(problem.scheme, problem.scheme[~held])
    held, seen = held & known, ~held
    small = problem[seen]
    if not held.any() or len(small.loss) <= len(problem.coordinates) or not _varied(small):
        return None
    lower, upper = problem.bounds()
    start, note = None, "all coefficients free"
    if problem.law.name == fit.law:
        start = problem.coordinates_of(all_params(fit))
        exponents = _exponents(problem, column)
        if len(np.unique(small.columns[column])) == 2 and exponents:
            places = [problem.names.index(name) for name in exponents]
            lower[places] = upper[places] = start[places]
            note = f"{', '.join(exponents)} held at the value of the whole fit"
    if note.endswith("free"):
        z = search.search(small, STARTS, start).z
    else:
        z = search.refit(small, start[None], small.target[None], None, lower[None], upper[None])[0]
    target, predicted = problem[held], problem[held].fitted(z[None])[0]
    low, high = _interval(small, target, z, (lower, upper), fit.level, resamples, seed)
    error = np.log(predicted / target.loss)
    ids = np.array(fit.table["run_id"])[held]
    rows = zip(ids.tolist(), target.loss, predicted, low, high, strict=True)
    return HoldOut(
        law=problem.law.name,
        column=column,
        value=float(target.columns[column].min()),
        rms=float(np.sqrt(np.mean(error**2))),
        bias=float(np.mean(error)),
        level=fit.level,
        rows=tuple((run_id, *map(float, values)) for run_id, *values in rows),
        note=note,
    )


def _varied(problem: Problem) -> bool:
    return all(len(np.unique(column)) > 1 for column in problem.columns.values())


def all_params(fit: Fit) -> dict[str, float]:
    """The coefficients with the multipliers of schemes among them."""
    effs = {f"eff[{s.scheme}]": s.eff for s in fit.schemes if s.eff is not None}
    return dict(fit.params) | {name: eff for name, eff in effs.items() if name != "eff[dense]"}


def _exponents(problem: Problem, column: str) -> list[str]:
    """The coefficients that are powers of a column."""
    return [
        power
        for coefficient in problem.law.coefficients
        for name, power in coefficient.range.scale
        if name == column and isinstance(power, str) and not power.startswith("-")
    ]


def _interval(
    small: Problem,
    target: Problem,
    z: Array,
    bounds: tuple[Array, Array],
    level: float,
    resamples: int,
    seed: int,
) -> tuple[Array, Array]:
    """Predictive intervals f64[rows] of the target's losses; without resamples, of noise alone."""
    rng = np.random.default_rng(seed)
    fitted = small.response(z[None])[0]
    freedom = max(1, len(fitted) - len(z))
    spread = float(np.sqrt(np.sum((small.target - fitted) ** 2) / freedom))
    there = target.response(z[None])[0]
    half = stats.t.ppf((1 + level) / 2, freedom) * spread
    low, high = there - half, there + half
    if resamples:
        scale = spread * np.sqrt(freedom / rng.chisquare(freedom, (resamples, 1)))
        tables = fitted + scale * rng.standard_normal((resamples, len(fitted)))
        start = np.tile(z, (resamples, 1))
        ends = (np.tile(bound, (resamples, 1)) for bound in bounds)
        drawn = target.response(search.refit(small, start, tables, None, *ends))
        drawn = drawn + scale * rng.standard_normal(drawn.shape)
        drawn = drawn[np.isfinite(drawn).all(axis=1)]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    back = {"log": np.exp, "log10": lambda x: 10.0**x, "loss": np.asarray}
    undo = back[small.objective.residual]
    return undo(low), undo(high)
