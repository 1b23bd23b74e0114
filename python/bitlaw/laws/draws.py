"""Resamples as a record keeps them: joint values of all coefficients, for whatever is planned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitlaw.laws.solve import Array

MOST = 200  # resamples kept; the 5 % point of so many moves by a fifth of a standard deviation
DIGITS = 7


def kept(
    fitted: Mapping[str, float], drawn: Mapping[str, Array], widening: float = 1.0
) -> dict[str, tuple[float, ...]]:
    """The first MOST resamples of every coefficient, by name, DIGITS digits each.

    Deviations from the fit grow by ``widening`` (on the logarithm where there is one), so that
    percentiles of what is kept are intervals. A resample with a value that is not finite is left
    out, for all coefficients.
    """
    names = list(fitted)
    values = np.stack([np.asarray(drawn[name], np.float64) for name in names], axis=1)
    values = values[np.isfinite(values).all(axis=1)][:MOST]
    result = {}
    for k, name in enumerate(names):
        here, column = fitted[name], values[:, k]
        if here > 0 and (column > 0).all():
            column = here * (column / here) ** widening
        else:
            column = here + widening * (column - here)
        result[name] = tuple(float(f"{value:.{DIGITS}g}") for value in column)
    return result
