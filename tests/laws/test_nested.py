"""The nested test of a constant eff, on tables where it is constant and where it drifts."""

import numpy as np
import pytest

from bitlaw.laws import diagnose, forms, interval, nested, solve
from bitlaw.laws.runs import Runs
from laws.synthetic import COEFFICIENTS, EFFS, SIZES, add_noise, quick_rows

LEVEL = 0.9


def drifting(slope, seed, seeds=None, sd=0.008):
    """A table whose eff goes as (D / N)^slope, with the noise of paired trunks."""
    rows = quick_rows(seeds=seeds)
    for row in rows:
        n, d, scheme = row["n_params"], row["d_tokens"], row["scheme"]
        eff = EFFS[scheme] * ((d / n / 50) ** slope if scheme != "dense" else 1.0)
        row["loss"] = float(forms.effective(n, d, eff, **COEFFICIENTS))
    return Runs.from_rows(add_noise(rows, np.random.default_rng(seed), sd, 0.3, 0.4))


def drifts_of(runs):
    design, log_loss = diagnose.design_of(runs, runs.schemes()), np.log(runs.loss)
    theta = solve.fit_one(design, log_loss, 0.01)
    draws = interval.resample(runs, design, theta, 0.01, 20)
    return nested.drifts(runs, design, theta, log_loss, draws, LEVEL)


@pytest.mark.parametrize("seeds", [None, dict.fromkeys(SIZES, 4)], ids=["parametric", "cluster"])
def test_a_constant_eff_is_rejected_as_rarely_as_the_level_says(seeds):
    found = [drifts_of(drifting(0.0, seed, seeds)) for seed in range(40)]
    assert [(d.against, d.slopes) for d in found[0]] == [
        ("D / N", 1), ("D / N", 5), ("N", 1), ("N", 5)
    ]  # fmt: skip
    p = np.array([[drift.p for drift in row] for row in found])
    # 10 % of 40, give or take: 11 or more of 40 has a probability of .1 % for each of the four
    assert (np.sum(p < 1 - LEVEL, axis=0) <= 10).all()
    covered = [row[0].slope[1] < 0 < row[0].slope[2] for row in found]
    assert sum(covered) >= 30


@pytest.mark.parametrize("seeds", [None, dict.fromkeys(SIZES, 4)], ids=["parametric", "cluster"])
def test_a_drift_with_tokens_per_parameter_is_found(seeds):
    for seed in range(5):
        common, each, *_ = drifts_of(drifting(-0.2, seed, seeds))
        assert common.p < 0.01 and common.slope[2] < 0
        assert each.p < 0.1
        assert -0.3 < common.slope[0] < -0.1


def test_a_drift_is_recovered_exactly_where_there_is_no_noise():
    runs = drifting(-0.01, 0, sd=0.0)  # small: the test is linear in the drift
    common, each, *_ = drifts_of(runs)
    assert common.slope[0] == pytest.approx(-0.01, rel=0.15)
    assert common.freedom == (1, len(runs) - 10 - 1) and each.freedom == (5, len(runs) - 10 - 5)


def test_one_compression_has_one_test_per_axis():
    runs = drifting(0.0, 1)
    runs = runs[np.isin(runs.scheme, ["dense", "s=0.5"])]
    assert [(d.against, d.slopes) for d in drifts_of(runs)] == [("D / N", 1), ("N", 1)]


def test_terms_that_the_law_already_has_are_left_out():
    runs = drifting(0.0, 2)
    design, log_loss = diagnose.design_of(runs, runs.schemes()), np.log(runs.loss)
    theta = solve.fit_one(design, log_loss, 0.01)
    draws = interval.resample(runs, design, theta, 0.01, 20)
    own = solve.log_jacobian(design, theta[None])[1][0][:, :1]
    assert nested.added_terms(runs, design, theta, log_loss, draws, own) is None
