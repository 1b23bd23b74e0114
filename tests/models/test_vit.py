"""The image model: packing changes nothing but rounding, and positions are where they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.formats import Scheme
from bitlaw.models import count, layers, vit
from bitlaw.models.layers import Structure
from bitlaw.models.vit import ViTConfig
from bitlaw.packing import images

CONFIG = ViTConfig(width=8, depth=1, patch_dim=4, classes=5, heads=2, side=4)
CONFIGS = [CONFIG, ViTConfig(8, 1, 4, 5, positions="absolute", side=4, mlp="swiglu")]
SIZES = [(4, 6), (5, 3), (2, 2), (6, 6), (3, 7)]


def trained_like(config, seed=0):
    """Parameters with a head that is not zero and gains that are not one."""
    params = vit.init(jax.random.key(seed), config)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return tree.unflatten(noisy)


def summed_loss(params, batch, config, segments):
    """The cross-entropy of every image, summed; labels are image numbers modulo the classes."""
    logits = vit.apply(params, batch, config, Structure(), {}, segments)
    there = batch["images"] >= 0
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, (batch["images"] % config.classes)[..., None], axis=-1)
    return -jnp.sum(jnp.where(there, chosen[..., 0], 0))


loss_and_gradient = jax.jit(jax.value_and_grad(summed_loss), static_argnums=(2, 3))


def flat(value_and_gradient):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(value_and_gradient)])


@pytest.mark.parametrize("config", CONFIGS, ids=["fractional", "absolute-swiglu"])
def test_packed_loss_and_gradients_equal_the_sum_of_single_images(config):
    rng = np.random.default_rng(0)
    pictures = [rng.normal(size=size).astype(np.float32) for size in SIZES]
    packed = images.pack(pictures, 14, patch=2)
    assert len(packed["images"]) < len(pictures)  # some rows do hold several
    alone = [images.pack([picture], 14, patch=2) for picture in pictures]
    for i, batch in enumerate(alone):
        batch["images"] = np.array([[i]])
    params = trained_like(config)
    together = flat(loss_and_gradient(params, packed, config, packed["images"].shape[1]))
    singles = sum(flat(loss_and_gradient(params, batch, config, 1)) for batch in alone)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        exact = sum(flat(loss_and_gradient(wide, batch, config, 1)) for batch in alone)
    assert exact.dtype == np.float64 and np.abs(exact).max() > 1
    # Other shapes sum in another order; packing may not cost more than twice the rounding of f32.
    assert np.abs(together - exact).max() <= 2 * np.abs(singles - exact).max()
    assert np.linalg.norm(together - exact) <= 2 * np.linalg.norm(singles - exact)


def test_no_image_sees_another_in_its_row():
    pictures = [np.full((4, 4), value, np.float32) for value in (1, 2)]
    batch = images.pack(pictures, 8, patch=2)
    params = trained_like(CONFIG)

    def of_first(patches):
        return vit.apply(params, batch | {"patches": patches}, CONFIG, Structure(), {}, 2)[
            0, 0
        ].sum()

    gradient = np.abs(jax.jit(jax.grad(of_first))(jnp.asarray(batch["patches"])))[0].sum(axis=1)
    assert np.array_equal(gradient > 0, batch["patches_segment_ids"][0] == 1)


def test_positions_are_the_sum_of_a_row_and_a_column():
    batch = images.pack([np.zeros((6, 4))], 6, patch=2)
    for config in CONFIGS:
        table = np.asarray(vit.positions(trained_like(config), batch, config))[0].reshape(3, 2, -1)
        # phi(i, j) - phi(i, k) does not depend on i: sums and differences round at 2^-24 of 4.
        np.testing.assert_allclose(np.ptp(table[:, 0] - table[:, 1], axis=0), 0, atol=2e-6)
        assert np.abs(table[0] - table[1]).max() > 0.1
    # The middle of an image has one fraction at every size.
    fractions = [images.coordinates((n, 1))[1][n // 2, 0] for n in (1, 3, 7)]
    assert fractions == [0.5, 0.5, 0.5]


def test_a_row_beyond_the_table_is_nan_not_another_rows_embedding():
    config = CONFIGS[1]
    batch = images.pack([np.zeros((10, 2))], 5, patch=2)
    table = np.asarray(vit.positions(trained_like(config), batch, config))[0]
    assert np.isfinite(table[:4]).all() and np.isnan(table[4]).all()


def test_a_scheme_quantizes_the_blocks_and_counts_are_those_of_the_leaves():
    scheme = Scheme.parse("w=quest2/channel a=quest4/row")
    params = trained_like(CONFIG)
    assert count.n_params(CONFIG) == count.n_nonzero(params)
    batch = images.pack([np.eye(6)], 9, patch=2)
    dense = vit.apply(params, batch, CONFIG, Structure(), {}, 1)
    quantized = vit.apply(params, batch, CONFIG, Structure.of(scheme), layers.grids_of(scheme), 1)
    assert np.abs(quantized - dense).max() > 0.01


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"positions": "learned"}, "positions must be one of .*, got 'learned'"),
        ({"heads": 16}, "heads must be at most the width 8, got 16"),
    ],
)
def test_bad_configurations_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ViTConfig(**{"width": 8, "depth": 1, "patch_dim": 4, "classes": 5} | wrong)
