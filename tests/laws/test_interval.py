"""Intervals cover what they claim, on tables of the quick study's exact design."""

import numpy as np
import pytest

from bitlaw.laws import interval, solve
from bitlaw.laws.diagnose import design_of
from bitlaw.laws.fit import delta_from_replicates
from bitlaw.laws.runs import ordered
from laws.synthetic import EFFS, QUICK, quick_runs

TRUTH = np.log([EFFS[name] for name in ordered(EFFS)])


def coverage(draws, resamples, seed, **table):
    """Share of true log effs inside their 90 % intervals, over draws and compressions."""
    rng = np.random.default_rng(seed)
    inside = []
    for number in range(draws):
        runs = quick_runs(rng, **table)
        design, log_loss = design_of(runs, runs.schemes()), np.log(runs.loss)
        delta, _ = delta_from_replicates(runs)
        theta = solve.fit_one(design, log_loss, delta)
        drawn = interval.resample(runs, design, theta, delta, resamples, seed=number)
        estimate = solve.log_eff(design, theta[None])[0]
        low, high = drawn.interval(estimate, solve.log_eff(design, drawn.theta), 0.9)
        inside.append((low <= TRUTH) & (high >= TRUTH))
    return np.mean(np.array(inside)[:, 1:])


# The required range. Draws are independent, the five compressions of a draw are not (they share
# dense): the standard error of 100 draws is 0.02, and the full test's values lie at 0.88 to 0.95.
def covers(share):
    return 0.85 <= share <= 0.97


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_intervals_cover_on_the_quick_design(rho):
    assert covers(coverage(100, 150, seed=1, sd=0.008, rho=rho, **QUICK))


@pytest.mark.slow
@pytest.mark.parametrize("b", [0.09, 0.2, 0.5])
@pytest.mark.parametrize("sd", [0.004, 0.012])
@pytest.mark.parametrize(("rho", "paired"), [(0.0, 0.0), (0.8, 0.0), (0.4, 0.4), (0.0, 0.8)])
def test_intervals_cover_whatever_the_noise_and_b(b, sd, rho, paired):
    slope = {0.09: {"a": 3.2, "e": 0.02}, 0.2: {"a": 4.9, "e": 0.7}, 0.5: {"a": 60.0, "e": 1.2}}[b]
    coefficients = dict(b=b, c=70.0, d=0.36, **slope)
    table = {"sd": sd, "rho": rho, "paired": paired, "coefficients": coefficients, **QUICK}
    assert covers(coverage(300, 300, seed=2, **table))


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "paired"), [(0.0, 0.0), (0.8, 0.0), (0.4, 0.4)])
def test_resampled_units_cover_too(rho, paired):
    sizes = (6144, 13824, 36864, 110592)
    table = {"sd": 0.008, "rho": rho, "paired": paired, "sizes": sizes, "seeds": 3}
    assert covers(coverage(200, 300, seed=3, **table))


def test_the_share_likelihood_equals_its_formula_with_whole_matrices():
    rng = np.random.default_rng(0)
    runs = quick_runs(rng, sd=0.01, rho=0.5)
    design, log_loss = design_of(runs, runs.schemes()), np.log(runs.loss)
    theta = solve.fit_one(design, log_loss, 0.01)
    fitted, jacobian = solve.log_jacobian(design, theta[None])
    x, r = jacobian[0], log_loss - fitted[0]
    groups = interval.component_labels(runs)
    shares, probability, quadratic = interval.share_likelihood(r, x, groups, interval.units(runs))
    score = []
    for k in range(len(shares)):
        same = [label[:, None] == label for label in groups]
        v = sum(s * m for s, m in zip(shares[k], same, strict=True))
        inverse = np.linalg.inv(v)
        information = x.T @ inverse @ x
        p = inverse - inverse @ x @ np.linalg.solve(information, x.T @ inverse)
        # 1e-5: the ridge that keeps flat valleys invertible, over x's condition number
        assert quadratic[k] == pytest.approx(r @ p @ r, rel=1e-5)
        determinants = np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1]
        restricted = -0.5 * (determinants + (len(r) - x.shape[1]) * np.log(r @ p @ r))
        score.append(restricted - np.sum(np.log(shares[k] + 0.025)))
    expected = np.exp(np.array(score) - max(score))
    np.testing.assert_allclose(probability, expected / expected.sum(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("rho", "low", "high"), [(0.0, 0.0, 0.3), (0.9, 0.7, 1.0)])
def test_the_noise_model_finds_the_trunk(rho, low, high):
    runs = quick_runs(np.random.default_rng(0), sd=0.01, rho=rho, seeds=3)
    design, log_loss = design_of(runs, runs.schemes()), np.log(runs.loss)
    theta = solve.fit_one(design, log_loss, 0.01)
    drawn = interval.parametric(runs, design, theta, 0.01, 20, np.random.default_rng(0))
    assert low < drawn.shares["trunk"] < high


def test_few_units_take_the_parametric_bootstrap():
    for seeds, method in ((3, "parametric"), (4, "cluster")):
        runs = quick_runs(np.random.default_rng(0), sd=0.01, seeds=seeds)
        design, log_loss = design_of(runs, runs.schemes()), np.log(runs.loss)
        theta = solve.fit_one(design, log_loss, 0.01)
        drawn = interval.resample(runs, design, theta, 0.01, 20)
        assert drawn.method.startswith(f"{method} bootstrap ({3 * seeds} units")


def test_a_cluster_resample_keeps_units_whole():
    runs = quick_runs(np.random.default_rng(0), sd=0.01, seeds=4)
    design, log_loss = design_of(runs, runs.schemes()), np.log(runs.loss)
    theta = solve.fit_one(design, log_loss, 0.01)
    drawn = interval.resample(runs, design, theta, 0.01, 50)
    unit = interval.units(runs)
    for k in range(unit.max() + 1):
        assert np.ptp(drawn.weight[:, unit == k], axis=1).max() == 0
    assert (drawn.weight.sum(axis=1) == len(runs)).all()  # units of equal size here
