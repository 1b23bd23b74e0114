"""Profile likelihood: hold one coefficient, refit every other, see how much worse the fit becomes.

    excess(v) = 2 (min over the others of the objective at v - its minimum) / s^2
    s^2 = 2 minimum / (runs - parameters)

The interval holds the v whose excess is below the square of Student's t at the level, with the
degrees of freedom of s^2: exact where the law is linear. It takes runs as independent; where they
are not (budgets of one trunk, pairs of one seed), the bootstrap's intervals are the honest ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from bitlaw.laws import search
from bitlaw.laws.cores import steady
from bitlaw.laws.problem import Array, Problem
from bitlaw.laws.record import Profile

STEPS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)  # standard errors from the fit, to each side
FARTHEST = 25.0  # excess beyond which nobody looks
LARGEST_STEP = 10.0  # of a logarithm: a standard error above it is that of a flat valley


@steady
def profiles(
    problem: Problem, z: Array, level: float, names: Sequence[str] | None = None
) -> tuple[Profile, ...]:
    """The profiles of the coefficients (of all, or of ``names``) around the best fit z."""
    problem, z = _plain(problem, z)
    every = problem.names
    places = [every.index(name) for name in (every if names is None else names)]
    best = float(search.values(problem, z[None])[0])
    freedom = max(1, len(problem.loss) - len(z))
    variance = max(2 * best / freedom, 1e-12)  # 1e-6 of noise: as in `diagnose`
    limit = float(stats.t.ppf((1 + level) / 2, freedom)) ** 2
    held = [_ladder(problem, z, k, variance) for k in places]
    excess = _excess(problem, held, places, best, variance)
    ends = [
        _crossings(z[k], h[:, k], x, limit) for k, h, x in zip(places, held, excess, strict=True)
    ]
    refined = [
        _between(h, k, [v for v in e if v is not None])
        for k, h, e in zip(places, held, ends, strict=True)
    ]
    again = _excess(problem, refined, places, best, variance)
    found = []
    for row, k in enumerate(places):
        values = np.concatenate([held[row][:, k], refined[row][:, k], z[k : k + 1]])
        rise = np.concatenate([excess[row], again[row], [0.0]])
        order = np.argsort(values)
        values, rise = values[order], rise[order]
        found.append(_profile(problem, z, k, values, rise, limit))
    return tuple(found)


def _plain(problem: Problem, z: Array) -> tuple[Problem, Array]:
    """The same fit with the coefficients themselves, or their logarithms, for coordinates.

    The scale of a in a / N^b depends on b: to hold it in units of its scale is not to hold a.
    """
    params = {name: float(v[0]) for name, v in problem.coefficients(z[None]).items()}
    changed = []
    for c in problem.law.coefficients:
        place = c.range
        if place.scale and (place.log or params[c.name] > 0):
            place = replace(place, low=1e-300, high=1e300, log=True, linear=False)
        changed.append(replace(c, range=replace(place, scale=())))
    plain = replace(problem, law=replace(problem.law, coefficients=tuple(changed)))
    return plain, plain.coordinates_of(params)


def _ladder(problem: Problem, z: Array, k: int, variance: float) -> Array:
    """Vectors with coordinate k held at STEPS standard errors, the others where a line says."""
    jacobian, _ = search.weighted_jacobian(problem, z)
    scale = np.linalg.norm(jacobian, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    covariance = np.linalg.pinv((jacobian / scale).T @ (jacobian / scale), rcond=1e-12)
    along = covariance[:, k] / scale
    spread = np.sqrt(variance * max(covariance[k, k], 1e-300)) / scale[k]
    direction = along / along[k] if along[k] else np.eye(len(z))[k]
    if problem.coordinates[k][0].range.log:
        spread = min(spread, LARGEST_STEP)
    steps = spread * np.array([*(-s for s in reversed(STEPS)), *STEPS])
    lower, upper = problem.bounds()
    there = np.clip(z + steps[:, None] * direction, lower, upper)
    value = np.clip(z[k] + steps, lower[k], upper[k])
    value[np.abs(value - z[k]) < 1e-12] = z[k]
    there[:, k] = value
    return there


def _between(held: Array, k: int, values: Sequence[float]) -> Array:
    """Vectors for other values of coordinate k, between those of the ladder."""
    order = np.argsort(held[:, k])
    return np.array(
        [
            [
                np.interp(v, held[order, k], held[order, j]) if j != k else v
                for j in range(held.shape[1])
            ]
            for v in values
        ]
    ).reshape(len(values), held.shape[1])


def _excess(
    problem: Problem, held: list[Array], places: list[int], best: float, variance: float
) -> list[Array]:
    """The excess at each of these vectors once all but the held coordinate are refitted.

    The refitted vectors replace those in ``held``.
    """
    counts = [len(h) for h in held]
    stacked = np.concatenate(held)
    if not len(stacked):
        return [np.zeros(0) for _ in held]
    lower, upper = (np.tile(bound, (len(stacked), 1)) for bound in problem.bounds())
    owner = np.repeat(places, counts)
    rows = np.arange(len(stacked))
    lower[rows, owner] = upper[rows, owner] = stacked[rows, owner]
    target = np.tile(problem.target, (len(stacked), 1))
    found = search.refit(problem, stacked, target, lower=lower, upper=upper, tolerance=1e-7)
    rise = 2 * (search.values(problem, found) - best) / variance
    cuts = np.cumsum(counts)[:-1]
    for h, part in zip(held, np.split(found, cuts), strict=True):
        h[:] = part
    return np.split(np.maximum(rise, 0.0), cuts)


def _crossings(
    centre: float, values: Array, excess: Array, limit: float
) -> tuple[float | None, float | None]:
    """Where the excess passes the limit below and above the centre; None where it does not.

    The root of the excess is nearly straight, so a line between two neighbours meets it well.
    """
    ends: list[float | None] = []
    for side in (-1, 1):
        mine = side * (values - centre) > 0
        distance = np.concatenate([[0.0], np.abs(values[mine] - centre)])
        root = np.concatenate([[0.0], np.sqrt(excess[mine])])
        order = np.argsort(distance)
        distance, root = distance[order], root[order]
        above = np.flatnonzero(root > np.sqrt(limit))
        if not len(above):
            ends.append(None)
            continue
        j = int(above[0])
        share = (np.sqrt(limit) - root[j - 1]) / (root[j] - root[j - 1])
        ends.append(
            float(centre + side * (distance[j - 1] + share * (distance[j] - distance[j - 1])))
        )
    return ends[0], ends[1]


def _profile(
    problem: Problem, z: Array, k: int, values: Array, excess: Array, limit: float
) -> Profile:
    """The profile in units of the coefficient."""
    low, high = _crossings(z[k], values, excess, limit)
    if low is None and problem.coordinates[k][0].range.low == 0.0:
        low = 0.0  # the bound itself fits well enough
    shown = excess <= FARTHEST
    name = problem.names[k]

    unit = math.exp if problem.coordinates[k][0].range.log else float
    ends = [None if end is None else unit(end) for end in (low, high)]
    shown_values = tuple(unit(value) for value in values[shown])
    return Profile(name, *ends, shown_values, tuple(excess[shown].tolist()))
