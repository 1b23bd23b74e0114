"""The law of routed language models (arXiv:2202.01169, equations 6 and 7), and its fit.

    log10 L = a log10 N + b log10 X^ + c log10 N log10 X^ + d
    1 / X^ = 1 / (X - 1 + 1 / (1 / X_start - 1 / X_max)) + 1 / X_max

N is the block weights of the dense model, X the number of experts, L nats per byte. The law itself
is `laws.forms.routed`. With X_start and X_max held it is linear in its four coefficients, so its
least squares and the noise of N_eff are closed forms, which need no search.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from bitlaw.laws import forms

X_START, X_MAX = 1.847, 314.5  # of S-BASE, arXiv:2202.01169; held: 32 experts tell little of them
RESAMPLES = 1000


@dataclass(frozen=True)
class RoutedFit:
    """The routed law of one router.

    Attributes:
        router: its string without the number of experts.
        a, b, c, d: the coefficients, for base 10 and nats per byte.
        errors: standard errors of (a, b, c, d); None without residual degrees of freedom.
        rms: of the residuals of log10 L, over `runs` runs.
        draws: f64[RESAMPLES, 4], coefficients refitted to the law plus noise of that size.
    """

    router: str
    a: float
    b: float
    c: float
    d: float
    errors: tuple[float, ...] | None
    rms: float
    runs: int
    draws: np.ndarray

    def loss(self, n, x):
        """The law's loss, in nats per byte."""
        return _law(n, x, a=self.a, b=self.b, c=self.c, d=self.d)

    def effective(self, n: float, x: float) -> float:
        """The N of the dense model with the same loss by the law."""
        return float(effective(np.array([[self.a, self.b, self.c, self.d]]), n, x)[0])

    def interval(self, n: float, x: float, level: float = 0.9) -> tuple[float, float] | None:
        """The interval of `effective`, by the draws; None where there are none."""
        if not len(self.draws):
            return None
        tail = (1 - level) / 2
        low, high = np.quantile(effective(self.draws, n, x), (tail, 1 - tail))
        return float(low), float(high)


_law = functools.partial(forms.routed, e_start=X_START, e_max=X_MAX)


def saturated(x):
    """X^, the number of experts as the law counts it: X_START of one, at most X_MAX."""
    return _law(1.0, x, a=0.0, b=1.0, c=0.0, d=0.0)


def design(n, x) -> np.ndarray:
    """(log10 N, log10 X^, their product, 1) of each run, f64[..., 4]."""
    n, x = np.broadcast_arrays(np.log10(np.asarray(n, np.float64)), np.log10(saturated(x)))
    return np.stack([n, x, n * x, np.ones_like(n)], axis=-1)


def effective(coefficients: np.ndarray, n: float, x: float) -> np.ndarray:
    """The N of the dense model (X = 1) with the law's loss at (N, X), f64[draws].

    log10 N_eff = ((a + c log X^) log N + b (log X^ - log X^1)) / (a + c log X^1)
    """
    a, b, c, _ = coefficients.T
    here, one = np.log10(saturated(x)), np.log10(saturated(1))
    return 10.0 ** (((a + c * here) * np.log10(n) + b * (here - one)) / (a + c * one))


def fit(router: str, n, x, loss, seed: int = 0) -> RoutedFit:
    """Least squares of log10 L on `design`.

    Args:
        n, x, loss: f64[runs] each; one expert stands for dense.
    Raises:
        ValueError: fewer than 2 sizes or 2 numbers of experts: the law is not identified.
    """
    if len(np.unique(n)) < 2 or len(np.unique(x)) < 2:
        raise ValueError(
            f"runs of {router} must have at least 2 sizes and 2 numbers of experts, "
            f"got {len(np.unique(n))} and {len(np.unique(x))}"
        )
    matrix, y = design(n, x), np.log10(np.asarray(loss, np.float64))
    inverse = np.linalg.pinv(matrix)
    coefficients = inverse @ y
    residual = y - matrix @ coefficients
    free = len(y) - matrix.shape[1]
    errors, draws = None, np.zeros((0, 4))
    if free > 0:
        sigma = np.sqrt(residual @ residual / free)
        errors = tuple(sigma * np.sqrt(np.diag(inverse @ inverse.T)))
        noise = sigma * np.random.default_rng(seed).normal(size=(RESAMPLES, len(y)))
        draws = coefficients + noise @ inverse.T
    rms = float(np.sqrt(np.mean(residual**2)))
    return RoutedFit(router, *map(float, coefficients), errors, rms, len(y), draws)
