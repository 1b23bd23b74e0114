"""The loss: its formula, and that packing documents into rows does not change it."""

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw import packing
from bitlaw.models import lm
from bitlaw.models.layers import Structure
from bitlaw.models.lm import ModelConfig
from bitlaw.train.loss import mean_cross_entropy, summed_cross_entropy


def test_loss_is_the_weighted_negative_log_probability_of_the_targets():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 7), scale=3)
    targets, weights = rng.integers(0, 7, (2, 5)), rng.integers(0, 2, (2, 5))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0]) * weights
    operands = logits.astype(np.float32), targets, weights.astype(np.float32)
    np.testing.assert_allclose(summed_cross_entropy(*operands), nats.sum(), rtol=1e-6)
    np.testing.assert_allclose(mean_cross_entropy(*operands), nats.sum() / weights.sum(), rtol=1e-6)


def test_loss_of_a_batch_of_padding_is_zero():
    assert mean_cross_entropy(jnp.ones((1, 4, 7)), jnp.zeros((1, 4), int), jnp.zeros((1, 4))) == 0


def test_packed_loss_is_the_sum_of_the_losses_of_its_documents():
    config = ModelConfig(width=16, depth=2, context=32)
    apply = jax.jit(lm.apply, static_argnums=(2, 3))

    def loss(params, documents, capacity):
        plan = packing.plan([len(d) for d in documents], capacity)
        rows = packing.shift(packing.materialize(plan, np.concatenate(documents)))
        logits = apply(params, rows, config, Structure(), {})
        return np.asarray(summed_cross_entropy(logits, rows["targets"], rows["weights"]))

    errors = {"packed": [], "alone": []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        documents = [rng.integers(0, 256, n).astype(np.int32) for n in (20, 20, 8, 8, 4, 4, 4)]
        params = lm.init(jax.random.key(seed), config)
        params["head"] = jax.random.normal(jax.random.key(seed), params["head"].shape)
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
            exact = sum(loss(wide, [document], len(document)) for document in documents)
        alone = sum((loss(params, [d], len(d)) for d in documents), np.float32(0))
        assert (exact.dtype, alone.dtype) == (np.float64, np.float32)
        errors["packed"].append(loss(params, documents, 33) - exact)
        errors["alone"].append(alone - exact)
    # f32 rounds in another order; packing may cost at most twice the rounding of single documents.
    packed, naive = (np.sqrt(np.mean(np.square(errors[name]))) for name in ("packed", "alone"))
    assert packed <= 2 * naive
    assert naive < 1e-6 * exact  # the reference is of this model
