"""A decoder-only language model over bytes.

Pre-norm transformer: RMSNorm, rotary positions, causal attention within a document, a ReLU^2 or
SwiGLU MLP, embedding and head not tied. A scheme compresses the matrices of the blocks and their
inputs; embedding, norms and head stay in full precision. Parameters are a plain tree of dicts:

    embedding  f32[V, D]
    blocks     a list, one dict per block:
        attention_norm  f32[D]
        qkv             f32[D, (H + 2K) * E]
        output          f32[H * E, D]
        mlp_norm        f32[D]
        up, gate        f32[D, F]    gate with SwiGLU only
        down            f32[F, D]    with experts: a router, and an axis of experts (see `moe`)
    norm       f32[D]
    head       f32[D, V]

Letters as in `layers`.
"""

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.models import moe
from bitlaw.models.layers import (
    Grids,
    Structure,
    at_least_f32,
    attention,
    linear,
    mlp,
    rms_norm,
    rotate,
    rotations,
)
from bitlaw.packing import attention_mask

MATRICES = ("qkv", "output", "up", "gate", "down")  # what a scheme compresses


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model. Zeros mean: mlp_hidden = 4 * width, head_dim = width / heads.

    experts is empty, or says which experts take the place of every MLP, as in `moe.Experts`.
    compute is the dtype of activations and products, float32 or bfloat16. Parameters are f32
    either way, as are norms, the attention's softmax and the logits inside; a quantized matrix is
    quantized from f32, then rounded to the dtype.

    Raises:
        ValueError: a field is out of range, named with its value.
    """

    width: int
    depth: int
    heads: int = 1
    kv_heads: int = 1
    head_dim: int = 0
    mlp: str = "relu2"
    mlp_hidden: int = 0
    context: int = 128
    vocab: int = 256
    experts: str = ""
    compute: str = "float32"

    def __post_init__(self):
        for name in ("width", "depth", "heads", "kv_heads", "context", "vocab"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.mlp not in ("relu2", "swiglu"):
            raise ValueError(f"mlp must be 'relu2' or 'swiglu', got {self.mlp!r}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads must divide heads, got {self.kv_heads} and {self.heads}")
        object.__setattr__(self, "mlp_hidden", self.mlp_hidden or 4 * self.width)
        object.__setattr__(self, "head_dim", self.head_dim or self.width // self.heads)
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim must be even (rotary pairs), got {self.head_dim}")
        object.__setattr__(self, "experts", str(self.moe or ""))
        kinds = ("float32",) if self.experts else ("float32", "bfloat16")
        if self.compute not in kinds:
            where = " with experts" if self.experts else ""
            raise ValueError(f"compute must be {' or '.join(kinds)}{where}, got {self.compute}")

    @property
    def moe(self) -> moe.Experts | None:
        """The experts, parsed."""
        return moe.Experts.parse(self.experts) if self.experts else None

    @property
    def learned_router(self) -> bool:
        """Whether each block has a router matrix."""
        return bool(self.experts) and self.moe.router != "hash"

    @property
    def mlp_names(self) -> tuple[str, ...]:
        """The matrices of an MLP."""
        return ("up", "down", "gate") if self.mlp == "swiglu" else ("up", "down")

    @property
    def matrices(self) -> dict[str, tuple[int, ...]]:
        """The shape of each compressed matrix of a block: (in, out), after the axis of experts."""
        D, F, E = self.width, self.mlp_hidden, self.head_dim
        shapes = {
            "qkv": (D, (self.heads + 2 * self.kv_heads) * E),
            "output": (self.heads * E, D),
            "up": (D, F),
            "down": (F, D),
        }
        shapes |= {"gate": (D, F)} if self.mlp == "swiglu" else {}
        if self.moe:
            shapes |= {name: (self.moe.count, *shapes[name]) for name in self.mlp_names}
        return shapes


def init(key, config: ModelConfig):
    """Fresh parameters: matrices N(0, 1 / in), embedding N(0, 1), norms one, head zero.

    The two matrices that write to the residual stream are smaller by sqrt(2 * depth), as in GPT-2.
    """
    D, V = config.width, config.vocab
    shapes = [(V, D), *config.depth * [*config.matrices.values()]]
    if config.learned_router:
        shapes += config.depth * [(D, config.moe.count)]
    sizes = [math.prod(shape) for shape in shapes]
    # One draw, cut into leaves: compiling a generator per leaf takes longer than a thousand steps.
    draws = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    normals = (draw.reshape(shape) for draw, shape in zip(draws, shapes, strict=True))

    def matrix(name, shape):
        residual = 2 * config.depth if name in ("output", "down") else 1
        return next(normals) * (shape[-2] * residual) ** -0.5

    def block():
        norms = {"attention_norm": jnp.ones(D), "mlp_norm": jnp.ones(D)}
        return norms | {name: matrix(name, shape) for name, shape in config.matrices.items()}

    embedding, blocks = next(normals), [block() for _ in range(config.depth)]
    if config.learned_router:
        blocks = [block | {"router": next(normals) * D**-0.5} for block in blocks]
    return {
        "embedding": embedding,
        "blocks": blocks,
        "norm": jnp.ones(D),
        "head": jnp.zeros((D, V)),
    }


def is_compressed(path, leaf) -> bool:
    """Whether a leaf of the parameters is a matrix of a block, which a scheme compresses."""
    del leaf
    return getattr(path[-1], "key", None) in MATRICES


def apply(params, batch, config: ModelConfig, structure: Structure, grids: Grids):
    """Logits of the next byte at every position.

    Args:
        params: as `init` makes them.
        batch: "inputs", "segment_ids" and "positions", i32[B, L] each.
        structure: what is quantized, compiled in; `grids`: to which levels, operands.
    Returns:
        f32[B, L, V], also where products are of bfloat16.
    """
    return forward(params, batch, config, structure, grids, train=False)[0]


def forward(params, batch, config: ModelConfig, structure: Structure, grids: Grids, train: bool):
    """The logits of `apply`, and what the routers of experts add to the loss in training, f32[]."""
    rounded = (lambda x: x.astype(jnp.bfloat16)) if config.compute == "bfloat16" else lambda x: x
    # Looked up before, so that the gradients of a byte are summed in f32.
    x_BxLxD = rounded(params["embedding"][batch["inputs"]])
    mask = attention_mask(batch["segment_ids"])
    cos, sin = rotations(batch["positions"], config.head_dim, config.context)
    turn = functools.partial(rotate, cos=cos, sin=sin)
    tokens = {"ids_N": batch["inputs"].ravel(), "real_N": batch["segment_ids"].ravel() > 0}

    def product(x, w):
        return linear(x, w, structure, grids)

    def experts(x_BxLxD, block):
        x_NxD = x_BxLxD.reshape(-1, config.width)
        args = (config.moe, config.mlp, structure, grids)
        y_NxD, balance = moe.mlp(x_NxD, block, *args, **tokens, train=train)
        return y_NxD.reshape(x_BxLxD.shape), balance

    balance = jnp.float32(0)
    for block in params["blocks"]:
        x_BxLxD += attention(x_BxLxD, block, config, mask, structure, grids, turn)
        normed_BxLxD = rms_norm(x_BxLxD, block["mlp_norm"])
        if config.experts:
            y_BxLxD, of_block = experts(normed_BxLxD, block)
            balance += of_block
        else:
            y_BxLxD = mlp(normed_BxLxD, block, config.mlp, product)
        x_BxLxD += y_BxLxD
    normed_BxLxD = rms_norm(x_BxLxD, params["norm"])
    wide = at_least_f32(normed_BxLxD)
    logits = jnp.matmul(normed_BxLxD, rounded(params["head"]), preferred_element_type=wide)
    return logits, balance
