"""What a table can identify, and how a fit moves when something about it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitlaw.laws import solve
from bitlaw.laws.interval import Resamples
from bitlaw.laws.runs import Runs
from bitlaw.laws.solve import Array, Design

SMALLEST_SPREAD = 4.0  # of tokens per parameter
HELD_EXPONENTS = (0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5)
FLAT = 2.706  # 90 % point of chi-squared with one degree of freedom
FLAT_RATIO = 4.0  # an exponent known to less than this factor lies in a flat valley


@dataclass(frozen=True)
class AtB:
    """The fit at a fixed b: its excess of chi-squared over the best fit, and the effs there."""

    b: float
    excess: float
    effs: dict[str, float]


@dataclass(frozen=True)
class HeldOut:
    """The largest size, predicted by a fit without it.

    rows holds (run_id, measured loss, predicted loss); rms and bias are of log(predicted / measured).
    """

    n_params: float
    rms: float
    bias: float
    rows: tuple[tuple[str, float, float], ...]
    note: str


def design_of(runs: Runs, names: Sequence[str]) -> Design:
    """The solver's design of these runs, schemes numbered as in ``names`` (dense first)."""
    number = {name: k for k, name in enumerate(names)}
    scheme = np.array([number[name] for name in runs.scheme], dtype=np.int64)
    return Design.of(runs.n_params, runs.d_tokens, scheme, len(names))


def unidentified(runs: Runs) -> tuple[str, ...]:
    """Why one scheme's runs do not identify its eff; empty if they do. Diverged runs do not count."""
    runs = runs[~runs.diverged]
    if not len(runs):
        return ("unidentified: no converged run",)
    reasons = []
    for what, column in (("size", runs.n_params), ("budget", runs.d_tokens)):
        if len(np.unique(column)) < 2:
            reasons.append(f"unidentified: one {what}")
    ratio = runs.d_tokens / runs.n_params
    spread = ratio.max() / ratio.min()
    if not reasons and spread < SMALLEST_SPREAD:
        equal = " (D = kN)" if spread < 1.05 else ""
        reasons.append(
            f"unidentified: tokens per parameter spread {spread:.1f}x{equal}, "
            f"at least {SMALLEST_SPREAD:.0f}x needed"
        )
    return tuple(reasons)


def statuses(
    runs: Runs, design: Design, theta: Array, log_loss: Array, delta: float, at_b: Sequence[AtB]
) -> tuple[str, ...]:
    """Every reason to doubt the fit as a whole, or ("ok",)."""
    found = []
    lower, upper = design.bounds()
    for name, place in (("c", -4), ("e", -3), ("b", -2), ("d", -1)):
        for bound in (lower[place], upper[place]):
            if theta[place] == bound:
                found.append(f"bound hit: {name} = {bound:g}")
    profiles = {
        "b": [(row.b, row.excess) for row in at_b],
        "d": profile_of_d(design, log_loss, delta, theta),
    }
    for name, profile in profiles.items():
        inside = [value for value, excess in profile if excess < FLAT]
        if inside and inside[-1] >= FLAT_RATIO * inside[0]:
            found.append(f"flat valley: {name} from {inside[0]:g} to {inside[-1]:g} fits as well")
    correlation = np.corrcoef(np.log(runs.n_params), np.log(runs.d_tokens))[0, 1]
    if correlation > 0.95:
        found.append(f"ill-conditioned: D = kN nearly (correlation {correlation:.3f} of log N, log D)")
    return tuple(found) or ("ok",)


def _excess(design: Design, theta: Array, other: Array, log_loss: Array, delta: float) -> float:
    """Rise of the objective from ``theta`` to ``other`` in units of chi-squared."""
    ones = np.ones(1)
    best, there = (
        float(solve.objective(design, t[None], log_loss, ones, delta)[0]) for t in (theta, other)
    )
    variance = 2 * best / max(1, len(log_loss) - design.size)
    return 2 * (there - best) / max(variance, 1e-12)  # 1e-6 of noise: an exact table is not flat


def eff_against_b(
    design: Design, log_loss: Array, delta: float, theta: Array, names: Sequence[str]
) -> tuple[AtB, ...]:
    """The fit repeated with b held at each of HELD_EXPONENTS.

    The published pitfall: QuEST's W4A4 eff goes from .69 to .60 as b goes from .063 to .20.
    """
    rows = []
    for b in HELD_EXPONENTS:
        there = solve.fit_one(design, log_loss, delta, b=b)
        effs = np.exp(solve.log_eff(design, there[None])[0])
        excess = _excess(design, theta, there, log_loss, delta)
        rows.append(AtB(b, excess, dict(zip(names, effs.tolist(), strict=True))))
    return tuple(rows)


def profile_of_d(
    design: Design, log_loss: Array, delta: float, theta: Array
) -> list[tuple[float, float]]:
    """(d, excess of chi-squared with d held there)."""
    return [
        (d, _excess(design, theta, solve.fit_one(design, log_loss, delta, d=d), log_loss, delta))
        for d in HELD_EXPONENTS
    ]


def trend(
    runs: Runs, design: Design, theta: Array, draws: Resamples, level: float
) -> list[tuple[float, float, float]]:
    """(slope, low, high) of log eff against log(D / N) for each scheme.

    The law says 0. Near the fit a run's own eff differs from its scheme's by

        log eff_run - log eff_C = -r / s,   r = log(L / L_hat),   s = b A_C (N / N0)^-b / L_hat

    and the slope is the regression of that, weighted by s^2, on log(D / N).
    """
    ratio = np.log(runs.d_tokens / runs.n_params)

    def slopes(parameters: Array, log_loss: Array, weight: Array) -> Array:
        fitted = np.log(solve.predict(design, parameters))
        amplitude = parameters[:, design.scheme] * parameters[:, -2:-1]
        reach = amplitude * np.exp(-parameters[:, -2:-1] * design.log_n - fitted)
        result = np.zeros((len(parameters), design.schemes))
        for k in range(design.schemes):
            mine = design.scheme == k
            w = weight[:, mine] * reach[:, mine] ** 2
            own = (fitted - log_loss)[:, mine] / reach[:, mine]
            x = ratio[mine] - np.sum(w * ratio[mine], axis=1, keepdims=True) / np.sum(
                w, axis=1, keepdims=True
            )
            result[:, k] = np.sum(w * x * own, axis=1) / np.maximum(np.sum(w * x * x, axis=1), 1e-300)
        return result

    slope = slopes(theta[None], np.log(runs.loss)[None], np.ones((1, len(runs))))[0]
    drawn = slopes(draws.theta, draws.log_loss, draws.weight)
    centred = slope + drawn - np.median(drawn, axis=0)
    low, high = draws.interval(slope, centred, level)
    return list(zip(slope.tolist(), low.tolist(), high.tolist(), strict=True))


def hold_out(runs: Runs, names: Sequence[str], delta: float, b: float) -> HeldOut | None:
    """The largest size predicted from the others; None with fewer than three sizes.

    Two remaining sizes do not tell b from e: there b is held at the value of the whole fit.
    """
    sizes = np.unique(runs.n_params)
    if len(sizes) < 3:
        return None
    held = runs.n_params == sizes[-1]
    kept = [name for name in names if name in runs.scheme[~held]]
    held &= np.isin(runs.scheme, kept)
    whole = design_of(runs[np.isin(runs.scheme, kept)], kept)
    fitted_on = (~held)[np.isin(runs.scheme, kept)]
    part = Design(
        whole.log_n[fitted_on], whole.log_d[fitted_on], whole.scheme[fitted_on],
        whole.schemes, whole.n0, whole.d0,
    )  # fmt: skip
    rest = runs[np.isin(runs.scheme, kept) & ~held]
    fixed = b if len(sizes) == 3 else None
    theta = solve.fit_one(part, np.log(rest.loss), delta, b=fixed)
    predicted = solve.predict(whole, theta[None])[0][~fitted_on]
    target = runs[held]
    error = np.log(predicted / target.loss)
    return HeldOut(
        n_params=float(sizes[-1]),
        rms=float(np.sqrt(np.mean(error**2))),
        bias=float(np.mean(error)),
        rows=tuple(
            zip(target.run_id.tolist(), target.loss.tolist(), predicted.tolist(), strict=True)
        ),
        note=f"b held at {b:.3f}, the value of the whole fit" if fixed else "b free",
    )
