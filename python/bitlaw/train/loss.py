"""The loss of a language model, in nats."""

import jax
import jax.numpy as jnp


def summed_cross_entropy(logits, targets, weights):
    """sum_i weights_i * (logsumexp(logits_i) - logits_i[targets_i])

    Weights are 0 where the target is padding or belongs to another document, so the loss never
    crosses a document and equals the sum over the documents of a row.

    Args:
        logits: f32[B, L, V]; targets: i32[B, L]; weights: f32[B, L]
    Returns:
        f32[]
    """
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shifted = logits - largest
    at_target = jnp.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) - at_target))


def mean_cross_entropy(logits, targets, weights):
    """`summed_cross_entropy` per trained target; 0 for a batch without any."""
    return summed_cross_entropy(logits, targets, weights) / jnp.maximum(jnp.sum(weights), 1)


def mean_distillation(logits, wanted, weights):
    """Mean over the trained targets of -sum_v p_v log q_v, of p = softmax(wanted), q the model's.

    The targets of Gemma 3's quantization-aware training (arXiv:2503.19786, section 2.3).

    Args:
        logits, wanted: f32[B, L, V]; weights: f32[B, L]
    Returns:
        f32[]
    """
    each = -jnp.sum(jax.nn.softmax(wanted) * jax.nn.log_softmax(logits), axis=-1)
    return jnp.sum(weights * each) / jnp.maximum(jnp.sum(weights), 1)
