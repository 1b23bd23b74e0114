"""Fits a law to a table of runs and says how far to trust it.

    record = fit(read_runs("runs.csv"))
    for entry in record.schemes:
        print(entry.scheme, entry.eff, entry.low, entry.high, entry.status)

A fit that the table cannot support is a status in the record, never an exception and never a bare
number; a table that is not one (missing columns, text in numbers, no dense runs) is a ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bitlaw.laws import diagnose, ends, estimate, forms, interval, nested, profile, schemes, solve
from bitlaw.laws import draws as keep
from bitlaw.laws.cores import steady
from bitlaw.laws.interval import Resamples
from bitlaw.laws.objective import Objective, replicate_delta
from bitlaw.laws.problem import Problem
from bitlaw.laws.record import Fit, Profile
from bitlaw.laws.rows import checked_rows
from bitlaw.laws.runs import Runs
from bitlaw.laws.solve import Array, Design
from bitlaw.laws.table import Table

STORED = ("run_id", "scheme", "n_params", "d_tokens", "seed", "loss")


@steady
def fit(
    runs: Runs | Table,
    law: str = "effective",
    level: float = 0.9,
    resamples: int = 1000,
    delta: float | None = None,
    seed: int = 0,
    objective: Objective | None = None,
    hold: Mapping[str, float] | None = None,
) -> Fit:
    """The law fitted to these runs.

    Args:
        runs: the table; diverged runs are counted, not fitted.
        law: a name of `forms.LAWS`, or module:function.
        level: of the intervals.
        resamples: of the bootstrap.
        delta: Huber's delta on log residuals; None takes it from replicates (runs that differ only
            in seed), or DEFAULT_DELTA where there are none.
        seed: of the bootstrap.
        objective: what is minimised, instead of the sum of Huber with ``delta`` on log residuals;
            not for ``effective``.
        hold: coefficients that are not fitted, and their values; not for ``effective``.

    Raises:
        ValueError: unknown law, a level outside (0, 1), fewer than 20 resamples, delta <= 0,
            delta and objective together, or a table that is none of the law's.
    """
    check(runs, law, level, resamples, delta, objective, hold)
    if law != "effective":
        return estimate.fit_table(
            _as_table(runs), forms.find(law), objective, delta, level, resamples, seed,
            dict(hold or {}),
        )  # fmt: skip
    if isinstance(runs, Table):
        record = fit(runs.runs(), law, level, resamples, delta, seed)
        excluded = (*runs.excluded, *record.excluded)
        rows = record.rows + len(runs.excluded)
        return replace(record, rows=rows, excluded=excluded, source=runs.source)
    # In an order of their own: a bootstrap draws by place, and files have any order.
    runs = runs[np.lexsort((runs.loss, runs.seed, runs.d_tokens, runs.n_params, runs.scheme))]
    doubts = {name: diagnose.unidentified(runs[runs.scheme == name]) for name in runs.schemes()}
    names = [name for name, reasons in doubts.items() if not reasons]
    used = runs[~runs.diverged & np.isin(runs.scheme, names)]
    value, source = delta_from_replicates(used) if delta is None else (delta, "given")
    flagged = runs.n_params < 0.5 * runs.n_total
    record = Fit(
        law=law,
        level=level,
        delta=value,
        delta_source=source,
        rows=len(runs),
        excluded=_excluded(runs, doubts),
        flagged=tuple(runs.run_id[flagged].tolist()),
        status=diagnose.unidentified_law(used, doubts),
        schemes=schemes.entries(runs, doubts),
        params={},
        intervals={},
    )
    if record.status:
        record = replace(record, schemes=schemes.without_law(record.schemes))
    else:
        try:
            record = _fitted(record, used, names, resamples, seed)
        except np.linalg.LinAlgError as error:
            status = (f"{estimate.BROKEN}: {error}",)
            record = replace(record, status=status, schemes=schemes.without_law(record.schemes))
    if not record.params:
        lost = tuple((run_id, record.status[0]) for run_id in used.run_id.tolist())
        record = replace(record, excluded=record.excluded + lost)
    if flagged.any() and (runs.scheme[~flagged] == "dense").any():
        rest = fit(runs[~flagged], law, level, resamples, delta, seed)
        record = replace(record, without_flagged=rest)
    return record


def check(
    runs: Runs | Table,
    law: str = "effective",
    level: float = 0.9,
    resamples: int = 1000,
    delta: float | None = None,
    objective: Objective | None = None,
    hold: Mapping[str, float] | None = None,
) -> None:
    """Raises the ValueErrors of `fit` for these arguments, without fitting anything."""
    known = forms.find(law)
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    if resamples < 20:
        raise ValueError(f"resamples must be at least 20, got {resamples}")
    if delta is not None and not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    if delta is not None and objective is not None:
        raise ValueError(f"delta must be the objective's where one is given, got {delta} too")
    if law != "effective":
        if hold:
            known.holding(hold)
        checked_rows(_as_table(runs), known)
        return
    if objective is not None or hold:
        raise ValueError(
            f"objective and hold must be of another law than effective, got {objective or hold}"
        )
    if isinstance(runs, Table):
        runs.runs()


def _as_table(runs: Runs | Table) -> Table:
    if isinstance(runs, Table):
        return runs
    columns = {name: column.tolist() for name, column in vars(runs).items()}
    columns["status"] = ["diverged" if lost else "ok" for lost in columns.pop("diverged")]
    return Table.of(columns)


def delta_from_replicates(runs: Runs) -> tuple[float, str]:
    """Huber's delta and where it came from: `replicate_delta` of runs that differ in their seed."""
    cells = zip(runs.scheme.tolist(), runs.n_params.tolist(), runs.d_tokens.tolist(), strict=True)
    return replicate_delta(list(cells), runs.loss)


def _excluded(runs: Runs, doubts: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, str], ...]:
    """(run_id, reason) of the runs that do not enter the fit."""
    reasons = []
    for run_id, scheme, diverged in zip(runs.run_id, runs.scheme, runs.diverged, strict=True):
        if diverged:
            reasons.append((str(run_id), "diverged"))
        elif doubts[scheme]:
            reasons.append((str(run_id), doubts[scheme][0]))
    return tuple(reasons)


def _fitted(record: Fit, runs: Runs, names: list[str], resamples: int, seed: int) -> Fit:
    """The record with its numbers, from runs that identify the law; ``names`` are their schemes."""
    design, delta = diagnose.design_of(runs, names), record.delta
    log_loss = np.log(runs.loss)
    every, values = solve.fit_starts(design, log_loss, delta)
    theta = every[np.argmin(values)]
    draws = interval.resample(runs, design, theta, delta, resamples, seed)
    at_b = diagnose.eff_against_b(design, log_loss, delta, theta, names)
    residual = np.log(solve.predict(design, theta[None])[0]) - log_loss
    each = schemes.numbers(runs, design, theta, draws, record.level)
    numbers = dict(zip(names, each, strict=True))
    status = diagnose.statuses(runs, design, theta, log_loss, delta, at_b, draws)
    return replace(
        record,
        status=status,
        param_status=_param_status(status),
        schemes=schemes.ranked([schemes.with_numbers(one, numbers) for one in record.schemes]),
        params=_params(design, theta),
        intervals=_param_intervals(design, theta, draws, record.level),
        objective=float(solve.objective(design, theta[None], log_loss, np.ones(1), delta)[0]),
        rms=float(np.sqrt(np.mean(residual**2))),
        r2=1 - float(np.var(residual) / np.var(log_loss)),
        residuals=tuple(zip(runs.run_id.tolist(), residual.tolist(), strict=True)),
        minimised=Objective("log", delta),
        starts=tuple(np.sort(values).tolist()),
        profiles=_profiles(runs, design, theta, names, delta, record.level),
        table={name: tuple(getattr(runs, name).tolist()) for name in STORED},
        bootstrap=draws.method,
        noise=draws.shares,
        eff_against_b=at_b,
        draws=_draws(design, theta, draws, names),
        drifts=nested.drifts(runs, design, theta, log_loss, draws, record.level),
    )


def _params(design: Design, theta: Array) -> dict[str, float]:
    """The law's coefficients: the solver works with N / N0 and D / D0, the law with N and D."""
    c, e, b, d = theta[design.schemes :].tolist()
    a = float(theta[0]) * design.n0**b
    return {"a": a, "b": b, "c": c * design.d0**d, "d": d, "e": e}


def _draws(
    design: Design, theta: Array, draws: Resamples, names: list[str]
) -> dict[str, tuple[float, ...]]:
    """The resamples that the record keeps: the law's coefficients and every scheme's eff."""

    def named(rows: Array) -> dict[str, Array]:
        every = [_params(design, row) for row in rows]
        found = {name: np.array([row[name] for row in every]) for name in every[0]}
        effs = solve.effs(design, rows).T
        return found | {f"eff[{name}]": eff for name, eff in zip(names[1:], effs[1:], strict=True)}

    fitted = {name: float(value[0]) for name, value in named(theta[None]).items()}
    found = keep.kept(fitted, named(draws.theta[: keep.MOST]), draws.widening)
    most = solve.LARGEST_EFF  # widening may have left it
    return {
        name: tuple(min(max(x, 1 / most), most) for x in row) if name.startswith("eff[") else row
        for name, row in found.items()
    }


def _param_status(status: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The doubts about the fit that are about one coefficient; a goes with b, and c with d."""
    result = {}
    for name, exponent in (("a", "b"), ("b", ""), ("c", "d"), ("d", ""), ("e", "")):
        found = [s for s in status if s.partition(": ")[2].partition(" ")[0] in (name, exponent)]
        result[name] = tuple(found) or ("ok",)
    return result


def _profiles(
    runs: Runs, design: Design, theta: Array, names: list[str], delta: float, level: float
) -> tuple[Profile, ...]:
    """Profile likelihood of the coefficients that are the law's own: b, d and e.

    None where a multiplier is beyond the profile's bounds: its centre would be no optimum.
    """
    if np.abs(solve.log_eff(design, theta[None])[0]).max() > schemes.UNBOUNDED:
        return ()
    columns = {"n_params": runs.n_params, "d_tokens": runs.d_tokens}
    problem = Problem.of(
        forms.LAWS["effective"], columns, runs.loss, Objective("log", delta), design.scheme,
        tuple(names),
    )  # fmt: skip
    effs = solve.effs(design, theta[None])[0].tolist()
    params = _params(design, theta)
    params |= {f"eff[{name}]": eff for name, eff in zip(names[1:], effs[1:], strict=True)}
    return profile.profiles(problem, problem.coordinates_of(params), level, ("b", "d", "e"))


def _param_intervals(
    design: Design, theta: Array, draws: Resamples, level: float
) -> dict[str, ends.Ends]:
    """The interval of each coefficient; a and c run along with b and d over decades."""
    fitted, every = _params(design, theta), [_params(design, row) for row in draws.theta]
    lower, upper = design.bounds()
    lower[:-2] = -np.inf  # amplitudes: what keeps the logarithm of one finite is no bound of it
    places = {
        "a": (0, [(-2, np.log(design.n0))]),
        "b": (-2, []),
        "c": (-4, [(-1, np.log(design.d0))]),
        "d": (-1, []),
        "e": (-3, []),
    }
    found = {}
    for name, (k, powers) in places.items():
        push = ends.pushed(draws.theta, (lower, upper), k, powers)
        least = draws.theta[:, k] <= solve.SMALLEST_AMPLITUDE
        drawn = np.where(least, 0.0, [row[name] for row in every])
        found[name] = ends.interval(draws, fitted[name], drawn, push, level, 0.0)
    return found
