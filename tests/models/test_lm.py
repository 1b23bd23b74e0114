"""The language model: what may influence what, and that packing changes nothing but rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.formats import Scheme
from bitlaw.models import count, layers, lm
from bitlaw.models.layers import Structure
from bitlaw.models.lm import ModelConfig

CONFIG = ModelConfig(width=16, depth=2, heads=4, kv_heads=2, context=32)
CONFIGS = [CONFIG, ModelConfig(width=16, depth=2, context=32, mlp="swiglu")]


def trained_like(config, seed=0):
    """Parameters with a head that is not zero and gains that are not one."""
    params = lm.init(jax.random.key(seed), config)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return tree.unflatten(noisy)


def row_of(*documents):
    """One packed row with these documents."""
    lengths = [len(document) for document in documents]
    return {
        "inputs": np.concatenate(documents)[None].astype(np.int32),
        "segment_ids": np.repeat(np.arange(1, 1 + len(lengths)), lengths)[None].astype(np.int32),
        "positions": np.concatenate([np.arange(n) for n in lengths])[None].astype(np.int32),
    }


apply = jax.jit(lm.apply, static_argnums=(2, 3))


def dense(params, batch, config=CONFIG):
    return apply(params, batch, config, Structure(), {})


@pytest.mark.parametrize("config", CONFIGS, ids=["relu2-grouped", "swiglu"])
def test_causality_no_gradient_from_later_positions_or_other_documents(config):
    # Every byte occurs once, so the gradient of a row of the embedding is that of one position.
    first, second = np.arange(10), np.arange(10, 32)
    batch = row_of(first, second)
    params = trained_like(config)

    def output(embedding, position):
        return jnp.sum(dense(params | {"embedding": embedding}, batch, config)[0, position])

    for position, sources in ((0, [0]), (9, range(10)), (10, [10]), (15, range(10, 16))):
        gradient = jax.grad(output)(params["embedding"], position)
        assert np.flatnonzero(np.abs(gradient).sum(1)).tolist() == list(sources)


def test_packed_logits_equal_single_document_logits():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 256, n) for n in (7, 13, 12)]
    params = trained_like(CONFIG)
    packed = np.asarray(dense(params, row_of(*documents)))[0]
    alone = np.concatenate([dense(params, row_of(document))[0] for document in documents])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        exact = np.concatenate([dense(wide, row_of(document))[0] for document in documents])
    assert exact.dtype == np.float64
    # Other shapes sum in another order; packing may not cost more than twice the rounding of f32.
    assert np.abs(packed - exact).max() <= 2 * np.abs(alone - exact).max()


def test_padding_gives_finite_logits_and_gradients():
    batch = row_of(np.arange(20), np.zeros(12, int))
    batch["segment_ids"][0, 20:] = 0
    value, gradient = jax.value_and_grad(lambda p: jnp.sum(dense(p, batch)[:, :20] ** 2))(
        trained_like(CONFIG)
    )
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_grouped_heads_equal_repeated_key_and_value_heads():
    many = ModelConfig(width=16, depth=2, heads=4, kv_heads=4, context=32)
    params = trained_like(CONFIG)

    def repeated(block):
        q, k, v = np.split(np.asarray(block["qkv"]).reshape(16, 8, 4), (4, 6), axis=1)
        heads = np.concatenate([q, np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1)], axis=1)
        return block | {"qkv": heads.reshape(16, -1)}

    wide = params | {"blocks": [repeated(block) for block in params["blocks"]]}
    batch = row_of(np.arange(32))
    # The same sums in the same order up to the shape of the products: a few ulp of logits near 30.
    np.testing.assert_allclose(dense(params, batch), dense(wide, batch, many), atol=1e-4)


def test_rotated_products_depend_on_distance_alone():
    x = np.random.default_rng(0).normal(size=(2, 8))
    for shift in (0, 3, 90):
        cos, sin = layers.rotations(np.array([[5 + shift, 16 + shift]]), 8, 128)
        q, k = layers.rotate(x[None, None], cos, sin)[0, 0]
        if shift == 0:
            unshifted = q @ k
        np.testing.assert_allclose(q @ k, unshifted, rtol=1e-5)  # angles are rounded to f32
    assert abs(unshifted - np.vdot(*x)) > 0.1  # and it does rotate


@pytest.mark.parametrize("config", CONFIGS, ids=["relu2-grouped", "swiglu"])
def test_counts_equal_the_leaves(config):
    params = trained_like(config)
    assert count.n_total(config) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count.n_params(config) == count.n_nonzero(params)
    params["blocks"][1]["up"] = jnp.zeros_like(params["blocks"][1]["up"])
    assert count.n_params(config) == count.n_nonzero(params) + 16 * 64


@pytest.mark.parametrize(
    "width, depth, expected", [(16, 2, 6144), (24, 2, 13824), (32, 3, 36864), (48, 4, 110592)]
)
def test_block_weights_are_12_width_squared_per_block(width, depth, expected):
    assert count.n_params(ModelConfig(width, depth)) == expected


def test_flops_are_those_of_a_hand_count():
    # One block of width 2: 2*6 + 2*2 + 2*8 + 8*2 = 48 weights; head 512; attention over 4.
    config = ModelConfig(width=2, depth=1, context=4)
    assert count.flops_per_token(config) == 3 * (2 * 48 + 2 * 512 + 2 * 2 * 4 * 2)


@pytest.mark.parametrize("text", ["w=quest4/channel", "w=quest4/channel a=quest4/row"])
def test_quantized_matrices_are_on_the_grid_and_the_rest_is_not_touched(text):
    scheme = Scheme.parse(text)
    structure, grids = Structure.of(scheme), layers.grids_of(scheme)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2048, 8)).astype(np.float32)
    through = layers.linear(np.eye(2048, dtype=np.float32), w, Structure(w=structure.w), grids)
    assert {len(np.unique(column)) for column in np.asarray(through).T} == {16}
    params, batch = trained_like(CONFIG), row_of(np.arange(32))
    quantized = apply(params, batch, CONFIG, structure, grids)
    assert np.abs(quantized - dense(params, batch)).max() > 0.01
    # Without blocks nothing is quantized: embedding, norm and head stay in full precision.
    params["blocks"] = []
    assert np.array_equal(apply(params, batch, CONFIG, structure, grids), dense(params, batch))


def test_pruned_weights_stay_zero_under_a_midrise_grid():
    scheme = Scheme.parse("w=quest4/channel s=0.5")
    w = np.random.default_rng(0).normal(size=(64, 24)).astype(np.float32)
    w[::2] = 0
    structure, grids = Structure.of(scheme), layers.grids_of(scheme)
    through = np.asarray(layers.linear(np.eye(64, dtype=np.float32), w, structure, grids))
    assert np.array_equal(through == 0, w == 0)
    # Zeros take no part in the scale: the survivors are quantized as if they were alone.
    alone = layers.linear(np.eye(32, dtype=np.float32), w[1::2], structure, grids)
    np.testing.assert_allclose(through[1::2], alone, rtol=1e-6)  # scales are sums: within 2 ulp


@pytest.mark.parametrize("size", [48, 16], ids=["a shorter last block", "no whole block"])
def test_blocks_that_do_not_divide_end_in_a_shorter_one(size):
    x = np.random.default_rng(0).normal(size=(size, 24)).astype(np.float32)
    spec = Scheme.parse("w=int4/block32").w
    blocks = [x[:32], x[32:]] if size > 32 else [x]
    alone = [spec.structure.__class__(granularity="channel")(b, spec.grid) for b in blocks]
    through = layers.quantized(jnp.asarray(x), spec.structure, spec.grid)
    assert np.array_equal(through, np.concatenate(alone))


def test_structure_holds_neither_widths_nor_levels():
    def structure(text):
        return Structure.of(Scheme.parse(text))

    assert structure("w=quest2/channel") == structure("w=quest8/channel") != structure("dense")
    assert structure("s=0.25") == structure("s=0.75") != structure("dense")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"heads": 3, "kv_heads": 2, "head_dim": 4}, "kv_heads must divide heads, got 2 and 3"),
        ({"heads": 16}, "head_dim must be even"),
        ({"mlp": "gelu"}, "mlp must be 'relu2' or 'swiglu', got 'gelu'"),
    ],
)
def test_bad_configurations_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"width": 16, "depth": 1} | wrong)
