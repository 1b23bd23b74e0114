"""Bootstrap refits of a fitted law, and the intervals they give.

The unit of resampling is the (size, seed): every run of one size and one seed starts from the same
weights and reads the same data in the same order, so their losses err together, over schemes and
over budgets. Ten units or more are resampled as they are (`cluster`). Fewer say too little about
their own spread (four, resampled naively, cover 74 % at a nominal 90 %), so there noise is drawn
from a model of it (`parametric`):

    log L = log L_hat + u(size, seed) + t(scheme, size, seed) + r(run)

with independent normal effects: u for what pairing makes common to all schemes, t for the training
trunk whose cool-down branches are the budgets, r for the rest. So few runs do not tell the shares
of the three in the variance well. They are therefore drawn anew for every resample, from their
restricted likelihood times a prior. That makes the intervals as wide as they should be: it plays
the part of Student's t in the interval of a mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bitlaw.laws import solve
from bitlaw.laws.cores import in_pieces, steady
from bitlaw.laws.solve import Array

UNITS_FOR_CLUSTER = 10
COMPONENTS = ("size and seed", "trunk", "run")
LARGEST_UNIT = 1000  # runs; the noise model's matrices grow with its square
SHARE_STEPS = 20  # shares of the variance move in steps of 1 / SHARE_STEPS


@dataclass(frozen=True)
class Resamples:
    """Refits of resampled tables.

    theta      f64[resamples, parameters]
    log_loss   f64[resamples, rows], the resampled tables
    weight     f64[resamples, rows], how often a table holds each row
    method     what was done, for the reader
    shares     mean share of each of COMPONENTS in the noise (parametric only)
    widening   factor on the deviations from the fit, on the log scale (1 for parametric)
    """

    theta: Array
    log_loss: Array
    weight: Array
    method: str
    shares: dict[str, float] | None
    widening: float = 1.0

    def interval(self, estimate: Array, draws: Array, level: float) -> tuple[Array, Array]:
        """The interval of ``estimate`` from its value in every resample (axis 0 of ``draws``)."""
        tail = (1 - level) / 2
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        return (
            estimate + self.widening * (low - estimate),
            estimate + self.widening * (high - estimate),
        )


class Sample(Protocol):
    """What a bootstrap must know of the runs: `Runs` is one, and so is `Units`."""

    n_params: NDArray
    seed: NDArray
    scheme: NDArray

    @property
    def target(self) -> Array: ...

    def __len__(self) -> int: ...


class BoundedModel(solve.Model, Protocol):
    """A model that knows the bounds of its parameters: `solve.Design`, `problem.Problem`."""

    def bounds(self) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class Units:
    """The sample of a law that has no `Runs`: sizes, seeds, configurations, what is compared."""

    n_params: NDArray
    seed: NDArray
    scheme: NDArray
    target: Array

    def __len__(self) -> int:
        return len(self.target)


def units(runs: Sample) -> NDArray[np.int64]:
    """The number of the (size, seed) of every run, from 0."""
    return _labels(runs.n_params, runs.seed)


def _labels(*columns: NDArray) -> NDArray[np.int64]:
    """A number per distinct tuple of the columns, from 0."""
    codes = [np.unique(column, return_inverse=True)[1] for column in columns]
    return np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


@steady
def resample(
    runs: Sample, model: BoundedModel, theta: Array, delta: float, resamples: int, seed: int = 0
) -> Resamples:
    """Refits of ``resamples`` tables, by `cluster` or `parametric` as the number of units says."""
    rng = np.random.default_rng(seed)
    method = cluster if units(runs).max() + 1 >= UNITS_FOR_CLUSTER else parametric
    return method(runs, model, theta, delta, resamples, rng)


def parametric(
    runs: Sample,
    model: BoundedModel,
    theta: Array,
    delta: float,
    resamples: int,
    rng: np.random.Generator,
) -> Resamples:
    """Refits of tables drawn from the fit with noise from the three-component model."""
    fitted, jacobian = model.jacobian(theta[None])
    lower, upper = model.bounds()
    inside = (theta > lower) & (theta < upper)
    groups = component_labels(runs)
    residual, alone = runs.target - fitted[0], ""
    if np.bincount(units(runs)).max() > LARGEST_UNIT:
        shares, probability = np.array([[0.0, 0.0, 1.0]]), np.ones(1)
        scale = np.array([residual @ residual])
        alone = f", runs as independent: over {LARGEST_UNIT} in a unit"
    else:
        shares, probability, scale = share_likelihood(
            residual, jacobian[0][:, inside], groups, units(runs)
        )
    pick = rng.choice(len(shares), size=resamples, p=probability)
    freedom = max(1, len(runs) - int(inside.sum()))
    variance = scale[pick] / rng.chisquare(freedom, resamples)
    log_loss = np.tile(fitted, (resamples, 1))
    for component, label in enumerate(groups):
        sd = np.sqrt(variance * shares[pick, component])
        log_loss += sd[:, None] * rng.standard_normal((resamples, label.max() + 1))[:, label]
    weight = np.ones_like(log_loss)
    count = int(units(runs).max()) + 1
    return Resamples(
        _refit(model, theta, log_loss, weight, delta),
        log_loss,
        weight,
        f"parametric bootstrap ({count} units of size and seed, {resamples} resamples{alone})",
        dict(zip(COMPONENTS, (probability @ shares).tolist(), strict=True)),
    )


def component_labels(runs: Sample) -> list[NDArray[np.int64]]:
    """The group of every run in each of COMPONENTS."""
    return [
        _labels(runs.n_params, runs.seed),
        _labels(runs.n_params, runs.seed, runs.scheme),
        np.arange(len(runs)),
    ]


def share_likelihood(
    residual: Array, jacobian: Array, groups: list[NDArray[np.int64]], unit: NDArray[np.int64]
) -> tuple[Array, Array, Array]:
    """Shares f64[k, 3] on a grid, their probability f64[k], and residual' P residual f64[k].

    With V the covariance at unit total variance, X the jacobian, n - p the degrees of freedom,

        P = V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1
        log likelihood = -(log|V| + log|X' V^-1 X| + (n - p) log(r' P r)) / 2

    (restricted likelihood, the total variance integrated out). V is block diagonal over units. The
    prior is log-uniform in each share, as usual for a scale, down to half a step of the grid. On
    synthetic tables of the quick study it covers 94-96 % where runs are independent and 88-92 %
    where trunks or pairs carry 80 % of the variance; a uniform prior is 1 to 2 % higher and lower.

    Source: Harville (1977), Maximum likelihood approaches to variance component estimation.
    """
    steps = np.arange(SHARE_STEPS + 1)
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = grid[grid.sum(axis=1) < SHARE_STEPS] / SHARE_STEPS  # the run's own share stays above 0
    shares = np.column_stack([grid, 1 - grid.sum(axis=1)])
    stacked = np.column_stack([jacobian, residual])
    largest = int(np.bincount(unit).max())
    pieces = np.array_split(shares, 1 + len(shares) * largest**2 // 5_000_000)  # to fit in memory
    parts = [whitened_gram(piece, stacked, groups, unit) for piece in pieces]
    gram, log_det = (np.concatenate(column) for column in zip(*parts, strict=True))
    parameters = jacobian.shape[1]
    information, cross = gram[:, :-1, :-1], gram[:, :-1, -1:]
    ridge = 1e-10 * np.einsum("kpp->kp", information).max(axis=1)  # flat valleys stay invertible
    information = information + ridge[:, None, None] * np.eye(parameters)
    explained = np.swapaxes(cross, 1, 2) @ np.linalg.solve(information, cross)
    quadratic = np.maximum(gram[:, -1, -1] - explained[:, 0, 0], 1e-300)
    freedom = max(1, len(residual) - parameters)
    log_likelihood = -0.5 * (
        log_det + np.linalg.slogdet(information)[1] + freedom * np.log(quadratic)
    )
    log_posterior = log_likelihood - np.sum(np.log(shares + 0.5 / SHARE_STEPS), axis=1)
    probability = np.exp(log_posterior - log_posterior.max())
    if not np.isfinite(probability).all():
        raise np.linalg.LinAlgError("no likelihood of the noise model")
    return shares, probability / probability.sum(), quadratic


def whitened_gram(
    shares: Array, stacked: Array, groups: list[NDArray[np.int64]], unit: NDArray[np.int64]
) -> tuple[Array, Array]:
    """stacked' V^-1 stacked and log|V| for each row of shares, summed over the units."""
    columns = stacked.shape[1]
    gram, log_det = np.zeros((len(shares), columns, columns)), np.zeros(len(shares))
    for number in range(unit.max() + 1):
        rows = np.flatnonzero(unit == number)
        same = np.array([label[rows][:, None] == label[rows] for label in groups], dtype=float)
        factor = np.linalg.cholesky(np.tensordot(shares, same, axes=1))
        block = np.broadcast_to(stacked[rows], (len(shares), len(rows), columns))
        white = np.linalg.solve(factor, block)
        gram += np.swapaxes(white, 1, 2) @ white
        log_det += 2 * np.sum(np.log(np.einsum("kii->ki", factor)), axis=1)
    return gram, log_det


def cluster(
    runs: Sample,
    model: BoundedModel,
    theta: Array,
    delta: float,
    resamples: int,
    rng: np.random.Generator,
) -> Resamples:
    """Refits of tables whose (size, seed) units are drawn with replacement, all schemes together.

    A draw that leaves a scheme without a run, or the table with one size, defines no fit: it is
    drawn again and counted. Where that is nearly every draw, `parametric` takes over.
    """
    unit = units(runs)
    count = int(unit.max()) + 1
    scheme = _labels(runs.scheme)
    has_scheme = np.zeros((count, int(scheme.max()) + 1))
    has_scheme[unit, scheme] = 1
    size = np.empty(count)
    size[unit] = runs.n_params
    kept, undefined = [], 0
    while sum(map(len, kept)) < resamples:
        times = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        smallest = np.where(times > 0, size, np.inf).min(axis=1)
        largest = np.where(times > 0, size, -np.inf).max(axis=1)
        defined = (times @ has_scheme > 0).all(axis=1) & (smallest < largest)
        if defined.mean() < 0.1:
            return parametric(runs, model, theta, delta, resamples, rng)
        undefined += int((~defined).sum())
        kept.append(times[defined])
    times = np.concatenate(kept)[:resamples]
    log_loss = np.tile(runs.target, (resamples, 1))
    weight = times[:, unit].astype(float)
    return Resamples(
        _refit(model, theta, log_loss, weight, delta),
        log_loss,
        weight,
        f"cluster bootstrap ({count} units of size and seed, {resamples} resamples, "
        f"{undefined} undefined draws repeated)",
        None,
        few_units_widening(count),
    )


def few_units_widening(count: int) -> float:
    """The factor by which deviations from the fit grow for ``count`` resampled units.

        sqrt(count / (count - 2)) * t_(count - 2) / z

    at the 95 % quantile: units of two noisy numbers (a level and a slope in size) leave count - 2
    degrees of freedom. Twelve units give 1.21; without it they cover 81-89 % at a nominal 90 %.
    """
    freedom = count - 2
    return float(np.sqrt(count / freedom) * stats.t.ppf(0.95, freedom) / stats.norm.ppf(0.95))


def _refit(model: BoundedModel, theta: Array, target: Array, weight: Array, delta: float) -> Array:
    """Warm-started refits of a batch of tables, a thread per core."""
    lower, upper = model.bounds()

    def one(rows: NDArray[np.int64]) -> Array:
        starts = np.tile(theta, (len(rows), 1))
        return solve.polish(model, starts, target[rows], weight[rows], delta, lower, upper)

    return in_pieces(one, len(target), target.shape[1] * len(theta))
