"""Fits the effective law by variable projection, many tables at once.

For fixed exponents (b, d) the law

    L = A_C * (N / N0)^-b + C * (D / D0)^-d + e

is linear in the amplitudes A_C (one per scheme), C and e, all non-negative. So the search is over
two numbers: a grid of (b, d) with a non-negative least-squares solve inside, then a bounded
Levenberg-Marquardt polish of all parameters on the stated objective,

    sum over runs of weight * Huber_delta(log(L_hat / L)).

N0 and D0 (geometric means) keep every amplitude of the order of a loss. The polish works on a
batch: the starts of one fit, or the resamples of a bootstrap, advance together, which is what makes
a thousand refits take a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXPONENTS = (0.01, 2.0)  # bounds of b and d; a fit that ends on one says so
SMALLEST_AMPLITUDE = 1e-6  # of A_C in nats: keeps eff finite, and its log
LARGEST_EFF = 1e4  # beyond it, or below its inverse, a multiplier says nothing
GRID = 20  # values of b and of d
STARTS = 8  # grid points that are polished


@dataclass(frozen=True)
class Design:
    """What a fit is about, without the losses: one row per run.

    Parameters are ordered [A_0 .. A_(S-1), C, e, b, d]; scheme 0 is dense.
    """

    log_n: Array  # log(N / N0)
    log_d: Array  # log(D / D0)
    scheme: NDArray[np.int64]
    schemes: int
    n0: float
    d0: float

    @classmethod
    def of(cls, n_params: Array, d_tokens: Array, scheme: NDArray[np.int64], schemes: int):
        """The design of these runs; ``schemes`` counts the schemes that ``scheme`` indexes."""
        n0 = float(np.exp(np.mean(np.log(n_params))))
        d0 = float(np.exp(np.mean(np.log(d_tokens))))
        return cls(np.log(n_params / n0), np.log(d_tokens / d0), scheme, schemes, n0, d0)

    def __getitem__(self, rows: NDArray) -> Design:
        """The design of some of the rows, with the same parameters."""
        return replace(
            self, log_n=self.log_n[rows], log_d=self.log_d[rows], scheme=self.scheme[rows]
        )

    @property
    def size(self) -> int:
        """The number of parameters."""
        return self.schemes + 4

    def response(self, theta: Array) -> Array:
        """What is compared with log L: f64[batch, rows]."""
        return np.log(predict(self, theta))

    def jacobian(self, theta: Array) -> tuple[Array, Array]:
        """The response and its derivative, as `log_jacobian`."""
        return log_jacobian(self, theta)

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of the parameters."""
        lower = np.zeros(self.size)
        lower[: self.schemes] = SMALLEST_AMPLITUDE
        lower[-2:] = EXPONENTS[0]
        upper = np.full(self.size, np.inf)
        upper[-2:] = EXPONENTS[1]
        return lower, upper


def predict(design: Design, theta: Array) -> Array:
    """The law's losses f64[batch, rows] at parameters f64[batch, parameters]."""
    s = design.schemes
    c, e, b, d = (theta[:, s + k, None] for k in range(4))
    size_term = theta[:, design.scheme] * np.exp(-b * design.log_n)
    return size_term + c * np.exp(-d * design.log_d) + e


def log_jacobian(design: Design, theta: Array) -> tuple[Array, Array]:
    """log L_hat f64[batch, rows] and its derivative f64[batch, rows, parameters]."""
    s, rows = design.schemes, np.arange(len(design.scheme))
    c, e, b, d = (theta[:, s + k, None] for k in range(4))
    n_power, d_power = np.exp(-b * design.log_n), np.exp(-d * design.log_d)
    size_term = theta[:, design.scheme] * n_power
    loss = size_term + c * d_power + e
    jacobian = np.zeros((len(theta), len(rows), design.size))
    jacobian[:, rows, design.scheme] = n_power
    jacobian[:, :, s] = d_power
    jacobian[:, :, s + 1] = 1.0
    jacobian[:, :, s + 2] = -size_term * design.log_n
    jacobian[:, :, s + 3] = -c * d_power * design.log_d
    jacobian /= loss[:, :, None]
    return np.log(loss), jacobian


def log_eff(design: Design, theta: Array) -> Array:
    """log eff_C = log(A_dense / A_C) / b, f64[batch, schemes]."""
    amplitudes = np.log(theta[:, : design.schemes])
    return (amplitudes[:, :1] - amplitudes) / theta[:, -2:-1]


def effs(design: Design, theta: Array) -> Array:
    """eff_C as numbers to compute with: within LARGEST_EFF, so never 0 or infinite."""
    most = np.log(LARGEST_EFF)
    return np.exp(np.clip(log_eff(design, theta), -most, most))


class Model(Protocol):
    """What `polish` moves through: a Design, or any law's `problem.Problem`."""

    def response(self, theta: Array) -> Array: ...

    def jacobian(self, theta: Array) -> tuple[Array, Array]: ...


def objective(model: Model, theta: Array, log_loss: Array, weight: Array, delta: float) -> Array:
    """Summed Huber of the residuals, f64[batch]."""
    size = np.abs(model.response(theta) - log_loss)
    huber = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
    return np.sum(weight * huber, axis=1)


def huber_weight(residual: Array, delta: float) -> Array:
    """psi(r) / r: the weight with which least squares has Huber's gradient at r."""
    return delta / np.maximum(np.abs(residual), delta)


def fit_one(
    design: Design, log_loss: Array, delta: float, b: float | None = None, d: float | None = None
) -> Array:
    """The best parameters f64[parameters]: grid, then polish from its best points.

    ``b`` and ``d`` hold an exponent at that value.
    """
    theta, value = fit_starts(design, log_loss, delta, b, d)
    return theta[np.argmin(value)]


def fit_starts(
    design: Design, log_loss: Array, delta: float, b: float | None = None, d: float | None = None
) -> tuple[Array, Array]:
    """Where each start of `fit_one` ends, f64[<= STARTS, parameters], and its objective there."""
    starts = grid_search(design, log_loss, delta, b, d)
    lower, upper = design.bounds()
    for place, value in ((-2, b), (-1, d)):
        if value is not None:
            lower[place] = upper[place] = value
    tile = (len(starts), 1)
    y, weight = np.tile(log_loss, tile), np.ones((len(starts), len(log_loss)))
    theta = polish(design, starts, y, weight, delta, lower, upper, tolerance=1e-12)
    return theta, objective(design, theta, y, weight, delta)


def grid_search(
    design: Design, log_loss: Array, delta: float, b: float | None, d: float | None
) -> Array:
    """The best grid points of (b, d) with their amplitudes, f64[<= STARTS, parameters].

    Inside, least squares of L_hat - L weighted by psi(r) / (r L^2): to first order the Huber
    objective on log residuals; three re-weightings find the outliers.
    """
    values = np.geomspace(0.02, 1.5, GRID)
    b_values = values if b is None else np.array([b])
    d_values = values if d is None else np.array([d])
    count, loss = len(d_values), np.exp(log_loss)
    found = []
    for b_value in b_values:  # one b at a time bounds the memory to [GRID, rows, parameters]
        x = np.zeros((count, len(loss), design.schemes + 2))
        x[:, np.arange(len(loss)), design.scheme] = np.exp(-b_value * design.log_n)
        x[:, :, -2] = np.exp(-d_values[:, None] * design.log_d)
        x[:, :, -1] = 1.0
        weight = np.tile(loss**-2, (count, 1))
        for _ in range(3):
            weighted = x * weight[:, :, None]
            linear = solve_non_negative(
                np.swapaxes(weighted, 1, 2) @ x, np.einsum("gnp,n->gp", weighted, loss)
            )
            linear[:, :-2] = np.maximum(linear[:, :-2], SMALLEST_AMPLITUDE)
            theta = np.column_stack([linear, np.full(count, b_value), d_values])
            residual = np.log(predict(design, theta)) - log_loss
            weight = huber_weight(residual, delta) / loss**2
        found.append(theta)
    theta = np.concatenate(found)
    y, ones = np.tile(log_loss, (len(theta), 1)), np.ones((len(theta), len(loss)))
    return theta[np.argsort(objective(design, theta, y, ones, delta))[:STARTS]]


def solve_non_negative(gram: Array, right: Array) -> Array:
    """Least-squares solutions x >= 0 of gram x = right, f64[batch, parameters].

    Drops the most negative coordinate until none is left. It never takes one back in, so the
    result is a starting point, which the polish may release from its bound.
    """
    parameters = right.shape[1]
    diagonal = np.arange(parameters)
    ridge = 1e-12 * np.max(gram[:, diagonal, diagonal], axis=1)  # collinear columns: one size
    free = np.ones_like(right, dtype=bool)
    for _ in range(parameters):
        x = _masked_solve(gram, right, free, ridge[:, None])
        worst = np.argmin(x, axis=1)
        negative = x[np.arange(len(x)), worst] < 0
        if not negative.any():
            break
        free[negative, worst[negative]] = False
    return np.maximum(x, 0.0)


def _masked_solve(gram: Array, right: Array, free: NDArray[np.bool_], extra: Array) -> Array:
    """Solves (gram + diag(extra)) x = right over the free coordinates; the others are 0."""
    diagonal = np.arange(right.shape[1])
    system = gram * free[:, :, None] * free[:, None, :]
    system[:, diagonal, diagonal] += np.where(free, extra, 1.0)
    return np.linalg.solve(system, (right * free)[:, :, None])[:, :, 0]


def polish(
    model: Model,
    theta: Array,
    log_loss: Array,
    weight: Array,
    delta: float,
    lower: Array,
    upper: Array,
    tolerance: float = 1e-8,
    steps: int = 300,
) -> Array:
    """Parameters f64[batch, parameters] at a local minimum of the objective within the bounds.

    The bounds are of one or of every element of the batch; ``log_loss`` is what the model's
    response is compared with.

    Levenberg-Marquardt on the re-weighted residuals. A coordinate on a bound is held while the
    gradient pushes it outwards. Each element of the batch stops when a step gains less than
    ``tolerance`` of its objective, or when no step gains.
    """
    theta = np.clip(theta, lower, upper)
    lower, upper = (np.broadcast_to(bound, theta.shape) for bound in (lower, upper))
    value = objective(model, theta, log_loss, weight, delta)
    damping = np.full(len(theta), 1e-3)
    running = np.arange(len(theta))
    for _ in range(steps):
        here, y, w = theta[running], log_loss[running], weight[running]
        fitted, jacobian = model.jacobian(here)
        residual = fitted - y
        weighted = jacobian * (w * huber_weight(residual, delta))[:, :, None]
        gradient = np.einsum("bnp,bn->bp", weighted, residual)
        gram = np.swapaxes(weighted, 1, 2) @ jacobian
        low, high = lower[running], upper[running]
        held = ((here <= low) & (gradient >= 0)) | ((here >= high) & (gradient <= 0))
        scale = np.einsum("bpp->bp", gram)
        extra = damping[running, None] * scale + 1e-14 * np.max(scale, axis=1, keepdims=True)
        extra = extra + 1e-300  # a response that nothing moves leaves a system, too
        trial = np.clip(here - _masked_solve(gram, gradient, ~held, extra), low, high)
        trial_value = objective(model, trial, y, w, delta)
        gain = value[running] - trial_value
        better = gain > 0
        theta[running[better]] = trial[better]
        done = better & (gain <= tolerance * value[running]) | (damping[running] > 1e8)
        value[running[better]] = trial_value[better]
        damping[running] *= np.where(better, 0.2, 5.0)
        running = running[~done]
        if not len(running):
            break
    return theta
