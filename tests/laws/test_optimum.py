"""Searches and the optimal sparsity, against integrals and brute force."""

import numpy as np
import pytest
from scipy import integrate

from bitlaw.laws.optimum import exact_optimal_sparsity, golden, optimal_sparsity, ramp_cost

# arXiv:2309.08520, T5 on C4; D in tokens
T5 = {"a_s": 16.8, "b_s": 0.722, "b_n": 0.245, "a_d": 6.90e8, "b_d": 0.203}


def test_golden_finds_each_minimum_and_exact_ends():
    at = np.array([-3.0, 0.25, 7.0])
    found = golden(lambda x: (x - at) ** 2, np.full(3, -1.0), np.full(3, 2.0))
    assert found[0] == -1.0 and found[2] == 2.0
    assert found[1] == pytest.approx(0.25, abs=1e-7)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.9])
def test_ramp_cost_equals_the_integral_of_the_schedule(sparsity):
    def density(t):
        progress = min(max((t - 0.25) / 0.5, 0), 1)
        return 1 - sparsity * (1 - (1 - progress) ** 3)

    mean = integrate.quad(density, 0, 1, points=[0.25, 0.75])[0]
    assert ramp_cost(sparsity) == pytest.approx(mean / (1 - sparsity), rel=1e-12)


def loss(sparsity, n, c, cost):
    d = c / (6 * n * cost(sparsity))
    return T5["a_s"] * (1 - sparsity) ** T5["b_s"] * n ** -T5["b_n"] + (T5["a_d"] / d) ** T5["b_d"]


@pytest.mark.parametrize(
    ("function", "cost"),
    [(optimal_sparsity, lambda s: 1 / (1 - s)), (exact_optimal_sparsity, ramp_cost)],
)
def test_optimal_sparsity_equals_brute_force(function, cost):
    grid = np.linspace(0, 0.999, 200_001)
    seen = []
    for n in (1e7, 1e8, 1e9):
        for c in (1e17, 1e19, 1e21, 1e23):
            best = grid[np.argmin(loss(grid, n, c, cost))]
            assert function(n, c, **T5) == pytest.approx(best, abs=1e-5)
            seen.append(best)
    assert min(seen) == 0 and max(seen) > 0.5  # both the corner and the inside were met


def test_optimal_sparsity_rises_with_compute_at_fixed_size():
    c = np.geomspace(1e18, 1e23, 30)
    for function in (optimal_sparsity, exact_optimal_sparsity):
        s = function(np.full(30, 1e8), c, **T5)
        assert (np.diff(s) >= -1e-7).all() and s[-1] > s[0]
