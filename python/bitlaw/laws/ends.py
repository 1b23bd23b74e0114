"""Where the interval of a coefficient ends: at a quantile of its resamples, or nowhere.

A search is bounded, so a resample may end on a bound where without it the coefficient would have
gone on. Where more of them do than the tail of the interval holds, its end is that of the search
and says nothing of the runs: it is None. That holds for a coefficient in units of its columns, too:
the a of a / N^b runs along with b over decades, so its end is open where b's is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitlaw.laws.interval import Resamples
from bitlaw.laws.solve import Array

Ends = tuple[float | None, float | None]


def pushed(
    z: Array, bounds: tuple[Array, Array], k: int, powers: Sequence[tuple[int, float]] = ()
) -> NDArray[np.int64]:
    """Where each resample's coefficient k would go without the bounds: up 1, down -1, else 0.

    Args:
        z: f64[resamples, parameters].
        bounds: lower and upper, f64[parameters] each; a least of 0 that a coefficient has by its
            meaning is none, and -inf here.
        k: its place.
        powers: (place of an exponent, d log coefficient / d exponent) of each exponent that the
            coefficient runs along with.
    """
    lower, upper = bounds
    side = (z >= upper).astype(np.int64) - (z <= lower)
    along = [side[:, place] * int(np.sign(slope)) for place, slope in powers]
    return np.sign(np.sum([side[:, k], *along], axis=0))


def interval(
    draws: Resamples, estimate: float, drawn: Array, push: NDArray, level: float, least: float
) -> Ends:
    """The bootstrap's interval, on the logarithm where every draw has one.

    Args:
        draws: how the resamples were made.
        estimate, drawn: the coefficient's value in the fit and f64[resamples].
        push: of each resample, by `pushed`.
        level: of the interval.
        least: that the coefficient can be.
    """
    finite = np.isfinite(drawn)
    if not finite.any():
        return None, None
    drawn, push, tail = drawn[finite], push[finite], (1 - level) / 2
    if estimate > 0 and (drawn > 0).all():
        ends = np.exp(draws.interval(np.log(estimate), np.log(drawn), level))
    else:
        ends = np.maximum(draws.interval(np.float64(estimate), drawn, level), least)
    below, above = np.mean(push < 0) > tail, np.mean(push > 0) > tail
    return None if below else float(ends[0]), None if above else float(ends[1])
