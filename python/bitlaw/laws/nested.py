"""Is eff constant? The law against the same law with terms in which eff drifts.

    log eff_run = log eff_C + g_C x,   x = log(D / N)  or  log N

The law says g = 0. The terms are added to the fitted law, all its parameters free to follow
(linearised), and g is estimated from the residuals with the noise of the intervals: shared by the
runs of a size and seed, not independent from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from bitlaw.laws import interval, solve
from bitlaw.laws.interval import COMPONENTS, Resamples
from bitlaw.laws.runs import Runs
from bitlaw.laws.solve import Array, Design

SMALLEST_INFORMATION = 1e-6  # of a term, as a share of its own: below, the law explains it already


@dataclass(frozen=True)
class Terms:
    """Terms added to a fitted law.

    estimate    f64[terms], their coefficients in log loss
    covariance  f64[terms, terms]
    freedom     degrees of freedom of the covariance
    """

    estimate: Array
    covariance: Array
    freedom: int

    def test(self) -> tuple[float, float]:
        """F of "all are 0", and the probability of a larger one if they are."""
        terms = len(self.estimate)
        f = float(self.estimate @ np.linalg.solve(self.covariance, self.estimate)) / terms
        return f, float(stats.f.sf(f, terms, self.freedom))


@dataclass(frozen=True)
class Drift:
    """A nested test of "eff is constant".

    against   what eff may drift with: "D / N" or "N"
    slopes    how many terms: one for all compressions together, or one for each
    f, p      the F statistic and its p value; p below 1 - level says that eff drifts
    freedom   degrees of freedom of numerator and denominator
    slope     (estimate, low, high) of d log eff / d log of it where all compressions share one
    """

    against: str
    slopes: int
    f: float
    p: float
    freedom: tuple[int, int]
    slope: tuple[float, float, float] | None


def drifts(
    runs: Runs, design: Design, theta: Array, log_loss: Array, draws: Resamples, level: float
) -> tuple[Drift, ...]:
    """The nested tests against D / N and N, with one slope for all and with one for each scheme.

    A test that the runs do not allow (a scheme at one size, too few units) is left out.
    """
    if design.schemes < 2:
        return ()
    found = []
    sensitivity = _sensitivity(design, theta)
    compressed = design.scheme > 0
    for against, x in (
        ("D / N", np.log(runs.d_tokens / runs.n_params)),
        ("N", np.log(runs.n_params)),
    ):
        common = np.where(compressed, -sensitivity * (x - x.mean()), 0.0)
        each = common[:, None] * (design.scheme[:, None] == np.arange(1, design.schemes))
        for z in (common[:, None], each) if design.schemes > 2 else (common[:, None],):
            terms = added_terms(runs, design, theta, log_loss, draws, z)
            if terms is None:
                continue
            slope = None
            if z.shape[1] == 1:
                half = stats.t.ppf((1 + level) / 2, terms.freedom) * terms.covariance[0, 0] ** 0.5
                at = float(terms.estimate[0])
                slope = (at, at - float(half), at + float(half))
            f, p = terms.test()
            found.append(Drift(against, z.shape[1], f, p, (z.shape[1], terms.freedom), slope))
    return tuple(found)


def _sensitivity(design: Design, theta: Array) -> Array:
    """-d log L / d log eff of every run: b A_C (N / N0)^-b / L_hat."""
    size_term = theta[design.scheme] * np.exp(-theta[-2] * design.log_n)
    return theta[-2] * size_term / solve.predict(design, theta[None])[0]


def added_terms(
    runs: Runs, design: Design, theta: Array, log_loss: Array, draws: Resamples, z: Array
) -> Terms | None:
    """Terms z f64[rows, terms] added to log L_hat; None where the runs do not tell them.

        g = (z' P z)^-1 z' P y,   P = V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1,   y = log(L / L_hat)

    with X the derivatives by the law's parameters, and V the noise model of `interval` at its mean
    shares: covariance s^2 (z' P z)^-1. After a cluster bootstrap, which has no such model, V = 1
    and the covariance is the sandwich of the scores of the units, widened as its intervals are.
    """
    fitted, jacobian = solve.log_jacobian(design, theta[None])
    y = log_loss - fitted[0]
    scale = np.linalg.norm(jacobian[0], axis=0)
    x = jacobian[0] / np.where(scale > 0, scale, 1.0)
    stacked = np.column_stack([x, z, y])
    unit, p, terms = interval.units(runs), x.shape[1], z.shape[1]
    if draws.shares is None:
        gram = stacked.T @ stacked
        freedom = int(unit.max()) + 1 - terms
    else:
        shares = np.array([[draws.shares[name] for name in COMPONENTS]])
        shares = np.maximum(shares, [0, 0, 1e-3])  # the run's own share keeps V regular
        gram = interval.whitened_gram(shares, stacked, interval.component_labels(runs), unit)[0][0]
        freedom = len(runs) - p - terms
    beta = np.linalg.lstsq(gram[:p, :p], gram[:p, p:], rcond=1e-12)[0]
    rest = gram[p:, p:] - gram[:p, p:].T @ beta
    zz, zy, yy = rest[:terms, :terms], rest[:terms, -1], rest[-1, -1]
    own = np.diag(gram)[p : p + terms]
    if freedom < 1 or not own.all():
        return None
    information = np.linalg.eigvalsh(zz / np.sqrt(np.outer(own, own)))
    if information.min() < SMALLEST_INFORMATION:
        return None
    estimate = np.linalg.solve(zz, zy)
    if draws.shares is not None:
        variance = max(float(yy - zy @ estimate) / freedom, 1e-12)  # of log loss: 1e-6 of noise
        return Terms(estimate, variance * np.linalg.inv(zz), freedom)
    free_z = z - x @ beta[:, :terms]
    residual = y - x @ beta[:, -1] - free_z @ estimate
    score = np.stack([np.bincount(unit, column * residual) for column in free_z.T], axis=1)
    inverse = np.linalg.inv(zz)
    # Hotelling's factor: the covariance of several terms is itself estimated from few units.
    factor = draws.widening**2 * (freedom + terms - 1) / freedom
    covariance = factor * inverse @ (score.T @ score) @ inverse + 1e-12 * inverse
    return Terms(estimate, covariance, freedom)
