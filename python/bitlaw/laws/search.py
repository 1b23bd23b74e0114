"""The best fit of any law: many starts, each taken to a local minimum, and what they agree on.

1. starts: a Sobol sequence over the coefficients' ranges. Coefficients that the loss is linear
   in are solved for at each (variable projection: re-weighted non-negative least squares).
2. the best of them, by L-BFGS-B where the law has no such coefficient
3. and then by the bounded Levenberg-Marquardt of `solve.polish`, to 1e-12 of the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.stats import qmc

from bitlaw.laws import solve
from bitlaw.laws.cores import in_pieces, steady
from bitlaw.laws.law import LawError
from bitlaw.laws.problem import Array, Problem

SCREENED = 256  # points of the sequence, a power of two
STARTS = 24
AGREE = 1e-6  # relative difference of two objectives that is the same minimum
CHUNK = 4_000_000  # numbers in the largest array of one batch


@dataclass(frozen=True)
class Found:
    """The best vector, the objective (a sum) that each start ended on, ascending, and doubts."""

    z: Array
    ends: tuple[float, ...]
    status: tuple[str, ...]


@steady
def search(problem: Problem, starts: int = STARTS, extra: Array | None = None) -> Found:
    """The best local minimum from ``starts`` starts and the vectors ``extra``.

    Raises:
        ValueError: the law has no finite loss at any start.
    """
    lower, upper = problem.bounds()
    z = screened(problem, starts)
    if extra is not None:
        z = np.concatenate([np.atleast_2d(extra), z])
    if not len(problem.linear):
        z = np.array([_lbfgs(problem, start, lower, upper) for start in z])
    z = refit(problem, z, np.tile(problem.target, (len(z), 1)), tolerance=1e-12)
    ends = values(problem, z)
    order = np.argsort(ends)
    z, ends = z[order], ends[order]
    return Found(z[0], tuple(ends.tolist()), _doubts(problem, z[0], ends))


def screened(problem: Problem, count: int) -> Array:
    """The ``count`` best points of the sequence, f64[count, parameters]."""
    z = sequence(problem)
    pieces = 1 + len(z) * len(problem.loss) * (len(problem.linear) + 2) // CHUNK
    z = np.concatenate([projected(problem, part) for part in np.array_split(z, pieces)])
    value = np.concatenate([values(problem, part) for part in np.array_split(z, pieces)])
    finite = np.isfinite(value)
    if not finite.any():
        raise LawError(f"law {problem.law.name} must have a finite loss at some start, got none")
    return z[np.argsort(np.where(finite, value, np.inf))[: min(count, int(finite.sum()))]]


def sequence(problem: Problem) -> Array:
    """The starting vectors; linear coordinates are 1."""
    ranges = [c.range for c, _ in problem.coordinates]
    ends = np.array([r.starts for r in ranges], float)
    logs = np.array([r.log for r in ranges])
    ends[logs] = np.log(ends[logs])
    unit = qmc.Sobol(len(ranges), seed=0).random(SCREENED)
    z = ends[:, 0] + unit * (ends[:, 1] - ends[:, 0])
    z[:, problem.linear] = 1.0
    return z


def projected(problem: Problem, z: Array) -> Array:
    """z with its linear coordinates solved for.

    Least squares of L_hat - L weighted by psi(r) f'(L)^2 / r: to first order the objective.

    Raises:
        ValueError: the loss is not linear in what the law says it is.
    """
    linear, z = problem.linear, z.copy()
    if not len(linear):
        return z
    none = z.copy()
    none[:, linear] = 0.0
    rest = problem.fitted(none)  # what the loss is without them
    x = np.empty((len(z), len(problem.loss), len(linear)))
    for place, k in enumerate(linear):
        alone = none.copy()
        alone[:, k] = 1.0
        x[:, :, place] = problem.fitted(alone) - rest
    usable = np.isfinite(x).all(axis=(1, 2))
    if usable.any():
        one = int(np.argmax(usable))
        together = problem.fitted(z[one : one + 1])[0]
        if not np.allclose(rest[one] + x[one].sum(axis=1), together, rtol=1e-6):
            names = [problem.names[k] for k in linear]
            raise LawError(f"law {problem.law.name} must be linear in {names}, got another loss")
    loss, target, delta = problem.loss, problem.target, problem.objective.huber_delta
    slope = {"log": 1 / loss, "log10": 1 / loss, "loss": np.ones_like(loss)}
    first = slope[problem.objective.residual] ** 2
    x = np.where(usable[:, None, None], x, 1.0)
    explained = loss - np.where(usable[:, None], rest, 0.0)
    weight = np.tile(first, (len(z), 1))
    for _ in range(3):
        weighted = np.swapaxes(x * weight[:, :, None], 1, 2)
        right = np.einsum("bkn,bn->bk", weighted, explained)
        z[:, linear] = solve.solve_non_negative(weighted @ x, right)
        residual = problem.response(z) - target
        weight = first * solve.huber_weight(np.where(np.isfinite(residual), residual, 0.0), delta)
    z[~usable] = np.nan
    return z


def values(problem: Problem, z: Array) -> Array:
    """The summed objective of every vector, f64[batch]; infinite where it has none."""
    once = np.ones((1, len(problem.loss)))
    found = solve.objective(problem, z, problem.target, once, problem.objective.huber_delta)
    return np.where(np.isfinite(found), found, np.inf)


def refit(
    problem: Problem,
    z: Array,
    target: Array,
    weight: Array | None = None,
    lower: Array | None = None,
    upper: Array | None = None,
    tolerance: float = 1e-8,
) -> Array:
    """Each row of z polished on its row of ``target``, in pieces that fit in memory, in threads."""
    low, high = problem.bounds()
    low = np.broadcast_to(low if lower is None else lower, z.shape)
    high = np.broadcast_to(high if upper is None else upper, z.shape)
    weight = np.ones_like(target) if weight is None else weight
    per_element = 2 * target.shape[1] * z.shape[1]

    def one(rows: NDArray[np.int64]) -> Array:
        return solve.polish(
            problem, z[rows], target[rows], weight[rows], problem.objective.huber_delta,
            low[rows], high[rows], tolerance,
        )  # fmt: skip

    return in_pieces(one, len(z), per_element)


def _lbfgs(problem: Problem, start: Array, lower: Array, upper: Array) -> Array:
    """Where L-BFGS-B ends from this start; the start where the law breaks down on the way."""
    target, delta = problem.target, problem.objective.huber_delta

    def value_and_gradient(z: Array) -> tuple[float, Array]:
        response, jacobian = problem.jacobian(z[None])
        residual = response[0] - target
        size = np.abs(residual)
        huber = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
        value, psi = float(np.sum(huber)), residual * solve.huber_weight(residual, delta)
        gradient = psi @ jacobian[0]
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e300, np.zeros_like(z)
        return value, gradient

    bounds = optimize.Bounds(lower, upper)
    found = optimize.minimize(
        value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 200},
    )  # fmt: skip
    return found.x if np.isfinite(found.x).all() and found.fun < 1e300 else start


def _doubts(problem: Problem, z: Array, ends: Array) -> tuple[str, ...]:
    """What the search itself gives reason to doubt."""
    doubts = []
    if decrement(problem, z) > AGREE:
        doubts.append("not converged: the objective still falls at the best point found")
    agreeing = int(np.sum(ends <= ends[0] * (1 + AGREE) + 1e-18))
    if agreeing == 1 and len(ends) > 1:
        doubts.append(f"one start of {len(ends)} reached the best fit: there may be a better one")
    return tuple(doubts)


def decrement(problem: Problem, z: Array) -> float:
    """Fall of the objective that a step of Gauss and Newton still promises, as a share of it."""
    jacobian, residual = weighted_jacobian(problem, z)
    lower, upper = problem.bounds()
    gradient = jacobian.T @ residual
    held = ((z <= lower) & (gradient >= 0)) | ((z >= upper) & (gradient <= 0))
    if held.all():
        return 0.0
    step = np.linalg.lstsq(jacobian[:, ~held], residual, rcond=1e-10)[0]
    total = max(float(values(problem, z[None])[0]), 1e-12 * len(residual))  # 1e-6 of noise
    return float(gradient[~held] @ step) / 2 / total


def weighted_jacobian(problem: Problem, z: Array) -> tuple[Array, Array]:
    """The derivative and the residuals, both times the root of Huber's weight."""
    response, jacobian = problem.jacobian(z[None])
    residual = response[0] - problem.target
    root = np.sqrt(solve.huber_weight(residual, problem.objective.huber_delta))
    weighted = jacobian[0] * root[:, None]
    if not np.isfinite(weighted).all():
        raise np.linalg.LinAlgError("no derivative at the best fit")
    return weighted, residual * root
