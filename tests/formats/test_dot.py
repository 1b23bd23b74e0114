"""Products of quantized arrays: the value, the gradients, what is kept, flax and einsum."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitlaw
from bitlaw.formats import QuantSpec

DENSE = (((1,), (0,)), ((), ()))
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(24, 64)).astype(np.float32))
W = jnp.asarray(RNG.normal(size=(64, 32)).astype(np.float32))
KEY = np.array([1, 2], np.uint32)
PAIRS = [
    ("quest4/row", "int4/channel"), ("mxfp4", "nvfp4"), ("uint4", "int4/block32"),
    ("e4m3", None), (None, "quest2/channel"), ("mxfp8/stochastic", "int3/stochastic"),
    ("quest4/row/hadamard16", "nf4"), ("int8/clip_value", "ternary/channel"),
]  # fmt: skip


def by_hand(x, w, g, lhs, rhs, grad=None):
    """Value and gradients, from fake_quantize and its own gradient."""
    spec = lambda text, **role: text and QuantSpec.parse(text, **role)
    keys = [bitlaw.formats.derived_key(KEY, k) for k in range(3)]
    quantize = lambda a, s, k: bitlaw.fake_quantize(a, s, key=keys[k]) if s else a
    ql, pull_l = jax.vjp(lambda a: quantize(a, spec(lhs), 0), x)
    qr, pull_r = jax.vjp(lambda a: quantize(a, spec(rhs, axis=-2), 1), w)
    g_ = quantize(g, spec(grad, gradient=True), 2)
    return ql @ qr, pull_l(g_ @ qr.T)[0], pull_r(ql.T @ g_)[0]


@pytest.mark.parametrize("residual", ["packed", "full", "recompute"])
@pytest.mark.parametrize(("lhs", "rhs"), PAIRS)
def test_value_and_gradients_are_those_of_fake_quantize(lhs, rhs, residual):
    product = lambda x, w: bitlaw.dot_general(
        x, w, DENSE, lhs_spec=lhs, rhs_spec=rhs, grad_spec="e5m2", residual=residual, key=KEY
    )
    g = jnp.asarray(RNG.normal(size=(24, 32)).astype(np.float32))
    y, pull = jax.vjp(product, X, W)
    wanted = by_hand(X, W, g, lhs, rhs, "e5m2")
    for got, want in zip((y, *pull(g)), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)  # order of the product's sums


def test_packed_keeps_half_a_byte_and_two_bits_per_element_of_w4a4():
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2048, 512), (512, 512)))
    kept = {
        residual: bitlaw.saved_bytes(
            lambda x, w, r=residual: bitlaw.dot_general(
                x, w, DENSE, lhs_spec="quest4/row", rhs_spec="quest4/channel", residual=r
            ),
            x,
            w,
        )
        for residual in ("packed", "full", "recompute")
    }
    elements = 2048 * 512 + 512 * 512
    assert kept["packed"] <= 0.64 * elements  # 4 bits, 1 bit of the mask, scales
    assert kept["recompute"] <= 4.01 * elements
    assert 4 * elements < kept["full"] <= 4.2 * elements


def test_operands_of_any_layout_are_quantized_as_matrices():
    """Attention scores: the batch and head axes come first or not, tokens share their scales."""
    q = jnp.asarray(RNG.normal(size=(2, 5, 3, 16)).astype(np.float32))  # b l h d
    k = jnp.asarray(RNG.normal(size=(2, 7, 3, 16)).astype(np.float32))  # b m h d
    dims = (((3,), (3,)), ((0, 2), (0, 2)))
    got = bitlaw.dot_general(q, k, dims, lhs_spec="int4/row", rhs_spec="int4/channel")
    rows = lambda x: bitlaw.fake_quantize(x, "int4/row")
    np.testing.assert_array_equal(got, jax.lax.dot_general(rows(q), rows(k), dims))


class Net(nn.Module):
    dot: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(32, dot_general=self.dot)(x)


@pytest.mark.parametrize(
    "scheme", ["w=int4/channel a=quest4/row", "w=mxfp4 a=mxfp8 g=fp8", "dense"]
)
def test_it_drops_into_flax(scheme):
    net = Net(bitlaw.make_dot_general(scheme))
    x = X.reshape(2, 12, 64)
    params = net.init(jax.random.key(0), x)
    kernel = params["params"]["Dense_0"]["kernel"]
    parsed = bitlaw.Scheme.parse(scheme)
    quantize = lambda a, spec: a if spec is None else bitlaw.fake_quantize(a, spec)
    want = quantize(x, parsed.a) @ quantize(kernel, parsed.w)
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), want, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda p: net.apply(p, x).sum())(params)
    assert np.isfinite(gradient["params"]["Dense_0"]["kernel"]).all()


def test_it_drops_into_einsum():
    dot = bitlaw.make_dot_general("w=int4/channel a=int8/row")
    x = X.reshape(2, 12, 64)
    got = jnp.einsum("bld,df->blf", x, W, _dot_general=dot)
    want = bitlaw.fake_quantize(x, "int8/row") @ bitlaw.fake_quantize(W, "int4/channel")
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_it_maps_and_a_gradient_of_its_own_dtype_comes_back():
    product = lambda x, w: bitlaw.dot_general(x, w, DENSE, lhs_spec="int4/row", rhs_spec="int4/row")
    each = jnp.stack([product(x, W) for x in X.reshape(4, 6, 64)])
    mapped = jax.vmap(product, in_axes=(0, None))(X.reshape(4, 6, 64), W)
    np.testing.assert_allclose(mapped, each, rtol=1e-5, atol=1e-5)
    half = jax.grad(lambda x: product(x, W.astype(jnp.bfloat16)).astype(jnp.float32).sum())
    assert half(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lhs_spec": "int4/learned"}, "lhs_spec must not have learned scales in a dot_general"),
        ({"rhs_spec": "e4m3/delayed"}, "or absmax, which needs none"),
        ({"rhs_spec": "int4/stochastic"}, "key must be given for stochastic rounding"),
        ({"residual": "half"}, "residual must be one of packed, full, recompute, got 'half'"),
        ({"rhs_spec": "int4/block48"}, "block must divide axis 0 of x, got 48 and (64, 32)"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        bitlaw.dot_general(X, W, DENSE, **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("scheme", ["w=int4/learned", "a=e4m3/delayed", "w=int4 s=0.5"])
def test_schemes_that_need_a_place_are_refused(scheme):
    with pytest.raises(ValueError, match="use bitlaw"):
        bitlaw.make_dot_general(scheme)
