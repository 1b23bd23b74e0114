"""What a table can identify, and how a fit moves when something about it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitlaw.laws import nested, search, solve
from bitlaw.laws.interval import Resamples
from bitlaw.laws.problem import Problem
from bitlaw.laws.runs import Runs
from bitlaw.laws.solve import Array, Design

SMALLEST_SPREAD = 4.0  # of tokens per parameter
HELD_EXPONENTS = (0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5)
ALIGNED = 0.9  # correlation of log N and log D above which D = kN nearly
FLAT = 2.706  # 90 % point of chi-squared with one degree of freedom
NEAR_BEST = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)  # of the best b
MISFIT = 3.0  # |t| of a pattern in the residuals that noise does not explain
FLAT_RATIO = 4.0  # an exponent known to less than this factor lies in a flat valley


@dataclass(frozen=True)
class AtB:
    """The fit at a fixed b: its excess of chi-squared over the best fit, and the effs there."""

    b: float
    excess: float
    effs: dict[str, float]


def design_of(runs: Runs, names: Sequence[str]) -> Design:
    """The solver's design of these runs, schemes numbered as in ``names`` (dense first)."""
    number = {name: k for k, name in enumerate(names)}
    scheme = np.array([number[name] for name in runs.scheme], dtype=np.int64)
    return Design.of(runs.n_params, runs.d_tokens, scheme, len(names))


def unidentified(runs: Runs) -> tuple[str, ...]:
    """Why a scheme's runs do not identify its eff; empty if they do; diverged runs do not count."""
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


def unidentified_law(runs: Runs, doubts: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Why the runs of all identified schemes together do not identify the law; empty if they do."""
    if doubts["dense"]:
        return tuple(f"dense is {reason}" for reason in doubts["dense"])
    parameters = 4 + sum(not reasons for reasons in doubts.values())
    if len(runs) <= parameters:
        return (f"unidentified: {len(runs)} runs for {parameters} parameters",)
    if len(np.unique(runs.loss)) < 2:
        return ("unidentified: one value of loss",)
    return ()


def bound_hit(value: float, low: float, high: float) -> str:
    """Where a number is that ended on a bound of its search: ">" or "<" of it; else ""."""
    return ">" if value >= high else "<" if value <= low else ""


def statuses(
    runs: Runs,
    design: Design,
    theta: Array,
    log_loss: Array,
    delta: float,
    at_b: Sequence[AtB],
    draws: Resamples,
) -> tuple[str, ...]:
    """Every reason to doubt the fit as a whole, or ("ok",)."""
    found = []
    lower, upper = design.bounds()
    if theta[0] <= lower[0]:
        found.append("bound hit: a = 0")
    for name, place in (("c", -4), ("e", -3), ("b", -2), ("d", -1)):
        value = theta[place]
        if side := bound_hit(value, lower[place], upper[place]):
            found.append(f"bound hit: {name} {side if value else '='} {value:g}")
    profiles = {
        "b": [(row.b, row.excess) for row in at_b],
        "d": profile_of_d(design, log_loss, delta, theta),
    }
    for name, profile in profiles.items():
        inside = [value for value, excess in profile if excess < FLAT]
        if inside and inside[-1] >= FLAT_RATIO * inside[0]:
            found.append(
                f"flat valley: {name} from {inside[0]:.2g} to {inside[-1]:.2g} fits as well"
            )
    correlation = np.corrcoef(np.log(runs.n_params), np.log(runs.d_tokens))[0, 1]
    if correlation > ALIGNED:
        found.append(
            f"ill-conditioned: D = kN nearly (correlation {correlation:.3f} of log N, log D)"
        )
    t = interaction(runs, design, theta, log_loss, draws)
    if abs(t) > MISFIT:
        found.append(f"misfit: residuals vary with log N x log D (t = {t:.1f})")
    return tuple(found) or ("ok",)


def interaction(
    runs: Runs, design: Design, theta: Array, log_loss: Array, draws: Resamples
) -> float:
    """t of a term log(N / N0) log(D / D0) in log(L_hat / L); 0 where the runs do not tell.

    The law has no such term, so its coefficient is noise if the law holds. Neither noise model of
    `nested.added_terms` knows of noise that schemes share at one budget alone (the batches of one
    cool-down), hence MISFIT.
    """
    z = (design.log_n * design.log_d)[:, None]
    terms = nested.added_terms(runs, design, theta, log_loss, draws, z)
    return 0.0 if terms is None else float(-terms.estimate[0] / terms.covariance[0, 0] ** 0.5)


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
    """The fit repeated with b held at HELD_EXPONENTS and around its best, the fit among them.

    The published pitfall: QuEST's W4A4 eff goes from .69 to .60 as b goes from .063 to .20.
    """
    rows = []
    best = float(theta[-2])
    near = (best * factor for factor in NEAR_BEST)
    smallest, largest = solve.EXPONENTS
    for b in sorted({*HELD_EXPONENTS, best, *(b for b in near if smallest <= b <= largest)}):
        there = theta if b == best else solve.fit_one(design, log_loss, delta, b=b)
        effs = solve.effs(design, there[None])[0]
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
    once = np.ones((1, len(runs)))
    slope = _slopes(design, ratio, theta[None], np.log(runs.loss)[None], once)[0]
    drawn = _slopes(design, ratio, draws.theta, draws.log_loss, draws.weight)
    low, high = draws.interval(slope, slope + drawn - np.median(drawn, axis=0), level)
    return list(zip(slope.tolist(), low.tolist(), high.tolist(), strict=True))


def _slopes(design: Design, ratio: Array, theta: Array, log_loss: Array, weight: Array) -> Array:
    """The regressions of `trend`, f64[batch, schemes]."""
    b = theta[:, -2:-1]
    log_fitted = np.log(solve.predict(design, theta))
    s = b * theta[:, design.scheme] * np.exp(-b * design.log_n - log_fitted)
    own = (log_fitted - log_loss) / s
    w = weight * s**2
    result = np.zeros((len(theta), design.schemes))
    for k in range(design.schemes):
        mine = design.scheme == k
        total = np.sum(w[:, mine], axis=1, keepdims=True)
        x = ratio[mine] - np.sum(w[:, mine] * ratio[mine], axis=1, keepdims=True) / total
        wx = w[:, mine] * x
        result[:, k] = np.sum(wx * own[:, mine], axis=1) / np.maximum(
            np.sum(wx * x, axis=1), 1e-300
        )
    return result


def condition(problem: Problem, z: Array) -> float:
    """Largest over smallest singular value of the derivatives of the fitted response at z.

    Every column (a coefficient) has unit length, every row (a run) its weight in the objective.
    The larger it is, the more the coefficients trade off: 1 is a design of orthogonal effects,
    and where D = kN exactly it grows without bound. Coefficients no run depends on do not count.
    """
    jacobian, _ = search.weighted_jacobian(problem, z)
    length = np.linalg.norm(jacobian, axis=0)
    columns = jacobian[:, length > 1e-9 * length.max()] / length[length > 1e-9 * length.max()]
    values = np.linalg.svd(columns, compute_uv=False)
    return float(values[0] / max(values[-1], 1e-300))
