"""Learned scales: torch's rule, finite differences of the surrogate, PACT, first values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitlaw
from bitlaw.formats import QuantSpec, learned_fake_quantize, learned_scales

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(32, 48)).astype(np.float32))
G = jnp.asarray(RNG.normal(size=(32, 48)).astype(np.float32))


def gradients(x, scales, spec, g=G):
    _, pull = jax.vjp(lambda x, s: learned_fake_quantize(x, s, spec), x, scales)
    return pull(g)


def test_forward_is_on_the_grid_of_the_scale():
    scales = {"scale": jnp.full((1, 1), 0.25)}
    y = learned_fake_quantize(X, scales, "int4/learned")
    np.testing.assert_array_equal(y, 0.25 * jnp.clip(jnp.rint(X / 0.25), -7, 7))


@pytest.mark.parametrize("text", ["int3/channel/learned", "quest3/learned", "int4/block16/learned"])
def test_lsq_gradients_are_the_papers(text):
    """ds = c sum g (level - v inside, outermost level outside), element by element in numpy."""
    spec = QuantSpec.parse(text)
    scales = learned_scales(X, spec)
    dx, found = gradients(X, scales, spec)
    y = np.asarray(learned_fake_quantize(X, scales, spec), np.float64)
    ones = jax.vjp(lambda s: _spread(spec, X.shape, s), scales["scale"])
    step, collect = np.asarray(ones[0], np.float64), ones[1]
    v = np.asarray(X, np.float64) / step
    inside = np.abs(np.rint(v - spec.row.offset) + spec.row.offset - y / step) < 1e-3
    np.testing.assert_array_equal(np.asarray(dx) != 0, inside)
    terms = np.where(inside, y / step - v, y / step) * np.asarray(G)
    n = X.size / scales["scale"].size
    want = np.asarray(collect(jnp.asarray(terms, jnp.float32))[0]) / np.sqrt(n * spec.row.qmax)
    np.testing.assert_allclose(found["scale"], want, rtol=2e-4, atol=2e-5)


def _spread(spec, shape, scale):
    """Every element's scale."""
    layout, block = spec.structure.quantizer.layout(shape)
    rows = layout[1] if len(layout) == 3 else 1
    groups = (layout[0], rows, layout[-1] // block, block)
    wide = jnp.broadcast_to(scale, (layout[0], groups[2]))[:, None, :, None]
    return jnp.broadcast_to(wide, groups).reshape(shape)


def test_lsq_plus_equals_torch_learnable_per_tensor():
    torch = pytest.importorskip("torch", reason="torch is an extra: make test EXTRAS=oracles")
    scale, zero = 0.21, 6.0
    spec = QuantSpec.parse("uint4/learned")
    scales = {"scale": jnp.full((1, 1), scale), "zero": jnp.full((1, 1), zero)}
    x, s, z = (
        torch.tensor(a, requires_grad=True)
        for a in (np.asarray(X), np.float32([scale]), np.float32([zero]))
    )
    factor = float(1 / np.sqrt(X.size * 15))
    y = torch._fake_quantize_learnable_per_tensor_affine(x, s, z, 0, 15, factor)
    y.backward(torch.from_numpy(np.array(G)))
    np.testing.assert_array_equal(learned_fake_quantize(X, scales, spec), y.detach().numpy())
    dx, found = gradients(X, scales, spec)
    np.testing.assert_array_equal(dx, x.grad.numpy())
    np.testing.assert_allclose(found["scale"], s.grad.numpy()[None], rtol=1e-4)
    np.testing.assert_allclose(found["zero"], z.grad.numpy()[None], rtol=1e-4)


def test_pact_gives_alpha_the_gradient_above_it():
    """d alpha = sum of g where x >= alpha; the parameter is alpha / qmax."""
    alpha = 1.5
    scales = {"scale": jnp.full((1, 1), alpha / 15)}
    dx, found = gradients(X, scales, "uint4/pact")
    above = np.asarray(X) >= alpha
    np.testing.assert_allclose(
        found["scale"], 15 * np.asarray(G)[above].sum()[None, None], rtol=1e-4
    )
    np.testing.assert_array_equal(dx, np.where((X >= 0) & ~above, G, 0))
    y = learned_fake_quantize(X, scales, "uint4/pact")
    np.testing.assert_allclose(y, jnp.rint(jnp.clip(X, 0, alpha) * 10) / 10, atol=1e-6)


def test_first_scales_are_those_of_the_papers():
    np.testing.assert_allclose(
        learned_scales(X, "int4/learned")["scale"], [[2 * np.abs(X).mean() / np.sqrt(7)]], rtol=1e-5
    )
    per_column = learned_scales(X, "int4/channel/learned")["scale"]
    np.testing.assert_allclose(per_column, [2 * np.abs(X).mean(0) / np.sqrt(7)], rtol=1e-5)
    plus = learned_scales(X, "uint4/learned")
    np.testing.assert_allclose(plus["scale"], [[(X.max() - X.min()) / 15]], rtol=1e-5)
    assert np.isfinite(learned_scales(jnp.zeros((4, 4)), "int4/learned")["scale"]).all()


def test_learning_the_scale_lowers_the_error():
    spec = QuantSpec.parse("int2/channel/learned")
    scales = learned_scales(X, spec)
    error = jax.jit(lambda s: jnp.mean((learned_fake_quantize(X, s, spec) - X) ** 2))
    slope_of = jax.jit(jax.grad(error))
    before = error(scales)
    for _ in range(60):
        slope = slope_of(scales)
        scales = jax.tree.map(lambda s, d: s - 20 * d, scales, slope)
    assert error(scales) < 0.97 * before


def test_specs_without_learned_scales_are_refused():
    with pytest.raises(ValueError, match="spec must have learned scales, got int4"):
        learned_scales(X, "int4")
    with pytest.raises(ValueError, match="learned_fake_quantize"):
        bitlaw.fake_quantize(X, "int4/learned")
