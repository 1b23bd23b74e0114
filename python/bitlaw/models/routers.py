"""Which experts a token goes to, and with what weight: routers and their losses.

A router turns logits f32[N, X] of N tokens and X experts into a routing. Three choose experts for
each token (`top_k`, `hashed`, `sinkhorn_top_1`), one tokens for each expert (`expert_choice`), one
mixes all tokens into every expert's slots (`soft`). The last three look at other tokens, so in a
decoder they would let a token see later ones: `sinkhorn_top_1` is for training alone there, and the
other two are for encoders.

`real_N` is true for tokens and false for padding, which is never counted. Letters: N tokens,
X experts, K choices of a token, C slots of an expert, S slots of all experts.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bitlaw.models.layers import MASKED, softmax


class Routing(NamedTuple):
    """What each token chose.

    Attributes:
        experts: i32[N, K], the best first.
        gates: f32[N, K], weights of the experts' outputs.
        probabilities: f32[N, X], softmax of the logits: what the losses look at.
    """

    experts: Any
    gates: Any
    probabilities: Any


def top_k(logits_NxX, k: int, normalize: str = "vmoe", noise_NxX=None) -> Routing:
    """The k experts of the largest logits; among equals the lowest number first.

        vmoe       gate = softmax(logits + noise) at the chosen experts    (arXiv:2106.05974, eq. 2)
        mixtral    gate = softmax over the k chosen logits alone           (arXiv:2401.04088, 2.1)

    Args:
        k: in 1..X.
        normalize: "vmoe" or "mixtral"; under "mixtral" one expert always has the gate 1, and the
            router no gradient.
        noise_NxX: V-MoE trains with N(0, 1 / X^2); None adds none.
    Raises:
        ValueError: k or normalize is something else.
    """
    if not 1 <= k <= logits_NxX.shape[-1]:
        raise ValueError(f"k must be in 1..{logits_NxX.shape[-1]} experts, got {k}")
    if normalize not in ("vmoe", "mixtral"):
        raise ValueError(f"normalize must be 'vmoe' or 'mixtral', got {normalize!r}")
    logits = logits_NxX if noise_NxX is None else logits_NxX + noise_NxX
    probabilities = softmax(logits)
    best_NxK, experts = jax.lax.top_k(logits, k)
    if normalize == "mixtral":
        gates = softmax(best_NxK)
    else:
        gates = jnp.take_along_axis(probabilities, experts, axis=-1)
    return Routing(experts, gates, probabilities)


def hashed(ids_N, experts: int) -> Routing:
    """Expert number id mod X with gate 1: nothing is learned (arXiv:2106.04426)."""
    chosen = jnp.asarray(ids_N, jnp.int32)[:, None] % experts
    return Routing(chosen, jnp.ones(chosen.shape), jax.nn.one_hot(chosen[:, 0], experts))


def sinkhorn(logits_NxX, real_N, steps: int = 8):
    """The balanced plan nearest to the logits: log P f32[N, X], of

        P = argmax <P, logits> + entropy(P),   sum_x P = 1,   sum_n P = (number of tokens) / X

    by alternating normalisation (arXiv:1306.0895), the last over experts, so that the sums of the
    columns are near after a few steps and exact in the limit. Rows of padding mean nothing.
    """
    log_share = jnp.log(jnp.sum(real_N) / logits_NxX.shape[1])
    hidden_Nx1 = jnp.where(real_N, 0.0, MASKED)[:, None]

    def step(_, log_p):
        log_p -= jax.nn.logsumexp(log_p + hidden_Nx1, axis=0) - log_share
        return log_p - jax.nn.logsumexp(log_p, axis=1, keepdims=True)

    return jax.lax.fori_loop(0, steps, step, logits_NxX)


def sinkhorn_top_1(logits_NxX, real_N, steps: int = 8) -> Routing:
    """S-BASE: the best expert of the balanced plan, with the gate of the logits as they are.

        expert = argmax sinkhorn(logits),   gate = softmax(logits) at it   (arXiv:2202.01169, 3.1)

    No gradient flows through the plan.
    """
    plan = sinkhorn(jax.lax.stop_gradient(logits_NxX), real_N, steps)
    experts, probabilities = jnp.argmax(plan, axis=1)[:, None], softmax(logits_NxX)
    return Routing(experts, jnp.take_along_axis(probabilities, experts, axis=1), probabilities)


def expert_choice(logits_NxX, capacity: int, real_N):
    """Each expert takes the tokens that want it most (arXiv:2202.09368, section 3.2).

        scores = softmax over experts,   tokens of x = the C largest of scores[:, x]

    Returns:
        tokens i32[X, C], gates f32[X, C]: 0 where there are fewer than C tokens
    """
    n = logits_NxX.shape[0]
    if not 1 <= capacity <= n:
        raise ValueError(f"capacity must be in 1..{n} tokens, got {capacity}")
    scores = jnp.where(real_N[:, None], softmax(logits_NxX), -1.0)
    gates, tokens = jax.lax.top_k(scores.T, capacity)
    return tokens, jnp.maximum(gates, 0.0)


def soft(x_NxD, phi_DxS, scale, real_N):
    """Soft MoE: every slot is a mean of tokens, every token a mean of slots (arXiv:2308.00951).

        logits = l2norm(x) @ (scale * l2norm(phi)), rows of x and columns of phi to unit length
        dispatch = softmax over tokens,   combine = softmax over slots

    Returns:
        dispatch f32[N, S], 0 for padding; combine f32[N, S]
    """
    unit_x = x_NxD * jax.lax.rsqrt(jnp.sum(x_NxD**2, axis=1, keepdims=True) + 1e-12)
    unit_phi = phi_DxS * jax.lax.rsqrt(jnp.sum(phi_DxS**2, axis=0) + 1e-12)
    logits_NxS = unit_x @ (scale * unit_phi)
    dispatch = softmax(jnp.where(real_N[:, None], logits_NxS, MASKED).T).T
    return jnp.where(real_N[:, None], dispatch, 0.0), softmax(logits_NxS)


def load_balance(routing: Routing, real_N):
    """X * sum over experts of (share of the choices) * (mean probability); 1 in balance.

    Source: arXiv:2101.03961, eq. 4 to 6, for K choices the share of all of them. The gradient
    flows through the probabilities.
    """
    count = jnp.maximum(jnp.sum(real_N), 1)
    experts, k = routing.probabilities.shape[1], routing.experts.shape[1]
    chosen = jnp.sum(jax.nn.one_hot(routing.experts, experts), axis=1)
    share = jnp.sum(jnp.where(real_N[:, None], chosen, 0.0), axis=0) / (k * count)
    mean = jnp.sum(jnp.where(real_N[:, None], routing.probabilities, 0.0), axis=0) / count
    return experts * jnp.sum(jax.lax.stop_gradient(share) * mean)


def importance(routing: Routing, real_N):
    """(std / mean)^2 over experts of the summed probabilities; 0 in balance.

    Source: arXiv:2106.05974, appendix A.2 (after arXiv:1701.06538, eq. 6 and 7).
    """
    total = jnp.sum(jnp.where(real_N[:, None], routing.probabilities, 0.0), axis=0)
    return jnp.var(total) / jnp.maximum(jnp.mean(total), 1e-12) ** 2
