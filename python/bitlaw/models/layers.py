"""Layers of the transformer, as plain functions over arrays.

Dimensions, used as suffixes of names: B rows of a batch, L positions, D width, H query heads, K key/value
heads, G = H/K query heads that share one, E head dimension, F hidden width of the MLP, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.formats import Scheme

MASKED = -1e30  # a score no softmax can see; finite, so that a row of padding gives no NaN

Grids = dict[str, Any]  # "w" and "a": f32[4] each, operands of the compiled program


@dataclass(frozen=True)
class Structure:
    """What of a scheme is compiled into a program: the quantizers, and whether zeros are pruned.

    The rest of the scheme reaches the program as operands: the grids from `grids_of`, the sparsity through
    the optimizer's state. So every integer width and every sparsity share one program. The dense structure
    has no quantizer at all, rather than one with very many levels.
    """

    w: Any = None
    a: Any = None
    pruned: bool = False

    @classmethod
    def of(cls, scheme: Scheme) -> "Structure":
        """The structure of a scheme."""
        return cls(
            w=None if scheme.w is None else scheme.w.structure,
            a=None if scheme.a is None else scheme.a.structure,
            pruned=scheme.s is not None,
        )


def grids_of(scheme: Scheme) -> Grids:
    """The grids of a scheme's weights and activations, those it has."""
    return {
        name: spec.grid for name, spec in (("w", scheme.w), ("a", scheme.a)) if spec is not None
    }


def linear(x, w, structure: Structure, grids: Grids):
    """Q_a(x) @ Q_w(w): the product of the quantized input and the quantized matrix.

    Zeros of a pruned matrix stay zero and take no part in its scales: prune, then quantize.

    Args:
        x: f32[..., in]
        w: f32[in, out]
    Returns:
        f32[..., out]
    """
    if structure.w is not None:
        w = structure.w(w, grids["w"], pruned=structure.pruned)
    if structure.a is not None:
        x = structure.a(x, grids["a"])
    return x @ w


def rms_norm(x, gain):
    """x / sqrt(mean(x^2) + 1e-6) * gain, over the last axis (arXiv:1910.07467)."""
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + 1e-6) * gain


def rotations(positions_BxL, head_dim: int, context: int):
    """cos and sin of position * 10000^(-2i / head_dim), i < head_dim / 2 (arXiv:2104.09864).

    Looked up in a constant table: computing them in every step took a fifth of the step of a small model.

    Returns:
        two f32[B, L, 1, E/2]; the axis of one broadcasts over heads.
    """
    frequencies = 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(context)[:, None] * frequencies
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return jnp.asarray(cos)[positions_BxL][:, :, None], jnp.asarray(sin)[positions_BxL][:, :, None]


def rotate(x_BxLxHxE, cos, sin):
    """Rotary position embedding: the pair (x_i, x_{i + E/2}) turned by its angle."""
    first, second = jnp.split(x_BxLxHxE, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def attention_mask(segment_ids_BxL):
    """True where position l may look at position m: not later, and of the same document.

    Returns:
        bool[B, L, L]
    """
    length = segment_ids_BxL.shape[1]
    same = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    return same & np.tri(length, dtype=bool)


def attend(q_BxLxHxE, k_BxLxKxE, v_BxLxKxE, mask_BxLxL):
    """softmax(q k^T / sqrt(E)) v under the mask; H / K query heads share a key and a value head.

    Returns:
        f32[B, L, H * E]
    """
    B, L, H, E = q_BxLxHxE.shape
    K = k_BxLxKxE.shape[2]
    q_BxLxKxGxE = q_BxLxHxE.reshape(B, L, K, H // K, E)
    scores_BxKxGxLxM = jnp.einsum("blkge,bmke->bkglm", q_BxLxKxGxE, k_BxLxKxE) * E**-0.5
    scores_BxKxGxLxM = jnp.where(mask_BxLxL[:, None, None], scores_BxKxGxLxM, MASKED)
    weights_BxKxGxLxM = jax.nn.softmax(scores_BxKxGxLxM, axis=-1)
    return jnp.einsum("bkglm,bmke->blkge", weights_BxKxGxLxM, v_BxLxKxE).reshape(B, L, H * E)
