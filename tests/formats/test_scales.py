"""Stored scales against published tables, exact rationals and torch."""

from fractions import Fraction

import numpy as np
import pytest

import bitlaw
from bitlaw.formats import FORMATS, QuantSpec
from bitlaw.ops import codes, quantize
from bitlaw.ops.scale import statistic_scale

FLT_MAX = np.finfo(np.float32).max


def scale_of(value, scaling, span=1.0, kind="float"):
    """The stored scale of one statistic."""
    grid = np.array([[1, 1, 1, span, 1]], np.float32)
    if kind == "uniform":
        grid = np.array([[-span, span, 0, span, 1]], np.float32)
    high = np.array([[value]], np.float32)
    scale, _ = statistic_scale(
        high, high[:, :0], np.ones_like(high), grid, kind=kind, scaling=scaling
    )
    return scale[0, 0]


def e8m0_byte(scale):
    """b of 2^(b - 127), 255 of NaN."""
    return 255 if np.isnan(scale) else int(np.log2(np.float64(scale))) + 127


def up(x):
    return np.nextafter(np.float32(x), np.float32(np.inf))


def down(x):
    return np.nextafter(np.float32(x), np.float32(0))


@pytest.mark.parametrize(
    "value, byte",
    [
        (0, 0), (2.0**-149, 0), (2.0**-127, 0), (up(2.0**-127), 1), (2.0**-126, 1), (2.0**-64, 63),
        (up(2.0**-64), 64), (down(1), 127), (1, 127), (up(1), 128), (2.0**127, 254),
        (up(2.0**127), 255), (np.inf, 255), (np.nan, 255),
    ],
)  # fmt: skip
def test_e8m0_rceil_equals_the_table_of_cuda(value, byte):
    """CUDA's __nv_cvt_float_to_e8m0 with cudaRoundPosInf, without saturation."""
    assert e8m0_byte(scale_of(value, "e8m0_rceil")) == byte


X_LOW = np.uint32(0x40600001).view(np.float32)
X_HIGH = np.uint32(0x43FFFFFF).view(np.float32)


@pytest.mark.parametrize(
    "values, floor, rceil",
    [
        ([0, 0], ("0000", 0), ("0000", 0)),
        ([2.0**-126], ("40", 0), ("40", 0)),
        ([448, -448], ("7EFE", 127), ("7EFE", 127)),
        ([FLT_MAX], ("7E", 246), ("78", 247)),
        ([X_LOW], ("7E", 120), ("76", 121)),
        ([X_HIGH], ("7E", 127), ("78", 128)),
        ([480, -480], ("7EFE", 127), ("77F7", 128)),
    ],
)
def test_mxfp8_equals_the_published_bytes(values, floor, rceil):
    """OCP Microscaling Formats 1.0, and CUDA's rounding of the scale upwards."""
    x = np.zeros((1, 32), np.float32)
    x[0, : len(values)] = values
    for scaling, (data, byte) in (("e8m0_floor", floor), ("e8m0_rceil", rceil)):
        spec = QuantSpec.parse("mxfp8")
        got, scale, _, _ = codes.quantize(
            x,
            spec.grid[None],
            np.zeros((1, 0), np.uint32),
            block=32,
            bits=8,
            kind="float",
            statistic="absmax",
            scaling=scaling,
            rounding="nearest",
            estimator="identity",
            hadamard=0,
        )
        assert got[0, : len(values)].tobytes().hex().upper() == data
        assert e8m0_byte(scale[0, 0]) == byte


def test_pow2_and_bf16_scales_of_small_and_large_statistics():
    assert scale_of(3, "pow2") == 4 and scale_of(4, "pow2") == 4 and scale_of(0, "pow2") == 0
    assert scale_of(FLT_MAX, "pow2") == 2.0**127 and scale_of(2.0**-149, "pow2") == 2.0**-126
    assert scale_of(2.0**-149, "bf16") == 2.0**-133 and scale_of(0, "bf16") == 0
    assert scale_of(FLT_MAX, "bf16") == np.uint32(0x7F7F0000).view(np.float32)
    assert scale_of(1 + 2.0**-8, "bf16") == 1 and scale_of(1 + 3 * 2.0**-8, "bf16") == 1 + 2.0**-6


# ---- exact rationals -----------------------------------------------------------------------------


def nearest(x: Fraction, mantissa: int, least: int, largest: Fraction | None = None) -> Fraction:
    """x on a binary float with this many mantissa bits and least normal exponent; ties to even."""
    if x == 0:
        return x
    mag = abs(x)
    exponent = max(floor_log2(mag), least)
    quantum = Fraction(2) ** (exponent - mantissa)
    steps = mag / quantum
    whole = steps.numerator // steps.denominator
    rest = steps - whole
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    mag = whole * quantum
    if largest is not None:
        mag = min(mag, largest)
    return mag if x > 0 else -mag


def floor_log2(x: Fraction) -> int:
    e = x.numerator.bit_length() - x.denominator.bit_length()
    while Fraction(2) ** e > x:
        e -= 1
    while Fraction(2) ** (e + 1) <= x:
        e += 1
    return e


def f32(x: Fraction) -> Fraction:
    return nearest(x, 23, -126)


ELEMENTS = {  # mantissa bits, least normal exponent, largest
    "mxfp8": (3, -6, Fraction(448)),
    "mxfp6": (2, -2, Fraction(28)),
    "mxfp4": (1, 0, Fraction(6)),
}


def mx_block(x: list[Fraction], name: str) -> list[Fraction]:
    """A block of a microscaling format: scale 2^(floor(log2 amax) - emax), as OCP has it."""
    amax = max(map(abs, x))
    if amax == 0:
        return x
    if name == "mxint8":
        scale = Fraction(2) ** floor_log2(amax)
        return [scale * fixed_point(v / scale) for v in x]
    mantissa, least, largest = ELEMENTS[name]
    scale = Fraction(2) ** max(floor_log2(amax) - floor_log2(largest), -127)
    return [scale * nearest(v / scale, mantissa, least, largest) for v in x]


def fixed_point(x: Fraction) -> Fraction:
    """x in whole 64ths, ties to even, at most 127 of them."""
    steps = abs(x) * 64
    whole = steps.numerator // steps.denominator
    rest = steps - whole
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    return Fraction(min(whole, 127), 64) * (1 if x > 0 else -1)


def hard_blocks(rng, block, count=60):
    """Blocks of many sizes with ties, large ratios within a block, zeros and signs."""
    x = rng.normal(size=(count, block)) * 2.0 ** rng.integers(-100, 100, (count, 1))
    x *= 2.0 ** rng.integers(-12, 1, (count, block)).clip(-9, 0)
    x[::3] = rng.integers(-128, 129, x[::3].shape) / 8.0  # on levels and midpoints
    x[::7, ::5] = 0
    x[1] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("name", ["mxfp8", "mxfp6", "mxfp4", "mxint8"])
def test_mx_formats_equal_exact_rationals(name):
    x = hard_blocks(np.random.default_rng(0), 32)
    got = bitlaw.fake_quantize(x, name)
    for row, y in zip(x, got, strict=True):
        exact = [Fraction(float(v)) for v in row]
        assert [Fraction(float(v)) for v in y] == mx_block(exact, name)


def test_nvfp4_equals_exact_rationals_rounded_where_it_says_so():
    """NVFP4 (arXiv:2509.25149): two levels of scales, x divided by the rounded one."""
    x = hard_blocks(np.random.default_rng(1), 16, 64) * np.float32(2.0**-20)
    x[5] *= np.float32(2.0**40)
    got = bitlaw.fake_quantize(x, "nvfp4")
    exact = [[Fraction(float(v)) for v in row] for row in x]
    outer = f32(Fraction(2688) / max(abs(v) for row in exact for v in row))
    for row, y in zip(exact, got, strict=True):
        amax = max(map(abs, row))
        inner = nearest(f32(f32(amax / 6) * outer), 3, -6, Fraction(448))
        scale = f32(inner / outer)
        levels = [nearest(f32(v / scale), 1, 0, Fraction(6)) if scale else Fraction(0) for v in row]
        assert [Fraction(float(v)) for v in y] == [f32(level * scale) for level in levels]


# ---- torch ---------------------------------------------------------------------------------------


def scaled(x, scale, zero, name, block):
    """(y, mask) of items of one row with scales given."""
    spec = QuantSpec.parse(name)
    kind = FORMATS[name].kind
    y, bits = quantize.fake_quantize_scaled(
        x,
        scale,
        zero if kind == "affine" else zero[:, :0],
        np.repeat(spec.grid[None], x.shape[0], axis=0),
        np.zeros((x.shape[0], 0), np.uint32),
        block=block,
        kind=kind,
        scaling="f32",
        rounding="nearest",
        estimator="clip_rounded",
        pruned=False,
        hadamard=0,
    )
    return y, np.unpackbits(bits, axis=-1, bitorder="little")[..., : x.shape[-1]]


@pytest.mark.parametrize("name", ["int2", "int4", "int8", "uint2", "uint4", "uint8"])
@pytest.mark.parametrize("scale", [0.1, 1 / 3, 2.0**-5, 1.7e-3])
def test_equals_torch_fake_quantize_per_tensor_affine_and_its_mask(name, scale):
    torch = pytest.importorskip("torch", reason="the extra oracles is not installed")
    fmt, rng = FORMATS[name], np.random.default_rng(0)
    x = (rng.normal(size=(1, 20000)) * 40 * scale).astype(np.float32)
    x[0, :4000] = (np.arange(4000) - 2000) / 2 * np.float32(scale)  # ties
    zero = int(fmt.qmax // 3) if fmt.kind == "affine" else 0
    t = torch.tensor(x, requires_grad=True)
    want = torch.fake_quantize_per_tensor_affine(
        t, float(np.float32(scale)), zero, fmt.qmin, fmt.qmax
    )
    want.sum().backward()
    y, mask = scaled(x, np.full((1, 1), scale, np.float32), np.full((1, 1), zero, np.float32), name,
                     x.shape[1])  # fmt: skip
    np.testing.assert_array_equal(y, want.detach().numpy())
    np.testing.assert_array_equal(mask, t.grad.numpy())


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_equals_torch_fake_quantize_per_channel_affine_and_its_mask(name):
    torch = pytest.importorskip("torch", reason="the extra oracles is not installed")
    fmt, rng = FORMATS[name], np.random.default_rng(0)
    x = rng.normal(size=(300, 64)).astype(np.float32)
    scale = rng.uniform(0.01, 0.5, 64).astype(np.float32)
    zero = rng.integers(0, 16, 64) if fmt.kind == "affine" else np.zeros(64, np.int64)
    t = torch.tensor(x, requires_grad=True)
    want = torch.fake_quantize_per_channel_affine(
        t, torch.tensor(scale), torch.tensor(zero, dtype=torch.int32), 1, fmt.qmin, fmt.qmax
    )
    want.sum().backward()
    y, mask = scaled(x[None], scale[None], zero[None].astype(np.float32), name, 1)
    np.testing.assert_array_equal(y[0], want.detach().numpy())
    np.testing.assert_array_equal(mask[0], t.grad.numpy())


# ---- mse_search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["int3", "e2m1", "nf4"])
def test_mse_search_takes_the_best_of_eight_scales_by_brute_force(name):
    x = np.random.default_rng(3).standard_t(3, size=(40, 64)).astype(np.float32)
    spec = f"{name}/block64/mse_search"
    got = bitlaw.fake_quantize(x, spec)
    amax = np.abs(x).max(axis=1, keepdims=True)
    levels = FORMATS[name].grid_levels
    errors = []
    for k in range(8):
        scale = amax * (16 - k) / 16 / FORMATS[name].largest
        near = np.abs(x[:, :, None] / scale[:, :, None] - levels).min(axis=2) * scale
        errors.append((near.astype(np.float64) ** 2).sum(axis=1))
    best = np.min(errors, axis=0)
    np.testing.assert_allclose(((got - x).astype(np.float64) ** 2).sum(axis=1), best, rtol=1e-5)
    assert (best < errors[0]).any()
