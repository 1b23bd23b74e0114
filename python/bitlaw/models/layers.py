"""Layers of the transformer, as plain functions over arrays.

Dimensions, used as suffixes of names: B rows of a batch, L positions (M, those looked at), D width,
H query heads, K key/value heads, E head dimension, F hidden width of the MLP, V vocabulary.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.formats import Scheme, SparseSpec
from bitlaw.formats.padding import quantized

MASKED = -1e30  # a score no softmax can see; finite, so that a row of padding gives no NaN

Grids = dict[str, Any]  # "w", "a" and "g": f32[5] each, operands of the compiled program


@dataclass(frozen=True)
class Structure:
    """What of a scheme is compiled into a program: the quantizers, and how weights are pruned.

    The rest of the scheme reaches the program as operands: the grids from `grids_of`, the sparsity
    through the optimizer's state. So every integer width and every sparsity share one program. The
    dense structure has no quantizer at all, rather than one with very many levels.
    """

    w: Any = None
    a: Any = None
    g: Any = None
    sparse: SparseSpec | None = None

    @classmethod
    def of(cls, scheme: Scheme) -> "Structure":
        """The structure of a scheme."""
        structures = {name: spec.structure for name, spec in _specs(scheme)}
        return cls(sparse=None if scheme.s is None else scheme.s.structure, **structures)

    @property
    def pruned(self) -> bool:
        """Whether zeros are pruned weights."""
        return self.sparse is not None

    @property
    def quantizers(self) -> dict[str, Any]:
        """The quantizers there are, by "w", "a" and "g"."""
        named = {"w": self.w, "a": self.a, "g": self.g}
        return {name: quantizer for name, quantizer in named.items() if quantizer is not None}

    @property
    def stateful(self) -> bool:
        """Whether scales are learned, or taken from past steps: then matrices have a `Site`."""
        return any(hasattr(quantizer, "state") for quantizer in self.quantizers.values())

    @property
    def stochastic(self) -> bool:
        """Whether anything is rounded at random: then matrices have a `Site` with keys."""
        return any(quantizer.stochastic for quantizer in self.quantizers.values())


def _specs(scheme: Scheme):
    named = (("w", scheme.w), ("a", scheme.a), ("g", scheme.g))
    return [(name, spec) for name, spec in named if spec is not None]


def grids_of(scheme: Scheme) -> Grids:
    """The grids of a scheme's weights, activations and gradients, those it has."""
    return {name: spec.grid for name, spec in _specs(scheme)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Site:
    """A matrix with what its quantizers need besides their grids; stands where the matrix would.

    Attributes:
        weight: f32[in, out]
        state: by "w" and "a", learned scales or past maxima; where the scheme has none, absent.
        keys: u32[3, 2], the random numbers of w, a and g; None where nothing is rounded at random.
    """

    weight: Any
    state: dict[str, Any] = dataclasses.field(default_factory=dict)
    keys: Any = None


def linear(x, w, structure: Structure, grids: Grids):
    """Q_a(x) @ Q_w(w): the product of the quantized input and the quantized matrix.

    Zeros of a pruned matrix stay zero and take no part in its scales: prune, then quantize. The
    gradient that arrives is quantized by the structure's g.

    Args:
        x: f32 or bf16 [..., in]
        w: f32[in, out], or its `Site`
    Returns:
        [..., out] in x's dtype, to which Q_w(w) is rounded.
    """
    site = w if isinstance(w, Site) else Site(w)
    given = {name: {} for name in ("w", "a", "g")}
    for index, name in enumerate(given):
        if site.keys is not None:
            given[name]["key"] = site.keys[index]
        if name in site.state:
            given[name]["state"] = site.state[name]
    w = site.weight
    if structure.w is not None:
        w = quantized(w, structure.w, grids["w"], structure.pruned, **given["w"])
    if structure.a is not None:
        x = quantized(x, structure.a, grids["a"], **given["a"])
    y = x @ w.astype(x.dtype)
    if structure.g is None:
        return y
    return quantized_gradient(structure.g, y, grids["g"], given["g"].get("key"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def quantized_gradient(quantizer, y, grid, key=None):
    """y; the gradient that comes back through here is quantized."""
    return y


quantized_gradient.defvjp(
    lambda quantizer, y, grid, key: (y, (grid, key)),
    lambda quantizer, saved, g: (quantized(g, quantizer, saved[0], key=saved[1]), None, None),
)


def at_least_f32(x):
    """The dtype of sums over x: float32, or x's own where that is wider."""
    return jnp.promote_types(x.dtype, jnp.float32)


def rms_norm(x, gain):
    """x / sqrt(mean(x^2) + 1e-6) * gain, over the last axis (arXiv:1910.07467); f32 inside."""
    wide = x.astype(at_least_f32(x))
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + 1e-6) * gain).astype(x.dtype)


def rotations(positions_BxL, head_dim: int, context: int):
    """cos and sin of position * 10000^(-2i / head_dim), i < head_dim / 2 (arXiv:2104.09864).

    Looked up in a constant table: computing them cost a small model a fifth of its step.

    Returns:
        two f32[B, 1, L, E/2]; the axis of one broadcasts over heads.
    """
    frequencies = 10000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(context)[:, None] * frequencies
    tables = np.cos(angles), np.sin(angles)
    return tuple(jnp.asarray(t, jnp.float32)[positions_BxL][:, None] for t in tables)


def rotate(x_BxHxLxE, cos, sin):
    """Rotary position embedding: the pair (x_i, x_{i + E/2}) turned by its angle."""
    x_BxHxLxE = jnp.asarray(x_BxHxLxE)
    first, second = jnp.split(x_BxHxLxE, 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.astype(x_BxHxLxE.dtype)


def attend(q_BxHxLxE, k_BxKxLxE, v_BxKxLxE, mask_BxLxL):
    """softmax(q k^T / sqrt(E)) v under the mask; H / K query heads share a key and a value head.

    Rows and heads are one axis N inside: products over two batch axes made a step 15 % slower.
    Scores and softmax are f32.

    Returns:
        [B, H, L, E] in v's dtype
    """
    B, H, L, E = q_BxHxLxE.shape
    shared = H // k_BxKxLxE.shape[1]
    k_BxHxLxE, v_BxHxLxE = (jnp.repeat(x, shared, axis=1) for x in (k_BxKxLxE, v_BxKxLxE))
    q_NxLxE, k_NxLxE, v_NxLxE = (
        x.reshape(B * H, L, E) for x in (q_BxHxLxE * E**-0.5, k_BxHxLxE, v_BxHxLxE)
    )
    wide = at_least_f32(q_NxLxE)
    scores_NxLxM = jnp.einsum("nle,nme->nlm", q_NxLxE, k_NxLxE, preferred_element_type=wide)
    weights_NxLxM = softmax(jnp.where(jnp.repeat(mask_BxLxL, H, axis=0), scores_NxLxM, MASKED))
    y_NxLxE = jnp.einsum("nlm,nme->nle", weights_NxLxM.astype(v_NxLxE.dtype), v_NxLxE)
    return y_NxLxE.reshape(B, H, L, E)


def attention(x_BxLxD, block, config, mask_BxLxL, structure: Structure, grids: Grids, turn=None):
    """The attention of a block: norm, queries, keys and values, `attend`, output.

    Args:
        block: "attention_norm", "qkv" and "output", as in `lm`.
        config: heads, kv_heads and head_dim.
        turn: what is done to the queries and to the keys; nothing where order has no meaning.
    Returns:
        f32[B, L, D]
    """
    B, L, _ = x_BxLxD.shape
    heads, kv_heads, head_dim = config.heads, config.kv_heads, config.head_dim
    qkv = linear(rms_norm(x_BxLxD, block["attention_norm"]), block["qkv"], structure, grids)
    qkv = qkv.reshape(B, L, heads + 2 * kv_heads, head_dim).swapaxes(1, 2)
    q_BxHxLxE, k_BxKxLxE, v_BxKxLxE = jnp.split(qkv, (heads, heads + kv_heads), axis=1)
    if turn is not None:
        q_BxHxLxE, k_BxKxLxE = turn(q_BxHxLxE), turn(k_BxKxLxE)
    y_BxHxLxE = attend(q_BxHxLxE, k_BxKxLxE, v_BxKxLxE, mask_BxLxL)
    y = y_BxHxLxE.swapaxes(1, 2).reshape(B, L, heads * head_dim)
    return linear(y, block["output"], structure, grids)


def mlp(x, block, kind: str, product):
    """relu(x up)^2 down, or for "swiglu" (silu(x gate) * (x up)) down.

    Args:
        block: "up", "down" and, for "swiglu", "gate".
        product: (x, w) -> x @ w, with whatever quantizers there are.
    """
    h = product(x, block["up"])
    if kind == "swiglu":
        h *= jax.nn.silu(product(x, block["gate"]))
    else:
        h = jnp.square(jax.nn.relu(h))
    return product(h, block["down"])


def softmax(x):
    """exp(x - max(x)) / sum(exp(x - max(x))) over the last axis.

    jax.nn.softmax gives the same, but its gradient rule made the step of a small model 10 % slower.
    """
    exponentials = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True)))
    return exponentials / jnp.sum(exponentials, axis=-1, keepdims=True)
