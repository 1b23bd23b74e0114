"""Fits any law to a table: search, profile likelihood, bootstrap, and every reason for doubt."""

from __future__ import annotations

import math

import numpy as np

from bitlaw.laws import diagnose, ends, interval, profile, search
from bitlaw.laws.draws import kept
from bitlaw.laws.interval import Units
from bitlaw.laws.law import Law
from bitlaw.laws.objective import Objective, replicate_delta
from bitlaw.laws.problem import Array, Problem
from bitlaw.laws.record import Fit, Profile
from bitlaw.laws.rows import SIZES, Rows, checked_rows
from bitlaw.laws.runs import ordered
from bitlaw.laws.table import Table

TOGETHER = 1e-6  # smallest singular value of a Jacobian of unit columns that is not a zero
BROKEN = "no number: the arithmetic breaks down at the best fit"
PART = 1e-3  # of a singular vector that a coefficient must have to be named with it


def fit_table(
    table: Table,
    law: Law,
    objective: Objective | None,
    delta: float | None,
    level: float,
    resamples: int,
    seed: int,
    hold: dict[str, float],
) -> Fit:
    """The law fitted to the table; arguments as of `fit`."""
    count = len(table) + len(table.excluded)
    rows = checked_rows(table, law)
    chosen, delta_source = _objective(objective, delta, rows)
    names = tuple(ordered(rows.scheme.tolist()))
    number = np.array([names.index(name) for name in rows.scheme.tolist()], np.int64)
    fitted = law.holding(hold) if hold else law
    problem = Problem.of(fitted, rows.columns, rows.loss, chosen, number, names)
    sizes = rows.size
    common = {
        "law": law.name, "level": level, "delta": chosen.huber_delta, "delta_source": delta_source,
        "rows": count, "excluded": rows.table.excluded, "flagged": (), "schemes": (),
        "minimised": chosen, "table": rows.stored(law), "source": table.source,
    }  # fmt: skip
    status = unknown = unidentified(problem, sizes)
    if rows.merged:
        merged = f"schemes taken for one, as the law does not tell them apart: {_few(rows.merged)}"
        status = (*status, merged)
    if unknown:
        return _without_numbers(common, status)
    sample = Units(sizes, rows.seed, rows.configuration, problem.target)
    try:
        found = search.search(problem)
        numbers = _numbers(problem, found, sample, rows.table.run_id, level, resamples, seed)
    except np.linalg.LinAlgError as error:
        return _without_numbers(common, (f"{BROKEN}: {error}",))
    if not _finite([numbers[name] for name in ("params", "intervals", "objective", "rms", "r2")]):
        return _without_numbers(common, (f"{BROKEN}: not finite",))
    doubts = tuple(doubt for doubt in numbers["status"] if doubt != "ok")
    numbers["status"] = (*status, *doubts) or ("ok",)
    numbers["params"] |= hold
    numbers["param_status"] |= {name: (f"held at {value:g}",) for name, value in hold.items()}
    return Fit(**common, **numbers)


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def _without_numbers(common: dict, status: tuple[str, ...]) -> Fit:
    """The record where no law could be fitted: every run is excluded, and why."""
    excluded = tuple((run_id, status[0]) for run_id in common["table"]["run_id"])
    common = common | {"excluded": common["excluded"] + excluded}
    return Fit(**common, status=status, params={}, intervals={})


def _finite(value: object) -> bool:
    """Whether every number inside is one; None is the open end of an interval."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return value is None or math.isfinite(value)


def _objective(
    objective: Objective | None, delta: float | None, rows: Rows
) -> tuple[Objective, str]:
    """What is minimised, and where its delta comes from."""
    if objective is not None:
        return objective, "the objective's own"
    if delta is not None:
        return Objective("log", delta), "given"
    cells = zip(rows.label.tolist(), *rows.columns.values(), strict=True)
    delta, source = replicate_delta(list(cells), rows.loss)
    return Objective("log", delta), source


def unidentified(problem: Problem, sizes: Array) -> tuple[str, ...]:
    """Why the runs do not identify the law; empty if they do."""
    found = []
    columns = problem.columns
    for name in problem.law.columns:
        if name not in problem.law.defaults and len(np.unique(columns[name])) < 2:
            found.append(f"unidentified: one value of {name}")
    if len(problem.loss) <= len(problem.names):
        found.append(
            f"unidentified: {len(problem.loss)} runs for {len(problem.names)} coefficients"
        )
    if len(np.unique(problem.loss)) < 2:
        found.append("unidentified: one value of loss")
    size = next((name for name in SIZES if name in columns), None)
    if not found and size and "d_tokens" in columns:
        ratio = columns["d_tokens"] / columns[size]
        spread = ratio.max() / ratio.min()
        if spread < diagnose.SMALLEST_SPREAD:
            equal = " (D = kN)" if spread < 1.05 else ""
            found.append(
                f"unidentified: tokens per parameter spread {spread:.1f}x{equal}, "
                f"at least {diagnose.SMALLEST_SPREAD:.0f}x needed"
            )
    return tuple(found)


def _numbers(
    problem: Problem,
    found: search.Found,
    sample: Units,
    ids: list[str],
    level: float,
    resamples: int,
    seed: int,
) -> dict:
    """The fields of the record that need a fit."""
    z, target = found.z, problem.target
    params = {name: float(v[0]) for name, v in problem.coefficients(z[None]).items()}
    profiles = profile.profiles(problem, z, level)
    delta = problem.objective.huber_delta
    draws = interval.resample(sample, problem, z, delta, resamples, seed)
    drawn = problem.coefficients(draws.theta)
    residual = problem.response(z[None])[0] - target
    each = param_status(problem, z, profiles)
    count = len(target) if problem.objective.reduction == "mean" else 1
    return {
        "status": _statuses(problem, found, each, sample.n_params),
        "params": params,
        "intervals": {
            name: ends.interval(draws, params[name], drawn[name], push, level, c.range.low)
            for name, (c, _), push in zip(
                problem.names, problem.coordinates, problem.pushed(draws.theta), strict=True
            )
        },
        "objective": problem.value(z),
        "rms": float(np.sqrt(np.mean(residual**2))),
        "r2": 1 - float(np.var(residual) / np.var(target)),
        "residuals": tuple(zip(ids, residual.tolist(), strict=True)),
        "draws": kept(params, drawn, draws.widening),
        "bootstrap": draws.method,
        "noise": draws.shares,
        "starts": tuple(end / count for end in found.ends if math.isfinite(end)),
        "param_status": each,
        "profiles": profiles,
    }


def param_status(
    problem: Problem, z: Array, profiles: tuple[Profile, ...]
) -> dict[str, tuple[str, ...]]:
    """ok, or every reason to doubt each coefficient."""
    lower, upper = problem.bounds()
    params = {name: float(v[0]) for name, v in problem.coefficients(z[None]).items()}
    groups = _together(problem, z)
    result = {}
    for k, (name, entry) in enumerate(zip(problem.names, profiles, strict=True)):
        doubts = list(groups.get(name, ()))
        if side := diagnose.bound_hit(z[k], lower[k], upper[k]):
            value = params[name]
            doubts.append(f"bound hit: {side} {value:g}" if value else "bound hit: 0")
        at_zero = problem.coordinates[k][0].range.low == 0.0
        if entry.high is None or (entry.low is None and not at_zero):
            side = "both sides" if entry.low is None and entry.high is None else (
                "above" if entry.high is None else "below"
            )  # fmt: skip
            if not groups.get(name):
                doubts.append(f"interval unbounded {side}")
        elif entry.low and entry.low > 0 and entry.high / entry.low >= diagnose.FLAT_RATIO:
            range_ = problem.coordinates[k][0].range
            if range_.log and not range_.scale:
                doubts.append(f"flat valley: {entry.low:.2g} to {entry.high:.2g} fits as well")
        if at_zero and entry.low == 0.0 and params[name] > 0 and not groups.get(name):
            doubts.append("not told from 0")
        result[name] = tuple(doubts) or ("ok",)
    return result


def _together(problem: Problem, z: Array) -> dict[str, tuple[str, ...]]:
    """The coefficients that the runs do not identify at this fit, and why."""
    jacobian, _ = search.weighted_jacobian(problem, z)
    norm = np.linalg.norm(jacobian, axis=0)
    names, result = problem.names, {}
    moved = norm > 1e-9 * norm.max()
    for k in np.flatnonzero(~moved):
        result[names[k]] = ("unidentified: no run depends on it",)
    where = np.flatnonzero(moved)
    _, sizes, vectors = np.linalg.svd(jacobian[:, where] / norm[where], full_matrices=False)
    for row in np.flatnonzero(sizes < TOGETHER * sizes[0]):
        group = [names[k] for k in where[np.abs(vectors[row]) > PART]]
        for name in group:
            others = ", ".join(other for other in group if other != name)
            result.setdefault(name, (f"unidentified: only together with {others}",))
    return result


def _statuses(
    problem: Problem, found: search.Found, each: dict[str, tuple[str, ...]], sizes: Array
) -> tuple[str, ...]:
    """Every reason to doubt the fit as a whole, or ("ok",)."""
    doubts = list(found.status)
    for name, reasons in each.items():
        doubts += [f"{name}: {reason}" for reason in reasons if reason != "ok"]
    if "d_tokens" in problem.columns:
        logs = np.log(sizes), np.log(problem.columns["d_tokens"])
        correlation = float(np.corrcoef(*logs)[0, 1]) if np.ptp(logs[0]) else math.nan
        if correlation > diagnose.ALIGNED:
            doubts.append(
                f"ill-conditioned: D = kN nearly (correlation {correlation:.3f} of log N, log D)"
            )
    return tuple(doubts) or ("ok",)
