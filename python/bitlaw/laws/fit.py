"""Fits a law to a table of runs and says how far to trust it.

    fit = fit(read_runs("runs.csv"))
    for scheme in fit.schemes:
        print(scheme.scheme, scheme.eff, scheme.low, scheme.high, scheme.status)

A fit that the table cannot support is a status in the record, never an exception and never a bare
number; a table that is not one (missing columns, text in numbers, no dense runs) is a ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from scipy import stats

from bitlaw.laws import diagnose, forms, interval, solve
from bitlaw.laws.runs import Runs
from bitlaw.laws.solve import Design

LAWS = {"effective": forms.effective}
DEFAULT_DELTA = 0.01  # 1 % of the loss: about the seed noise of a small model
HUBER_EFFICIENCY = 1.345  # delta in standard deviations: 95 % efficient on normal noise
POWER = 0.8  # of the minimum detectable difference


@dataclass(frozen=True)
class SchemeFit:
    """What the fit says about one scheme.

    eff        effective parameter multiplier, None where unidentified; 1 for dense by definition
    low, high  ends of its interval at the fit's level, None for dense and where unidentified
    mdd        minimum detectable difference: the smallest difference from ``eff`` that this design
               tells apart at the fit's level in 80 % of repetitions
    trend      d log eff / d log(D / N) with its interval: 0 where the law's constant eff holds
    rank       1 + the number of compressions whose interval lies wholly above this one's
    runs       runs in the table, of which ``converged`` entered the fit
    status     "ok", or every reason to doubt the number
    """

    scheme: str
    eff: float | None
    low: float | None
    high: float | None
    mdd: float | None
    trend: tuple[float, float, float] | None
    rank: int | None
    runs: int
    converged: int
    status: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """A fitted law, its doubts, and what it was fitted to. JSON-able through `to_dict`.

    params          the law's coefficients by name, in the units of `forms`; empty if unidentified
    intervals       (low, high) of each coefficient at ``level``
    objective       summed Huber of log(L_hat / L) at the optimum, with ``delta``
    rms, r2         of the log residuals over the runs fitted
    bootstrap       how the intervals were made; ``noise`` the noise model's shares
    excluded        (run_id, reason) of every run that did not enter the fit
    residuals       (run_id, log(L_hat / L)) of every run that did
    eff_against_b   the fit repeated at fixed b: objective and effs at each
    held_out        prediction of the largest size by a fit without it
    without_flagged the fit without runs whose embeddings and head exceed half of all parameters
    """

    law: str
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    schemes: tuple[SchemeFit, ...]
    status: tuple[str, ...]
    objective: float | None
    delta: float
    delta_source: str
    level: float
    bootstrap: str
    noise: dict[str, float]
    rms: float | None
    r2: float | None
    rows: int
    excluded: tuple[tuple[str, str], ...]
    residuals: tuple[tuple[str, float], ...]
    eff_against_b: tuple[diagnose.AtB, ...]
    held_out: diagnose.HeldOut | None
    flagged: tuple[str, ...]
    without_flagged: Fit | None = None

    def scheme(self, name: str) -> SchemeFit:
        """The entry of one scheme."""
        for entry in self.schemes:
            if entry.scheme == name:
                return entry
        raise ValueError(f"scheme must be in the fit, got {name!r}")

    def predict(self, n_params, d_tokens, scheme: str = "dense"):
        """The law's loss for this scheme."""
        eff = self.scheme(scheme).eff
        if eff is None or not self.params:
            raise ValueError(f"scheme must be identified by the fit, got {scheme!r}")
        return LAWS[self.law](n_params, d_tokens, eff, **self.params)

    def to_dict(self) -> dict:
        """Plain dicts, lists, strings and numbers; `from_dict` gives the record back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping) -> Fit:
        """The record of `to_dict`, also after a round trip through JSON."""
        values = {field.name: record[field.name] for field in fields(cls)}
        if values["without_flagged"] is not None:
            values["without_flagged"] = cls.from_dict(values["without_flagged"])
        if values["held_out"] is not None:
            values["held_out"] = _typed(diagnose.HeldOut, values["held_out"])
        values["schemes"] = tuple(_typed(SchemeFit, entry) for entry in values["schemes"])
        values["eff_against_b"] = tuple(
            _typed(diagnose.AtB, entry) for entry in values["eff_against_b"]
        )
        values["intervals"] = {k: tuple(v) for k, v in values["intervals"].items()}
        return _typed(cls, values)


def _typed(kind, values: Mapping):
    """``kind(**values)`` with lists as tuples, which is all that JSON changes."""
    return kind(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def fit(
    runs: Runs,
    law: str = "effective",
    level: float = 0.9,
    resamples: int = 1000,
    delta: float | None = None,
    seed: int = 0,
) -> Fit:
    """The law fitted to these runs.

    Args:
        runs: the table; diverged runs are counted, not fitted.
        law: a name of LAWS.
        level: of the intervals.
        resamples: of the bootstrap.
        delta: Huber's delta on log residuals; None takes it from replicates (runs that differ only
            in seed), or DEFAULT_DELTA where there are none.
        seed: of the bootstrap.

    Raises:
        ValueError: unknown law, a level outside (0, 1), fewer than 20 resamples, delta <= 0.
    """
    if law not in LAWS:
        raise ValueError(f"law must be one of {sorted(LAWS)}, got {law!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    if resamples < 20:
        raise ValueError(f"resamples must be at least 20, got {resamples}")
    if delta is not None and not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    doubts = {name: diagnose.unidentified(runs[runs.scheme == name]) for name in runs.schemes()}
    used = ~runs.diverged & np.array([not doubts[name] for name in runs.scheme])
    delta, delta_source = (delta, "given") if delta else delta_from_replicates(runs[used])
    flagged = runs.n_params < 0.5 * runs.n_total
    common = dict(
        law=law,
        delta=delta,
        delta_source=delta_source,
        level=level,
        rows=len(runs),
        excluded=_excluded(runs, doubts),
        flagged=tuple(runs.run_id[flagged].tolist()),
    )
    if doubts["dense"]:
        return _unidentified(runs, doubts, common)
    result = _fit_identified(runs, used, doubts, common, resamples, seed)
    if flagged.any() and (runs.scheme[~flagged] == "dense").any():
        result = replace(
            result, without_flagged=fit(runs[~flagged], law, level, resamples, delta, seed)
        )
    return result


def delta_from_replicates(runs: Runs) -> tuple[float, str]:
    """Huber's delta and where it came from.

    1.345 pooled standard deviations of log loss over runs that differ only in their seed.
    """
    cells: dict[tuple, list[float]] = {}
    for key in zip(runs.scheme, runs.n_params, runs.d_tokens, runs.loss, strict=True):
        cells.setdefault(key[:3], []).append(math.log(key[3]))
    repeated = [np.array(cell) for cell in cells.values() if len(cell) > 1]
    freedom = sum(len(cell) - 1 for cell in repeated)
    if freedom:
        sd = math.sqrt(sum(float(np.sum((cell - cell.mean()) ** 2)) for cell in repeated) / freedom)
        if sd > 1e-6:  # identical replicates are copies, not noise
            source = f"{HUBER_EFFICIENCY} x replicate sd {sd:.2%} ({freedom} degrees of freedom)"
            return HUBER_EFFICIENCY * sd, source
    return DEFAULT_DELTA, "default (no replicates in the table)"


def _excluded(runs: Runs, doubts: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, str], ...]:
    """(run_id, reason) of the runs that do not enter the fit."""
    reasons = []
    for run_id, scheme, diverged in zip(runs.run_id, runs.scheme, runs.diverged, strict=True):
        if diverged:
            reasons.append((str(run_id), "diverged"))
        elif doubts[scheme]:
            reasons.append((str(run_id), doubts[scheme][0]))
    return tuple(reasons)


def _status(runs: Runs, name: str, reasons: tuple[str, ...]) -> dict:
    """The counts and the status of a scheme, as fields of SchemeFit."""
    mine = runs.scheme == name
    total, converged = int(mine.sum()), int((mine & ~runs.diverged).sum())
    if converged < total:
        reasons = (*reasons, f"conditional on convergence ({converged} of {total})")
    return dict(scheme=name, runs=total, converged=converged, status=reasons or ("ok",))


def _unidentified(runs: Runs, doubts: Mapping[str, tuple[str, ...]], common: Mapping) -> Fit:
    """The record of a table whose dense runs do not identify the law."""
    because = tuple(f"dense is {reason}" for reason in doubts["dense"])
    blank = dict(eff=None, low=None, high=None, mdd=None, trend=None, rank=None)
    schemes = tuple(
        SchemeFit(**_status(runs, name, reasons or ("unidentified: dense is",)), **blank)
        for name, reasons in doubts.items()
    )
    return Fit(
        params={}, intervals={}, schemes=schemes, status=because, objective=None, bootstrap="none",
        noise={}, rms=None, r2=None, residuals=(), eff_against_b=(), held_out=None, **common,
    )  # fmt: skip


def _fit_identified(runs, used, doubts, common, resamples, seed) -> Fit:
    """The record of a table that identifies dense and the schemes without doubts."""
    names = [name for name, reasons in doubts.items() if not reasons]
    table, level, delta = runs[used], common["level"], common["delta"]
    design = diagnose.design_of(table, names)
    log_loss = np.log(table.loss)
    theta = solve.fit_one(design, log_loss, delta)
    draws = interval.resample(table, design, theta, delta, resamples, seed)
    at_b = diagnose.eff_against_b(design, log_loss, delta, theta, names)
    effs = _scheme_effs(table, design, theta, draws, level, names)
    schemes = tuple(
        SchemeFit(**_status(runs, name, reasons or effs[name].pop("doubts")), **effs[name])
        if not reasons
        else SchemeFit(
            **_status(runs, name, reasons),
            eff=None, low=None, high=None, mdd=None, trend=None, rank=None,
        )
        for name, reasons in doubts.items()
    )  # fmt: skip
    residual = np.log(solve.predict(design, theta[None])[0]) - log_loss
    spread = float(np.sum((log_loss - log_loss.mean()) ** 2))
    return Fit(
        params=_params(design, theta),
        intervals=_param_intervals(design, draws, level),
        schemes=schemes,
        status=diagnose.statuses(table, design, theta, log_loss, delta, at_b),
        objective=float(solve.objective(design, theta[None], log_loss, np.ones(1), delta)[0]),
        bootstrap=draws.method,
        noise=draws.shares,
        rms=float(np.sqrt(np.mean(residual**2))),
        r2=1 - float(np.sum(residual**2)) / spread if spread else None,
        residuals=tuple(zip(table.run_id.tolist(), residual.tolist(), strict=True)),
        eff_against_b=at_b,
        held_out=diagnose.hold_out(table, names, delta, theta[-2]),
        **common,
    )


def _params(design: Design, theta) -> dict[str, float]:
    """The law's coefficients: the solver works with N / N0 and D / D0, the law with N and D."""
    s = design.schemes
    b, d = float(theta[s + 2]), float(theta[s + 3])
    return {
        "a": float(theta[0]) * design.n0**b,
        "b": b,
        "c": float(theta[s]) * design.d0**d,
        "d": d,
        "e": float(theta[s + 1]),
    }


def _param_intervals(design, draws, level) -> dict[str, tuple[float, float]]:
    """The interval of each coefficient; a and c run along with b and d over decades."""
    every = [_params(design, row) for row in draws.theta]
    tails = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: tuple(np.quantile([row[name] for row in every], tails).tolist()) for name in every[0]
    }


def _scheme_effs(table, design, theta, draws, level, names) -> dict[str, dict]:
    """eff, interval, minimum detectable difference, trend and rank of each scheme."""
    log_eff = solve.log_eff(design, theta[None])[0]
    low, high = draws.interval(log_eff, solve.log_eff(design, draws.theta), level)
    z = stats.norm.ppf((1 + level) / 2)
    detectable = (high - low) / 2 * (z + stats.norm.ppf(POWER)) / z
    trend = diagnose.trend(table, design, theta, draws, level)
    effs = {}
    for k, name in enumerate(names):
        eff = float(np.exp(log_eff[k]))
        if name == "dense":
            effs[name] = dict(eff=1.0, low=None, high=None, mdd=None, trend=None, rank=None)
            effs[name]["doubts"] = ()
            continue
        above = int(np.sum(low[1:] > high[k]))
        at_bound = theta[k] <= solve.SMALLEST_AMPLITUDE or theta[0] <= solve.SMALLEST_AMPLITUDE
        effs[name] = dict(
            eff=eff,
            low=float(np.exp(low[k])),
            high=float(np.exp(high[k])),
            mdd=eff * math.expm1(detectable[k]),
            trend=trend[k],
            rank=1 + above,
            doubts=("bound hit: eff",) if at_bound else (),
        )
    return effs
