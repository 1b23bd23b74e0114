"""States and keys of quantizers stand beside the matrices, and no model knows about them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import bitlaw
from bitlaw.formats import Scheme, learned_scales
from bitlaw.models import layers, lm, sites
from bitlaw.models.layers import Site, Structure, grids_of
from bitlaw.models.lm import ModelConfig

CONFIG = ModelConfig(width=8, depth=2, context=16)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32))
W = jnp.asarray(np.random.default_rng(1).normal(size=(24, 12)).astype(np.float32))


def of(text):
    scheme = Scheme.parse(text)
    return Structure.of(scheme), grids_of(scheme)


def test_a_scheme_without_states_or_keys_leaves_the_parameters_alone():
    params = lm.init(jax.random.key(0), CONFIG)
    structure, grids = of("w=mxfp4 a=quest4/row g=fp8")
    assert sites.with_sites(params, structure) is params
    assert sites.with_states(params, structure, grids, None) is params


def test_every_matrix_draws_its_own_keys_and_the_same_from_the_same_step():
    params = lm.init(jax.random.key(0), CONFIG)
    structure, _ = of("g=fp8/stochastic")
    key = np.array([1, 2], np.uint32)
    found = sites.with_sites(params, structure, key)
    keys = [block[name].keys for block in found["blocks"] for name in ("qkv", "output", "up")]
    assert all(isinstance(block["down"], Site) for block in found["blocks"])
    assert len({bytes(np.asarray(k)) for three in keys for k in three}) == 18
    again = sites.with_sites(params, structure, key)["blocks"][1]["up"].keys
    np.testing.assert_array_equal(again, found["blocks"][1]["up"].keys)


def test_first_states_are_those_of_the_matrix_and_of_the_data():
    structure, grids = of("w=int4/channel/learned a=int8/learned")
    params = {"blocks": [{"up": W}]}

    def loss(params, structure):
        found = sites.with_sites(params, structure)
        return layers.linear(X, found["blocks"][0]["up"], structure, grids).sum()

    (state,) = sites.with_states(params, structure, grids, loss)[sites.BRANCH].values()
    want = learned_scales(W, "int4/channel/learned")["scale"]
    np.testing.assert_allclose(jnp.exp(state["w"]["scale"]), want, rtol=1e-6)
    want = learned_scales(X, "int8/learned")["scale"]
    np.testing.assert_allclose(jnp.exp(state["a"]["scale"]), want, rtol=1e-6)


def test_past_maxima_are_overwritten_and_hidden_from_the_optimizer():
    structure, grids = of("w=e4m3/delayed")
    params = sites.with_states({"blocks": [{"up": W}]}, structure, grids, None)

    def loss(params):
        found = sites.with_sites(params, structure)
        return layers.linear(X, found["blocks"][0]["up"], structure, grids).sum()

    gradients = jax.grad(loss)(params)
    (hidden,) = sites.without_overwritten(gradients, structure)[sites.BRANCH].values()
    (new,) = sites.overwrite(params, gradients, structure)[sites.BRANCH].values()
    np.testing.assert_array_equal(hidden["w"], np.zeros(16))
    np.testing.assert_array_equal(new["w"], [np.abs(W).max(), *np.zeros(15)])


def test_the_gradient_that_arrives_is_quantized_before_both_products():
    structure, grids = of("g=int3/row")
    y, pull = jax.vjp(lambda x, w: layers.linear(x, w, structure, grids), X, W)
    np.testing.assert_array_equal(y, X @ W)
    g = jnp.asarray(np.random.default_rng(2).normal(size=y.shape).astype(np.float32))
    rounded = bitlaw.fake_quantize(g, "int3/row")
    for got, want in zip(pull(g), (rounded @ W.T, X.T @ rounded), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_blocks_that_do_not_divide_are_padded_out_of_scale_and_result():
    for text in ("mxfp4", "nvfp4", "int4/block16/absmax_half", "quest4/block10", "int4/block7x10"):
        spec = bitlaw.QuantSpec.parse(text)
        got = layers.quantized(X, spec.structure, spec.grid)
        assert got.shape == X.shape
        if spec.granularity == "block" and text != "nvfp4":  # its tensor scale is that of all
            parts = [X[:, i : i + spec.block] for i in range(0, 24, spec.block)]
            alone = dataclasses.replace(spec, granularity="row", block=0)
            want = [bitlaw.fake_quantize(part, alone) for part in parts]
            np.testing.assert_array_equal(got, jnp.concatenate(want, axis=1))
