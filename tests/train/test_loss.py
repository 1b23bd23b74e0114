"""The loss: its formula, and that packing documents into rows does not change it."""

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw import packing
from bitlaw.models import lm
from bitlaw.models.layers import Structure
from bitlaw.models.lm import ModelConfig
from bitlaw.train.loss import mean_cross_entropy, mean_distillation, summed_cross_entropy


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
    """Its error is at most twice that of plain f32 arithmetic on the single documents."""
    config = ModelConfig(width=16, depth=2, context=32)
    apply = jax.jit(lm.apply, static_argnums=(2, 3))

    def nats(params, documents, capacity):
        """Logits, targets and weights of documents in rows."""
        plan = packing.plan([len(d) for d in documents], capacity)
        rows = packing.shift(packing.materialize(plan, np.concatenate(documents)))
        return apply(params, rows, config, Structure(), {}), rows["targets"], rows["weights"]

    def naive(params, documents):
        """The textbook formula on one document at a time, in a running sum."""
        total = 0
        for document in documents:
            logits, targets, _ = map(np.asarray, nats(params, [document], len(document)))
            p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            for value in -np.log(np.take_along_axis(p, targets[..., None], -1)).ravel():
                total = value + total
        return total

    errors = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        documents = [rng.integers(0, 256, n).astype(np.int32) for n in (20, 20, 8, 8, 4, 4, 4)]
        params = lm.init(jax.random.key(seed), config)
        params["head"] = jax.random.normal(jax.random.key(seed), params["head"].shape)
        packed, alone = summed_cross_entropy(*nats(params, documents, 33)), naive(params, documents)
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
            exact = naive(wide, documents)
        assert (packed.dtype, alone.dtype, exact.dtype) == ("float32", "float32", "float64")
        errors.append((float(packed) - exact, alone - exact))
    packed, alone = np.sqrt(np.mean(np.square(errors), axis=0))
    assert packed <= 2 * alone < 1e-6 * exact


def test_distillation_is_cross_entropy_to_a_certain_teacher_and_stops_at_its_own_logits():
    rng = np.random.default_rng(7)
    logits, weights = rng.normal(size=(2, 5, 8)), np.ones((2, 5))
    targets = rng.integers(0, 8, (2, 5))
    certain = np.where(np.arange(8) == targets[..., None], 100.0, -100.0)
    np.testing.assert_allclose(
        mean_distillation(logits, certain, weights),
        mean_cross_entropy(logits, targets, weights),
        rtol=1e-6,
    )
    gradient = jax.grad(mean_distillation)(logits, logits, weights)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    some = weights * (rng.random((2, 5)) < 0.5)
    other = np.where(some[..., None] > 0, logits, 99.0)
    np.testing.assert_allclose(
        mean_distillation(other, certain, some),
        mean_distillation(logits, certain, some),
        rtol=1e-6,
    )
