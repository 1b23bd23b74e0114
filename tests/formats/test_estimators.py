"""Finite differences of the surrogate that each estimator stands for are its gradient.

With s the scale, which data do not move, lo and hi the outermost levels and d half a step beyond:

    identity      f(x) = x
    clip_value    f(x) = clamp(x, lo s, hi s)
    clip_rounded  f(x) = clamp(x, (lo - d) s, (hi + d) s)        d: half the step at the end
    trust         f(x) = clamp(x, (lo - T) s, (hi + T) s)        T: half the largest step
    lsq           f(x, s) = s (clamp(x / s, lo - d, hi + d) + r)               r, what rounding
    lsq_plus      f(x, s, z) = s (clamp(x / s + z, lo - d, hi + d) + r - z)    adds here, is held
    pact          f(x, s) = clamp(x, lo s, hi s)

in float64, by central differences, wherever no kink is near.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitlaw
from bitlaw.formats import QuantSpec, learned_fake_quantize, learned_scales
from bitlaw.ops.quantize import fake_quantize

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 48)).astype(np.float32)
G = RNG.normal(size=X.shape).astype(np.float32)
STEP = 1e-5  # of a difference, in units of the scale
NEAR = 1e-3  # of a kink

ESTIMATORS = ("identity", "clip_value", "clip_rounded", "trust")
# Rules that clip: absmax would leave the ends of every surrogate out.
FORMATS = [
    "int3/channel/rms(2)", "int4/block16/gauss_mse", "quest2/row/gauss_mse", "quest3/fixed(0.3)",
    "ternary/block8x16/rms(1)", "e2m1/row/rms(2)", "e2m3/channel/rms(1.5)", "nf4/block16/rms(1.5)",
]  # fmt: skip


def clamped(v, low, high):
    return np.minimum(np.maximum(v, low), high)


def ends(spec):
    """(lowest, highest) level of f, in units of the scale, beyond which it is constant."""
    levels = spec.row.grid_levels
    beyond = {
        "identity": (np.inf, np.inf),
        "clip_value": (0, 0),
        "clip_rounded": (np.diff(levels)[0] / 2, np.diff(levels)[-1] / 2),
        "trust": (np.diff(levels).max() / 2,) * 2,
    }[spec.estimator]
    if spec.row.kind == "nf4" and spec.estimator == "clip_rounded":
        beyond = (0, 0)  # as clip_value: its levels do not go on
    return levels[0] - beyond[0], levels[-1] + beyond[1]


def steps(spec):
    """Every element's scale in float64, taken from the data as the rule says."""
    if spec.rule == "fixed":
        return np.full(X.shape, np.float64(spec.grid[3]))
    squares = X.astype(np.float64) ** 2
    rows, cols = {
        "channel": (X.shape[0], 1), "row": (1, X.shape[1]), "block": (1, spec.block),
        "tile": (spec.block, spec.tile),
    }[spec.granularity]  # fmt: skip
    blocks = squares.reshape(X.shape[0] // rows, rows, X.shape[1] // cols, cols)
    mean = np.broadcast_to(blocks.mean(axis=(1, 3), keepdims=True), blocks.shape)
    return np.sqrt(mean.reshape(X.shape)) / spec.grid[3]


def difference(f, v):
    """f'(v), elementwise."""
    return (f(v + STEP) - f(v - STEP)) / (2 * STEP)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("text", FORMATS)
def test_gradient_equals_finite_differences_of_the_surrogate(text, estimator):
    spec = QuantSpec.parse(f"{text}/{estimator}")
    _, pull = jax.vjp(lambda x: bitlaw.fake_quantize(x, spec), jnp.asarray(X))
    got = np.asarray(pull(jnp.asarray(G))[0], np.float64)
    low, high = ends(spec)
    v = X.astype(np.float64) / steps(spec)
    want = G * difference(lambda v: clamped(v, low, high), v)
    clear = (np.abs(v - low) > NEAR) & (np.abs(v - high) > NEAR)
    assert clear.mean() > 0.95 and (estimator == "identity" or (want[clear] == 0).any())
    np.testing.assert_allclose(got[clear], want[clear], rtol=1e-6, atol=1e-9)  # f64 differences


@pytest.mark.parametrize("estimator", ["clip_rounded", "trust"])
@pytest.mark.parametrize("name", ["int2", "int4", "int8", "quest3", "ternary", "e2m1", "e4m3"])
def test_absmax_masks_nothing_so_no_mask_is_kept(name, estimator):
    spec = QuantSpec.parse(f"{name}/row/absmax/{estimator}")
    powers = 2.0 ** np.concatenate([np.arange(-149, 128, 3), [127.9999999]])
    x = (powers[:, None] * np.linspace(-1, 1, 48)).astype(np.float32)
    x[:, 7] = 0
    attributes = spec.structure.attributes() | {"estimator": estimator, "pruned": False}
    grids, noise = np.repeat(spec.grid[None], len(x), axis=0), np.zeros((len(x), 0), np.uint32)
    *_, mask = fake_quantize(x, grids, noise, block=48, statistic="absmax", **attributes)
    assert (mask == 255).all()
    assert spec.structure.estimator == "identity" and spec.estimator == estimator
    assert QuantSpec.parse(f"{name}/row/absmax/{estimator}/away").structure.estimator == estimator


def test_a_rotated_estimator_equals_finite_differences_of_the_rotated_surrogate():
    """f = H clamp(H x): every gradient is a sum over its run of 16."""
    spec = QuantSpec.parse("quest3/fixed(0.5)/hadamard16/trust")
    one = np.array([[1.0]])
    for _ in range(4):
        one = np.block([[one, one], [one, -one]])
    low, high = ends(spec)
    f = lambda runs: clamped(runs @ one / 4, low * 0.5, high * 0.5) @ one / 4
    runs, g = (a.astype(np.float64).reshape(-1, 16) for a in (X, G))
    want = np.empty_like(runs)
    for j in range(16):
        h = STEP * np.eye(16)[j]
        want[:, j] = ((f(runs + h) - f(runs - h)) * g).sum(axis=1) / (2 * STEP)
    rotated = np.abs(runs @ one / 4)
    clear = (np.abs(rotated - high * 0.5) > NEAR).all(axis=1)
    assert clear.mean() > 0.9 and (rotated[clear] > high * 0.5).any()
    _, pull = jax.vjp(lambda x: bitlaw.fake_quantize(x, spec), jnp.asarray(X))
    got = np.asarray(pull(jnp.asarray(G))[0]).reshape(-1, 16)
    np.testing.assert_allclose(got[clear], want[clear], rtol=1e-4, atol=1e-5)  # sums in f32


def learned_surrogate(spec):
    """(x, s, z, r) -> f, and the r of x, s and z."""
    low, high, offset = (np.float64(spec.grid[k]) for k in range(3))

    def of(x, s, z, r):
        if spec.estimator == "pact":
            return clamped(x, low * s, high * s)
        return s * (clamped(x / s + z - offset, low - 0.5, high + 0.5) + offset + r - z)

    def held(x, s, z):
        v = x / s + z - offset
        return clamped(np.rint(v), low, high) - clamped(v, low - 0.5, high + 0.5)

    return of, held


@pytest.mark.parametrize(
    "text", ["quest2/lsq", "int4/block16/lsq", "uint3/lsq_plus",
             "uint4/row/lsq_plus", "uint4/channel/pact"]
)  # fmt: skip
def test_learned_gradients_equal_finite_differences_of_the_surrogate(text):
    spec, x = QuantSpec.parse(text), X.astype(np.float64)
    scales = learned_scales(X, spec)
    scales["scale"] = scales["scale"] * 0.45  # so that something is clipped
    spread = {name: spread_over(spec, value) for name, value in scales.items()}
    s = np.asarray(spread["scale"], np.float64)
    z = np.rint(np.asarray(spread.get("zero", 0), np.float64))
    f, held = learned_surrogate(spec)
    r = held(x, s, z)
    low, high, offset = (np.float64(spec.grid[k]) for k in range(3))
    kink = 0 if spec.estimator == "pact" else 0.5
    v = x / s + z - offset
    clear = (np.abs(v - low + kink) > NEAR) & (np.abs(v - high - kink) > NEAR)
    g = np.where(clear, G, 0)  # kinks have no difference: no gradient comes from there
    _, pull = jax.vjp(lambda x, s: learned_fake_quantize(x, s, spec), jnp.asarray(X), scales)
    dx, found = pull(jnp.asarray(g))
    inside = difference(lambda d: f(x + d, s, z, r), 0.0)
    assert 0.02 < (inside == 0).mean() < 0.8
    np.testing.assert_allclose(dx, g * inside, rtol=1e-6, atol=1e-9)
    moved = {"scale": lambda d: f(x, s + d * s, z, r) / s, "zero": lambda d: f(x, s, z + d, r)}
    per_scale = x.size / scales["scale"].size
    factor = 1 if spec.estimator == "pact" else 1 / np.sqrt(per_scale * high)
    for name in found:
        terms = jnp.asarray(g * difference(moved[name], 0.0), jnp.float32)
        _, collect = jax.vjp(lambda value: spread_over(spec, value), scales[name])
        want = np.asarray(collect(terms)[0]) * factor
        np.testing.assert_allclose(found[name], want, rtol=3e-4, atol=3e-5)  # sums in f32


def spread_over(spec, scale):
    """Every element's scale."""
    layout, block = spec.structure.quantizer.layout(X.shape)
    rows = layout[1] if len(layout) == 3 else 1
    groups = (layout[0], rows, layout[-1] // block, block)
    wide = jnp.broadcast_to(scale, (layout[0], groups[2]))[:, None, :, None]
    return jnp.broadcast_to(wide, groups).reshape(X.shape)
