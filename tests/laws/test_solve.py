"""Variable projection against the law itself and against scipy."""

import numpy as np
import pytest
from scipy import optimize

from bitlaw.laws import forms, solve
from bitlaw.laws.diagnose import design_of
from bitlaw.laws.runs import ordered
from laws.synthetic import COEFFICIENTS, EFFS, quick_runs

DELTA = 0.01


def design_and_losses(runs):
    return design_of(runs, runs.schemes()), np.log(runs.loss)


def test_a_table_without_noise_gives_its_coefficients_back():
    design, log_loss = design_and_losses(quick_runs())
    theta = solve.fit_one(design, log_loss, DELTA)
    # 1e-6: the objective is quadratic at its minimum, so half of the digits of f64 are left
    np.testing.assert_allclose(theta[-2:], [COEFFICIENTS["b"], COEFFICIENTS["d"]], rtol=1e-6)
    effs = np.exp(solve.log_eff(design, theta[None])[0])
    np.testing.assert_allclose(effs, [EFFS[name] for name in ordered(EFFS)], rtol=1e-6)


@pytest.mark.parametrize("e", [0.7, -0.3])  # the second ends on the bound e = 0
def test_no_start_of_scipy_finds_a_lower_objective(e):
    """L-BFGS-B in the law's own coefficients, with effs, from six random starts."""
    rng = np.random.default_rng(0)
    runs = quick_runs(rng, sd=0.01, coefficients=COEFFICIENTS | {"e": e})
    design, log_loss = design_and_losses(runs)
    theta = solve.fit_one(design, log_loss, DELTA)
    ours = solve.objective(design, theta[None], log_loss, np.ones(1), DELTA)[0]

    def objective(x):
        a, c, e, b, d = np.exp(x[:5])
        eff = np.exp(np.append(0.0, x[5:]))[design.scheme]
        # n0 and d0 only scale a and c, so that one range of starts suits both
        fitted = forms.effective(
            runs.n_params / design.n0, runs.d_tokens / design.d0, eff, a=a, b=b, c=c, d=d, e=e
        )
        return summed_huber(np.log(fitted) - log_loss)

    starts = np.column_stack(
        [rng.uniform(-2, 0.5, (6, 3)), rng.uniform(-2.5, 0, (6, 2)), rng.uniform(-1, 0, (6, 5))]
    )
    best = min(
        optimize.minimize(objective, x, method="L-BFGS-B", options={"maxiter": 3000}).fun
        for x in starts
    )
    assert ours <= best * (1 + 1e-6)  # 1e-6: scipy's own stopping rule


def summed_huber(residual):
    size = np.abs(residual)
    return np.sum(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)))


def test_the_jacobian_is_the_derivative_of_log_loss():
    design, log_loss = design_and_losses(quick_runs())
    theta = solve.fit_one(design, log_loss, DELTA)
    _, jacobian = solve.log_jacobian(design, theta[None])
    step = 1e-6
    for k in range(design.size):
        aside = np.eye(design.size)[k] * step
        above, below = (np.log(solve.predict(design, (theta + s * aside)[None])) for s in (1, -1))
        # 1e-8: step^2 of the central difference, and rounding / step
        np.testing.assert_allclose(jacobian[0, :, k], (above - below)[0] / (2 * step), atol=1e-8)


@pytest.mark.parametrize("b", [0.02, 0.2, 1.5])
@pytest.mark.parametrize("d", [0.02, 0.36, 1.5])
def test_non_negative_least_squares_equals_scipy(b, d):
    design, log_loss = design_and_losses(quick_runs(np.random.default_rng(0), sd=0.01))
    x = np.zeros((len(log_loss), design.size - 2))
    x[np.arange(len(x)), design.scheme] = np.exp(-b * design.log_n)
    x[:, -2:] = np.column_stack([np.exp(-d * design.log_d), np.ones(len(x))])
    loss = np.exp(log_loss)
    ours = solve.solve_non_negative((x.T @ x)[None], (x.T @ loss)[None])[0]
    # 1e-5: normal equations square the condition number of nearly collinear columns
    np.testing.assert_allclose(ours, optimize.nnls(x, loss)[0], rtol=1e-5, atol=1e-5)


def test_a_refit_does_not_depend_on_its_batch():
    design, log_loss = design_and_losses(quick_runs(np.random.default_rng(0), sd=0.01))
    theta = solve.fit_one(design, log_loss, DELTA)
    lower, upper = design.bounds()
    tables = log_loss + 0.01 * np.random.default_rng(1).standard_normal((5, len(log_loss)))
    starts, weight = np.tile(theta, (5, 1)), np.ones_like(tables)
    together = solve.polish(design, starts, tables, weight, DELTA, lower, upper)
    for k in range(5):
        one = slice(k, k + 1)
        alone = solve.polish(design, starts[one], tables[one], weight[one], DELTA, lower, upper)
        # rounding of batched products may differ; 1e-6 is far below the intervals
        np.testing.assert_allclose(together[one], alone, rtol=1e-6)


def test_outliers_move_the_fit_little():
    rng = np.random.default_rng(0)
    runs = quick_runs(rng, sd=0.002)
    design, log_loss = design_and_losses(runs)
    spoiled = log_loss.copy()
    spoiled[20] += 0.3
    clean, robust = (
        solve.log_eff(design, solve.fit_one(design, y, 0.003)[None])[0] for y in (log_loss, spoiled)
    )
    squares = solve.log_eff(design, solve.fit_one(design, spoiled, 10.0)[None])[0]
    assert np.abs(robust - clean).max() < 0.2 * np.abs(squares - clean).max()
