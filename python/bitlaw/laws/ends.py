"""Where the interval of a coefficient ends: at a quantile of its resamples, or nowhere.

A search is bounded, so a resample may end on a bound where without it the coefficient would have
gone on. Where more of them do than the tail of the interval holds, its end is that of the search
and says nothing of the runs: it is None. That holds for a coefficient in units of its columns, too:
the a of a / N^b runs along with b over decades, so its end is open where b's is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitlaw.laws.interval import Resamples
from bitlaw.laws.solve import Array

Ends = tuple[float | None, float | None]


def pushed(
    z: Array, bounds: tuple[Array, Array], k: int, powers: Sequence[tuple[int, ArrayLike]] = ()
) -> NDArray[np.bool_]:
    """bool[2, resamples]: whether coefficient k would go down, and up, without the bounds.

    Both where exponents on their bounds pull both ways.

    Args:
        z: f64[resamples, parameters].
        bounds: lower and upper, f64[parameters] each; a least of 0 that a coefficient has by its
            meaning is none, and -inf here.
        k: its place.
        powers: (place of an exponent, d coefficient / d exponent, of which the sign counts) of
            each exponent that the coefficient runs along with.
    """
    lower, upper = bounds
    side = (z >= upper).astype(np.int64) - (z <= lower)
    pulls = [side[:, k], *(side[:, place] * np.sign(slope) for place, slope in powers)]
    return np.array([np.any(np.less(pulls, 0), axis=0), np.any(np.greater(pulls, 0), axis=0)])


def interval(
    draws: Resamples, estimate: float, drawn: Array, push: NDArray, level: float, least: float
) -> Ends:
    """The bootstrap's interval; each end on the logarithm where it has one.

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
    drawn, tail = drawn[finite], (1 - level) / 2
    below, above = push[:, finite].mean(axis=1) > tail + 1e-9

    def end(quantile: float) -> float:
        if least >= 0 and estimate > 0 and quantile > 0:
            return float(estimate * (quantile / estimate) ** draws.widening)
        return float(max(estimate + draws.widening * (quantile - estimate), least))

    low, high = np.quantile(drawn, [tail, 1 - tail])
    return None if below else end(low), None if above else end(high)
