"""The table of formats: its constants re-derived, its rows consistent."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from bitlaw.commands.formats import table
from bitlaw.formats import FORMATS
from bitlaw.formats.format import gauss_mse

# Mean squared errors on N(0, 1): QuEST's code (arXiv:2502.05003) and Max (1960), Table I for 3, 7
# and 15 uniform levels.
PUBLISHED_MSE = {
    "quest1": 0.36338, "quest2": 0.118846, "quest3": 0.0374397, "quest4": 0.0115429,
    "quest8": 8.782e-5, "int2": 0.1902, "int3": 0.04686, "int4": 0.01289,
}  # fmt: skip


CLIPPED = [name for name, fmt in FORMATS.items() if fmt.gauss_clip]


def best_step(fmt):
    first = fmt.gauss_clip / fmt.largest
    bounds = (0.8 * first, 1.2 * first)
    found = minimize_scalar(gauss_mse, bounds, args=(fmt,), bounds=bounds, options={"xatol": 1e-12})
    return found.x, found.fun


@pytest.mark.parametrize("name", CLIPPED)
def test_gauss_clip_is_the_best_for_a_normal(name):
    fmt = FORMATS[name]
    step, mse = best_step(fmt)
    at_clip = gauss_mse(fmt.gauss_clip / fmt.largest, fmt)
    # The error is flat at its minimum: a search in doubles finds the step to about 1e-7 only.
    # QuEST's constants are a coarser search's, at most 0.2 % in error above the best.
    published = fmt.offset == 0.5
    assert at_clip <= mse * (1.002 if published else 1 + 1e-9)
    if not published:
        assert math.isclose(step * fmt.largest, fmt.gauss_clip, rel_tol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED_MSE)
def test_gauss_mse_equals_the_published_one(name):
    fmt, published = FORMATS[name], PUBLISHED_MSE[name]
    digits = len(f"{published:g}".replace("0.", "").split("e")[0].replace(".", "").lstrip("0"))
    got = gauss_mse(fmt.gauss_clip / fmt.largest, fmt)
    assert float(f"{got:.{digits}g}") == pytest.approx(published, rel=10.0 ** (1 - digits))
    assert fmt.best_gauss_mse == got


@pytest.mark.parametrize("name", FORMATS)
def test_gauss_mse_equals_a_sample(name):
    fmt = FORMATS[name]
    step = (fmt.gauss_clip or 3.0) / fmt.largest
    levels = fmt.grid_levels - ((fmt.qmax + 1) // 2 if fmt.kind == "affine" else 0)
    x = np.random.default_rng(0).normal(size=500_000)
    edges = (levels[1:] + levels[:-1]) / 2 * step
    error = (x - levels[np.searchsorted(edges, x)] * step) ** 2
    # Four standard errors of the sample's mean.
    assert abs(error.mean() - gauss_mse(step, fmt)) < 4 * error.std() / math.sqrt(x.size)


@pytest.mark.parametrize("name", ["e4m3", "e2m1", "e3m2", "nf4"])
def test_best_gauss_mse_is_below_every_scale_of_a_fine_grid(name):
    fmt = FORMATS[name]
    errors = [gauss_mse(clip / fmt.largest, fmt) for clip in np.geomspace(0.7, 2000, 301)]
    assert fmt.best_gauss_mse <= min(errors) * (1 + 1e-6)


LEVELS = {  # distinct values; a float's two zeros are one
    "int2": 3, "int4": 15, "int8": 255, "uint4": 16, "binary": 2, "ternary": 3, "quest4": 16,
    "e4m3": 253, "e5m2": 247, "e3m2": 63, "e2m3": 63, "e2m1": 15, "nf4": 16,
}  # fmt: skip


@pytest.mark.parametrize("name", LEVELS)
def test_formats_have_their_levels(name):
    fmt = FORMATS[name]
    assert fmt.levels == LEVELS[name] <= 2**fmt.bits
    assert fmt.grid_levels.max() == fmt.largest and fmt.smallest > 0
    assert (np.diff(fmt.grid_levels) > 0).all()


SMALLEST = {"e4m3": 2.0**-9, "e5m2": 2.0**-16, "e3m2": 0.0625, "e2m3": 0.125, "e2m1": 0.5}


@pytest.mark.parametrize("name", SMALLEST)
def test_floats_have_the_smallest_subnormal_of_ocp(name):
    assert FORMATS[name].smallest == SMALLEST[name]


SCALE_BITS = {"mxfp8": 0.25, "mxfp4": 0.25, "mxint8": 0.25, "nvfp4": 0.5, "nf4": 0.5, "fp8": 0}


@pytest.mark.parametrize("name", SCALE_BITS)
def test_scales_cost_what_their_blocks_say(name):
    assert FORMATS[name].scale_bits == SCALE_BITS[name]


def test_presets_are_elements_with_other_defaults():
    for preset, element in [
        ("mxfp8", "e4m3"), ("mxfp6", "e3m2"), ("mxfp4", "e2m1"), ("mxint8", "int8"),
        ("nvfp4", "e2m1"), ("fp8", "e4m3"),
    ]:  # fmt: skip
        np.testing.assert_array_equal(FORMATS[preset].grid_levels, FORMATS[element].grid_levels)
        assert FORMATS[preset].bits == FORMATS[element].bits


def test_the_command_prints_a_row_for_every_format():
    head, *rows = table(FORMATS).splitlines()
    assert head.split() == ["format", "levels", "bits", "max", "smallest", "block", "scale", "GMSE"]
    assert [row.split()[0] for row in rows] == list(FORMATS)
    nvfp4 = next(row for row in rows if row.startswith("nvfp4")).split()
    assert nvfp4[:5] == ["nvfp4", "15", "4.5", "6", "0.5"] and nvfp4[-1] == "0.0127"
