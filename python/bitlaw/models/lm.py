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
        down            f32[F, D]
    norm       f32[D]
    head       f32[D, V]

Letters as in `layers`.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.models.layers import (
    Grids,
    Structure,
    attention,
    attention_mask,
    linear,
    mlp,
    rms_norm,
    rotate,
    rotations,
)

MATRICES = ("qkv", "output", "up", "gate", "down")  # what a scheme compresses


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model. Zeros mean: mlp_hidden = 4 * width, head_dim = width / heads.

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

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each compressed matrix of a block."""
        D, F, E = self.width, self.mlp_hidden, self.head_dim
        shapes = {
            "qkv": (D, (self.heads + 2 * self.kv_heads) * E),
            "output": (self.heads * E, D),
            "up": (D, F),
            "down": (F, D),
        }
        return shapes | ({"gate": (D, F)} if self.mlp == "swiglu" else {})


def init(key, config: ModelConfig):
    """Fresh parameters: matrices N(0, 1 / in), embedding N(0, 1), norms one, head zero.

    The two matrices that write to the residual stream are smaller by sqrt(2 * depth), as in GPT-2.
    """
    D, V = config.width, config.vocab
    shapes = [(V, D), *config.depth * [*config.matrices.values()]]
    sizes = [rows * cols for rows, cols in shapes]
    # One draw, cut into leaves: compiling a generator per leaf takes longer than a thousand steps.
    draws = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    normals = (draw.reshape(shape) for draw, shape in zip(draws, shapes, strict=True))

    def matrix(name, rows):
        residual = 2 * config.depth if name in ("output", "down") else 1
        return next(normals) * (rows * residual) ** -0.5

    def block():
        norms = {"attention_norm": jnp.ones(D), "mlp_norm": jnp.ones(D)}
        return norms | {name: matrix(name, rows) for name, (rows, _) in config.matrices.items()}

    return {
        "embedding": next(normals),
        "blocks": [block() for _ in range(config.depth)],
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
        f32[B, L, V]
    """
    x_BxLxD = params["embedding"][batch["inputs"]]
    mask = attention_mask(batch["segment_ids"])
    cos, sin = rotations(batch["positions"], config.head_dim, config.context)
    turn = functools.partial(rotate, cos=cos, sin=sin)

    def product(x, w):
        return linear(x, w, structure, grids)

    for block in params["blocks"]:
        x_BxLxD += attention(x_BxLxD, block, config, mask, structure, grids, turn)
        x_BxLxD += mlp(rms_norm(x_BxLxD, block["mlp_norm"]), block, config.mlp, product)
    return rms_norm(x_BxLxD, params["norm"]) @ params["head"]
