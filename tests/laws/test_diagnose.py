"""The condition number of a design."""

import numpy as np
import pytest

from bitlaw.laws import diagnose, forms
from bitlaw.laws.objective import Objective
from bitlaw.laws.problem import Problem

CHINCHILLA = {"a": 406.4, "alpha": 0.34, "b": 410.7, "beta": 0.28, "e": 1.69}


def condition(n, d):
    loss = forms.chinchilla(n, d, **CHINCHILLA)
    columns = {"n_params": n, "d_tokens": d}
    problem = Problem.of(forms.LAWS["chinchilla"], columns, loss, Objective("log", 0.01))
    return diagnose.condition(problem, problem.coordinates_of(CHINCHILLA))


def test_the_condition_is_that_of_the_analytic_jacobian():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    p, n0, d0 = CHINCHILLA, np.exp(np.log(n).mean()), np.exp(np.log(d).mean())
    loss = forms.chinchilla(n, d, **p)
    size, data = p["a"] * n ** -p["alpha"], p["b"] * d ** -p["beta"]
    # by log a and log b in units of their scales, whose columns the exponents share
    columns = np.stack([size, -size * np.log(n / n0), data, -data * np.log(d / d0), np.ones(16)])
    jacobian = (columns / loss).T
    # alpha and beta are searched by their logarithm: a factor, which unit length takes out
    expected = np.linalg.cond(jacobian / np.linalg.norm(jacobian, axis=0))
    assert condition(n, d) == pytest.approx(expected, rel=1e-4)  # central differences


def test_tokens_in_proportion_to_size_are_ill_conditioned():
    n = np.geomspace(1e7, 1e9, 16)
    crossed = (x.ravel() for x in np.meshgrid(n[::5], 20 * n[::5]))
    assert condition(n, 20 * n) > 20 * condition(*crossed)
