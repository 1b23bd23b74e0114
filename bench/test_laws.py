"""Fits under pytest-benchmark: `pytest bench/test_laws.py`. Meant to take seconds: 15 at most."""

import numpy as np

from bitlaw import laws
from laws.synthetic import quick_runs


def test_a_thousand_resamples_of_a_hundred_runs(benchmark):
    sizes, budgets = (6144, 13824, 36864, 110592), (2**19, 2**20, 2**21, 2**22)
    runs = quick_runs(np.random.default_rng(0), sd=0.008, rho=0.5, sizes=sizes, budgets=budgets)
    assert len(runs) == 112
    benchmark.pedantic(laws.fit, args=(runs,), kwargs={"resamples": 1000}, rounds=3)
