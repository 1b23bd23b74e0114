"""The table of formats: its constants re-derived, its rows consistent."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from bitlaw.formats import FORMATS
from bitlaw.formats.format import gauss_mse

# Mean squared errors on N(0, 1): QuEST's code (arXiv:2502.05003) and Max (1960), Table I for 3, 7
# and 15 uniform levels.
PUBLISHED_MSE = {
    "quest1": 0.36338, "quest2": 0.118846, "quest3": 0.0374397, "quest4": 0.0115429,
    "quest8": 8.782e-5, "int2": 0.1902, "int3": 0.04686, "int4": 0.01289,
}  # fmt: skip


def best_step(fmt):
    first = fmt.gauss_clip / fmt.largest
    bounds = (0.8 * first, 1.2 * first)
    found = minimize_scalar(gauss_mse, bounds, args=(fmt,), bounds=bounds, options={"xatol": 1e-12})
    return found.x, found.fun


@pytest.mark.parametrize("name", FORMATS)
def test_gauss_clip_is_the_best_for_a_normal(name):
    fmt = FORMATS[name]
    step, mse = best_step(fmt)
    at_clip = gauss_mse(fmt.gauss_clip / fmt.largest, fmt)
    # The error is flat at its minimum: a search in doubles finds the step to about 1e-7 only.
    # QuEST's constants are a coarser search's, at most 0.2 % in error above the best.
    assert at_clip <= mse * (1.002 if name.startswith("quest") else 1 + 1e-9)
    if not name.startswith("quest"):
        assert math.isclose(step * fmt.largest, fmt.gauss_clip, rel_tol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED_MSE)
def test_gauss_mse_equals_the_published_one(name):
    fmt, published = FORMATS[name], PUBLISHED_MSE[name]
    digits = len(f"{published:g}".replace("0.", "").split("e")[0].replace(".", "").lstrip("0"))
    got = gauss_mse(fmt.gauss_clip / fmt.largest, fmt)
    assert float(f"{got:.{digits}g}") == pytest.approx(published, rel=10.0 ** (1 - digits))


@pytest.mark.parametrize("name", FORMATS)
def test_gauss_mse_equals_a_sample(name):
    fmt = FORMATS[name]
    step = fmt.gauss_clip / fmt.largest
    x = np.random.default_rng(0).normal(size=2_000_000)
    code = np.clip(np.rint(x / step - fmt.offset), fmt.qmin, fmt.qmax)
    error = (x - (code + fmt.offset) * step) ** 2
    # Four standard errors of the sample's mean.
    assert abs(error.mean() - gauss_mse(step, fmt)) < 4 * error.std() / math.sqrt(x.size)


def test_int2_has_three_levels_and_quest2_four():
    assert FORMATS["int2"].levels == 3 and FORMATS["int2"].bits == math.log2(3)
    assert FORMATS["quest2"].levels == 4 and FORMATS["quest2"].bits == 2
    assert FORMATS["quest1"].largest == 0.5 and FORMATS["int8"].largest == 127
