"""Where a law is lowest: one-dimensional search, and the optimal sparsity of arXiv:2309.08520."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

GOLDEN = (np.sqrt(5) - 1) / 2
LARGEST_SPARSITY = 0.999  # of a search: the law's (1 - S) must stay above 0
RAMP = (0.25, 0.75)  # the share of training at which pruning starts and ends


def golden(value: Callable[[Array], Array], low: ArrayLike, high: ArrayLike) -> Array:
    """The minimiser of a function with one valley, elementwise, by golden-section search.

    Args:
        value: elementwise on an array of the shape that low and high broadcast to. Every law here
            is a sum of exponentials of the logarithm of what is searched, hence convex in it.
        low, high: ends of the search; where low > high, high.
    Returns:
        f64, to about 1e-8 of the width (the value there is exact to rounding).
    """
    low, high = (np.array(x, np.float64) for x in np.broadcast_arrays(low, high))
    low = np.minimum(low, high)
    ends = low.copy(), high.copy()
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(60):  # GOLDEN^60 = 3e-13
        lower = at_left < at_right
        low, high = np.where(lower, low, left), np.where(lower, right, high)
        kept, at_kept = np.where(lower, left, right), np.where(lower, at_left, at_right)
        fresh = np.where(lower, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_fresh = value(fresh)
        left, right = np.where(lower, fresh, kept), np.where(lower, kept, fresh)
        at_left = np.where(lower, at_fresh, at_kept)
        at_right = np.where(lower, at_kept, at_fresh)
    places = np.stack([(low + high) / 2, *ends])  # an end may be the lowest, and then exactly so
    best = np.argmin([value(place) for place in places], axis=0)
    return np.take_along_axis(places, best[None], axis=0)[0]


def ramp_cost(sparsity: ArrayLike) -> Array:
    """Training FLOPs of gradual pruning, as a multiple of 6 * (non-zeros at the end) * tokens.

        c_mul(S) = .25 / (1 - S) + .5 (1 - .75 S) / (1 - S) + .25

    Dense for the first quarter; the cubic ramp s(t) = S (1 - (1 - t)^3) for half of training, whose
    mean is .75 S; sparse for the last quarter. Zeros are taken as skipped.

    Source: arXiv:2309.08520 (the schedule); the integral is exact.
    """
    density = 1 - np.asarray(sparsity, np.float64)
    start, end = RAMP
    return start / density + (end - start) * (0.25 + 0.75 * density) / density + (1 - end)


def optimal_sparsity(
    n_nonzero: ArrayLike,
    flops: ArrayLike,
    *,
    a_s: float,
    b_s: float,
    b_n: float,
    a_d: float,
    b_d: float,
) -> Array:
    """The sparsity of the lowest loss at fixed non-zeros N and training FLOPs C, in closed form.

        S_opt = max(0, 1 - exp[(log(b_D / (a_S b_S)) + b_D log(6 a_D N / C) + b_N log N)
                               / (b_D + b_S)])

    For L = (a_S (1 - S)^b_S + c_S) N^-b_N + (a_D / D)^b_D + c with D = C (1 - S) / (6 N): training
    is taken to cost 1 / (1 - S) of a dense model of N parameters; `exact_optimal_sparsity` takes
    the cost of the ramp itself.

    Source: arXiv:2309.08520; derived here from its law.
    """
    n, c = np.asarray(n_nonzero, np.float64), np.asarray(flops, np.float64)
    log_density = np.log(b_d / (a_s * b_s)) + b_d * np.log(6 * a_d * n / c) + b_n * np.log(n)
    return np.maximum(0.0, 1 - np.exp(log_density / (b_d + b_s)))


def exact_optimal_sparsity(
    n_nonzero: ArrayLike,
    flops: ArrayLike,
    *,
    a_s: float,
    b_s: float,
    b_n: float,
    a_d: float,
    b_d: float,
) -> Array:
    """As `optimal_sparsity`, with D = C / (6 N c_mul(S)) and c_mul the `ramp_cost`; a search.

    At most LARGEST_SPARSITY.
    """
    n, c = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (n_nonzero, flops)))

    def loss(log_density: Array) -> Array:
        sparsity = -np.expm1(log_density)
        d_tokens = c / (6 * n * ramp_cost(sparsity))
        return a_s * np.exp(b_s * log_density) * n**-b_n + (a_d / d_tokens) ** b_d

    return -np.expm1(golden(loss, np.log(1 - LARGEST_SPARSITY), np.zeros(n.shape)))
