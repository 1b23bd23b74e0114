"""What a fit says about each scheme: its multiplier, interval, rank, and the doubts about them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import stats

from bitlaw.laws import diagnose, solve
from bitlaw.laws.interval import Resamples
from bitlaw.laws.record import SchemeFit
from bitlaw.laws.runs import Runs
from bitlaw.laws.solve import Array, Design

POWER = 0.8  # of the minimum detectable difference
UNBOUNDED = math.log(solve.LARGEST_EFF)  # |log eff| beyond which a number says nothing
HARDLY_BOUNDED = math.log(4)  # distance of an end of an interval from log eff that says little
LARGEST_DETECTABLE = 1.0  # a difference from dense above this is no statement about a design


def entries(runs: Runs, doubts: Mapping[str, tuple[str, ...]]) -> tuple[SchemeFit, ...]:
    """The entries of the schemes before any number is known, dense first."""
    found: list[SchemeFit] = []
    for name, reasons in doubts.items():
        diverged = runs.diverged[runs.scheme == name]
        total, converged = len(diverged), int((~diverged).sum())
        if converged < total:
            reasons = (*reasons, f"conditional on convergence ({converged} of {total})")
        if found and 0 < found[0].converged < found[0].runs:
            lost = f"({found[0].converged} of {found[0].runs})"
            reasons = (*reasons, f"conditional on convergence of dense {lost}")
        found.append(SchemeFit(name, total, converged, reasons or ("ok",)))
    return tuple(found)


def without_law(entries: tuple[SchemeFit, ...]) -> tuple[SchemeFit, ...]:
    """The entries where no law could be fitted: none of them is ok."""
    dense, *others = entries
    why = "law unidentified"
    if dense.status[0].startswith("unidentified"):
        why = f"dense {dense.status[0]}"
    elif dense.status == ("ok",):
        dense = replace(dense, status=(f"no number: {why}",))
    return (
        dense,
        *(
            replace(
                entry,
                status=(
                    *(reason for reason in entry.status if reason != "ok"),
                    f"no number: {why}",
                ),
            )
            for entry in others
        ),
    )


def ranked(entries: list[SchemeFit]) -> tuple[SchemeFit, ...]:
    """Dense first, then from the best to the worst; those without a number last."""
    dense, *others = entries
    return (dense, *sorted(others, key=lambda entry: -(entry.eff or 0)))


def numbers(runs: Runs, design: Design, theta: Array, draws: Resamples, level: float) -> list[dict]:
    """The numbers of each scheme's entry, and under "doubts" what is wrong with them."""
    log_eff = solve.log_eff(design, theta[None])[0]
    drawn = solve.log_eff(design, draws.theta)
    low, high = draws.interval(log_eff, drawn, level)
    rank = _ranks(log_eff, drawn, draws, level)
    unbounded = (high > UNBOUNDED) | (low < -UNBOUNDED)
    wide = np.maximum(high - log_eff, log_eff - low) > HARDLY_BOUNDED
    side = [_side(x, theta[0], a) for x, a in zip(log_eff, theta, strict=False)]
    log_eff, low, high = (np.clip(x, -UNBOUNDED, UNBOUNDED) for x in (log_eff, low, high))
    z = stats.norm.ppf((1 + level) / 2)
    detectable = np.expm1((high - low) / 2 * (z + stats.norm.ppf(POWER)) / z)
    trend = diagnose.trend(runs, design, theta, draws, level)
    dense = {"eff": 1.0, "doubts": ()}
    return [dense] + [
        {
            "eff": math.exp(log_eff[k]),
            "low": math.exp(low[k]),
            "high": math.exp(high[k]),
            "mdd": None if side[k] or detectable[k] > LARGEST_DETECTABLE else float(detectable[k]),
            "trend": trend[k],
            "rank": rank[k],
            "doubts": (
                *_at_bound(side[k], log_eff[k]),
                *(["interval unbounded"] if unbounded[k] or side[k] == "any" else []),
                *(["hardly bounded"] if wide[k] and not unbounded[k] and side[k] != "any" else []),
            ),
        }
        for k in range(1, design.schemes)
    ]


def _side(log_eff: float, dense: float, own: float) -> str:
    """Where this log eff is a bound: ">" or "<", "any" where it may be anything; else "".

    A bound for its own sake, or for that of an amplitude: one that ended on its least may be
    smaller. Of the scheme's own, eff is more; of dense, less; of both, their ratio says nothing.
    """
    if own <= solve.SMALLEST_AMPLITUDE:
        return "any" if dense <= solve.SMALLEST_AMPLITUDE else ">"
    if dense <= solve.SMALLEST_AMPLITUDE:
        return "<"
    return diagnose.bound_hit(log_eff, -UNBOUNDED, UNBOUNDED)


def _at_bound(side: str, log_eff: float) -> tuple[str, ...]:
    """The doubt about an eff on a bound; none without."""
    if side == "any":
        return ("bound hit: eff any (neither dense nor this scheme gains from size)",)
    return (f"bound hit: eff {side} {math.exp(log_eff):.4g}",) if side else ()


def _ranks(log_eff: Array, drawn: Array, draws: Resamples, level: float) -> list[int]:
    """1 + how many compressions have a paired difference to this one wholly above 0.

    A difference of two log effs is taken within each resample, where dense and the noise that two
    schemes share cancel; its interval is that of every other number. Dense (scheme 0) has no part.
    """
    ranks = [1]
    for k in range(1, len(log_eff)):
        low, _ = draws.interval(log_eff - log_eff[k], drawn - drawn[:, k : k + 1], level)
        ranks.append(1 + int(np.sum(np.delete(low, [0, k]) > 0)))
    return ranks


def with_numbers(entry: SchemeFit, numbers: Mapping[str, dict]) -> SchemeFit:
    """The entry with its scheme's numbers, if there are any, and the doubts that come with them."""
    if entry.scheme not in numbers:
        return entry
    values = dict(numbers[entry.scheme])
    status = (*values.pop("doubts"), *(reason for reason in entry.status if reason != "ok"))
    return replace(entry, **values, status=status or ("ok",))
