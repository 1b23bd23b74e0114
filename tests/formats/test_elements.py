"""Every element format against other people's: ml_dtypes, gfloat, published levels."""

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest

from bitlaw.formats import FORMATS, QuantSpec
from bitlaw.ops import codes, quantize
from bitlaw.ops.grid import NF4

ML_DTYPES = {
    "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
    "e3m2": ml_dtypes.float6_e3m2fn, "e2m3": ml_dtypes.float6_e2m3fn,
    "e2m1": ml_dtypes.float4_e2m1fn,
}  # fmt: skip
GFLOAT = {
    "e4m3": gfloat.formats.format_info_ocp_e4m3, "e5m2": gfloat.formats.format_info_ocp_e5m2,
    "e3m2": gfloat.formats.format_info_ocp_e3m2, "e2m3": gfloat.formats.format_info_ocp_e2m3,
    "e2m1": gfloat.formats.format_info_ocp_e2m1,
}  # fmt: skip


def every_bfloat16():
    return np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)


def boundaries(name):
    """The levels and the midpoints between them, and their neighbours in f32."""
    levels = FORMATS[name].grid_levels
    at = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2, [-0.0]]).astype(np.float32)
    near = [np.nextafter(at, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([at, *near])


def on_grid(x, name, rounding="nearest", bits=None):
    """x on the format's levels with scale 1; or its codes of `bits` bits, unpacked."""
    spec = QuantSpec.parse(name)
    x = x[None, :]
    operands = (
        np.ones((1, 1), np.float32),
        np.zeros((1, 0), np.float32),
        spec.grid[None],
        np.zeros((1, 0), np.uint32),
    )
    attributes = {
        "block": x.shape[1],
        "kind": FORMATS[name].kind,
        "scaling": "f32",
        "rounding": rounding,
        "estimator": "identity",
        "hadamard": 0,
    }
    if bits is None:
        return quantize.fake_quantize_scaled(x, *operands, pruned=False, **attributes)[0][0]
    packed, _ = codes.quantize_scaled(x, *operands, bits=bits, **attributes)
    planes = np.unpackbits(packed[0], bitorder="little")[: bits * x.shape[1]].reshape(-1, bits)
    return (planes << np.arange(bits)).sum(axis=1).astype(np.uint8)


def same_bits(got, want):
    nan = np.isnan(got) & np.isnan(want)
    got, want = (np.where(nan, 0, v).astype(np.float32).view(np.uint32) for v in (got, want))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_floats_equal_ml_dtypes_on_every_bfloat16_and_boundary(name):
    x = np.concatenate([every_bfloat16(), boundaries(name)])
    largest = np.float32(FORMATS[name].largest)
    with np.errstate(invalid="ignore"):
        want = x.clip(-largest, largest).astype(ML_DTYPES[name]).astype(np.float32)
    # Formats of 4 and 6 bits have no NaN of their own; a fake quantization keeps it.
    same_bits(on_grid(x, name), np.where(np.isnan(x), np.float32(np.nan), want))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_codes_are_the_bytes_of_ml_dtypes(name):
    x = np.concatenate([every_bfloat16(), boundaries(name)])
    bits, largest = FORMATS[name].bits, np.float32(FORMATS[name].largest)
    x = x[~np.isnan(x)]
    want = x.clip(-largest, largest).astype(ML_DTYPES[name]).view(np.uint8)
    np.testing.assert_array_equal(on_grid(x, name, bits=bits), want & np.uint8(2**bits - 1))


@pytest.mark.parametrize("name", GFLOAT)
@pytest.mark.parametrize(
    "rounding, mode",
    [
        ("nearest", gfloat.RoundMode.TiesToEven),
        ("toward_zero", gfloat.RoundMode.TowardZero),
        ("away", None),
    ],
)
def test_floats_equal_gfloat_in_every_rounding(name, rounding, mode):
    x = np.concatenate([every_bfloat16()[::5], boundaries(name)])
    x = x[np.isfinite(x)]

    def want(v):
        # gfloat has no rounding away from zero: up of what is above zero, down of what is below.
        outward = gfloat.RoundMode.TowardPositive if v > 0 else gfloat.RoundMode.TowardNegative
        return gfloat.round_float(GFLOAT[name], float(v), mode or outward, True)

    same_bits(on_grid(x, name, rounding), np.array([want(v) for v in x], np.float32))


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.kind in ("uniform", "nf4")])
def test_nearest_is_the_nearest_level_on_every_bfloat16(name):
    fmt = FORMATS[name]
    x = every_bfloat16()
    x = x[np.isfinite(x)].astype(np.float64).clip(-300, 300)
    got = on_grid(x.astype(np.float32), name).astype(np.float64)
    error = np.abs(got - x)
    best = np.abs(x[:, None] - fmt.grid_levels[None]).min(axis=1)
    # v = x - offset rounds in f32: 2^-24 of magnitudes up to 512.
    assert (error <= best + 2.0**-15).all()
    assert np.isin(got, fmt.grid_levels).all()


def test_nf4_has_the_published_levels():
    """QLoRA (arXiv:2305.14314), appendix E."""
    assert len(NF4) == 16 and NF4[0] == -1 and NF4[7] == 0 and NF4[15] == 1
    assert NF4[1] == np.float32(-0.6961928009986877) and NF4[8] == np.float32(0.07958029955625534)
    np.testing.assert_array_equal(FORMATS["nf4"].grid_levels.astype(np.float32), NF4)


ROUNDED = {"int4": 5.3, "uint4": 5.3, "quest3": 1.3, "e4m3": 19.0, "e2m1": 0.3, "nf4": 0.3}


@pytest.mark.parametrize("name", ROUNDED)
def test_stochastic_rounding_has_the_mean_of_x_and_the_variance_of_a_coin(name):
    """E y = x; Var y = p (1 - p) step^2 with p = the part of the step."""
    x, n = np.float32(ROUNDED[name]), 1 << 18
    for value in (x, -x) if name != "uint4" else (x,):
        spec = QuantSpec.parse(name)
        zero = np.zeros((1, int(name == "uint4")), np.float32)
        y, _ = quantize.fake_quantize_scaled(
            np.full((1, n), value),
            np.ones((1, 1), np.float32),
            zero,
            spec.grid[None],
            np.array([[1, 2, 3]], np.uint32),
            block=n,
            kind=FORMATS[name].kind,
            scaling="f32",
            rounding="stochastic",
            estimator="identity",
            pruned=False,
            hadamard=0,
        )
        levels = np.unique(y).astype(np.float64)
        assert len(levels) == 2 and levels[0] < value < levels[1]
        step = levels[1] - levels[0]
        p = (float(value) - levels[0]) / step
        deviation = step * np.sqrt(p * (1 - p))
        assert abs(y.mean(dtype=np.float64) - value) < 5 * deviation / np.sqrt(n)
        assert abs(y.var(dtype=np.float64) / deviation**2 - 1) < 0.02


@pytest.mark.parametrize("rounding", ["stochastic", "toward_zero", "away"])
@pytest.mark.parametrize("name", ["int8", "quest4", "e4m3", "e2m1", "nf4"])
def test_levels_stay_where_they_are_in_every_rounding(name, rounding):
    levels = FORMATS[name].grid_levels.astype(np.float32)
    x = np.tile(levels, 100)[None, :]
    spec = QuantSpec.parse(f"{name}/row/{rounding}")
    noise = np.array([[5, 6, 7]], np.uint32)[:, : 3 if rounding == "stochastic" else 0]
    y, *_ = quantize.fake_quantize_scaled(
        x,
        np.ones((1, 1), np.float32),
        np.zeros((1, 0), np.float32),
        spec.grid[None],
        noise,
        block=x.shape[1],
        kind=FORMATS[name].kind,
        scaling="f32",
        rounding=rounding,
        estimator="identity",
        pruned=False,
        hadamard=0,
    )
    np.testing.assert_array_equal(y, x)
