"""An image classifier over packed patches of any resolution (arXiv:2307.06304).

The blocks are the language model's, without rotary positions, and attention sees the whole image:
any patch of the same segment. A patch's position is one embedding of its row plus one of its
column. Each image is pooled to one vector, and so classified, by itself: packing changes nothing
but rounding. Parameters are a plain tree of dicts:

    patch      f32[P, D]
    row, col   f32[side, D]         "absolute": a learned vector for each row and column
               f32[2 * BANDS, D]    "fractional": weights of sines and cosines of the fraction
    blocks     a list, one dict per block, as in `lm`
    norm       f32[D]
    head       f32[D, V]

Letters as in `layers`; P numbers of a patch, S segments of a row, V classes.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.models.layers import Grids, Structure, attention, linear, mlp, rms_norm
from bitlaw.packing import attention_mask
from bitlaw.packing.images import pool

BANDS = 6  # of a fraction f: sin and cos of pi 2^j f, j < 6; the finest tells 64 patches apart


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a model. Zeros mean: mlp_hidden = 4 * width, head_dim = width / heads.

    patch_dim is patch * patch * channels; side bounds the rows and columns of an image with
    "absolute" positions (a patch beyond it gives NaN, not a wrong embedding).

    Raises:
        ValueError: a field is out of range, named with its value.
    """

    width: int
    depth: int
    patch_dim: int
    classes: int
    heads: int = 1
    head_dim: int = 0
    mlp: str = "relu2"
    mlp_hidden: int = 0
    positions: str = "fractional"
    side: int = 64

    def __post_init__(self):
        for name in ("width", "depth", "patch_dim", "classes", "heads", "side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, known in (
            ("mlp", ("relu2", "swiglu")),
            ("positions", ("absolute", "fractional")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        object.__setattr__(self, "mlp_hidden", self.mlp_hidden or 4 * self.width)
        object.__setattr__(self, "head_dim", self.head_dim or self.width // self.heads)
        if self.head_dim < 1:
            raise ValueError(f"heads must be at most the width {self.width}, got {self.heads}")

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each compressed matrix of a block."""
        D, F, H = self.width, self.mlp_hidden, self.heads * self.head_dim
        shapes = {"qkv": (D, 3 * H), "output": (H, D), "up": (D, F), "down": (F, D)}
        return shapes | ({"gate": (D, F)} if self.mlp == "swiglu" else {})


def init(key, config: ViTConfig):
    """Fresh parameters: matrices N(0, 1 / in), positions N(0, 1 / 4), norms one, head zero."""
    D = config.width
    places = config.side if config.positions == "absolute" else 2 * BANDS
    outer = {"patch": (config.patch_dim, D), "row": (places, D), "col": (places, D)}
    shapes = [*outer.values(), *config.depth * [*config.matrices.values()]]
    sizes = [rows * cols for rows, cols in shapes]
    draws = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])  # see lm.init
    normals = (draw.reshape(shape) for draw, shape in zip(draws, shapes, strict=True))
    scales = {"patch": config.patch_dim**-0.5, "row": 0.5, "col": 0.5}
    if config.positions == "fractional":
        scales |= dict.fromkeys(("row", "col"), 0.5 * BANDS**-0.5)
    params = {name: next(normals) * scales[name] for name in outer}

    def matrix(name, rows):
        residual = 2 * config.depth if name in ("output", "down") else 1
        return next(normals) * (rows * residual) ** -0.5

    def block():
        norms = {"attention_norm": jnp.ones(D), "mlp_norm": jnp.ones(D)}
        return norms | {name: matrix(name, rows) for name, (rows, _) in config.matrices.items()}

    blocks = [block() for _ in range(config.depth)]
    return params | {"blocks": blocks, "norm": jnp.ones(D), "head": jnp.zeros((D, config.classes))}


def positions(params, batch, config: ViTConfig):
    """phi_row(i) + phi_col(j) of every patch, f32[B, L, D]."""
    if config.positions == "absolute":
        tables = (params["row"], params["col"])
        places = (batch["patches_positions"][..., axis] for axis in (0, 1))
        row, col = (
            table.at[at].get(mode="fill", fill_value=np.nan)
            for table, at in zip(tables, places, strict=True)
        )
        return row + col
    bands = np.pi * 2.0 ** np.arange(BANDS)
    angles_BxLx2xJ = batch["patches_fractions"][..., None] * bands.astype(np.float32)
    waves = jnp.concatenate([jnp.sin(angles_BxLx2xJ), jnp.cos(angles_BxLx2xJ)], axis=-1)
    return waves[:, :, 0] @ params["row"] + waves[:, :, 1] @ params["col"]


def apply(params, batch, config: ViTConfig, structure: Structure, grids: Grids, segments: int):
    """Logits of the class of every image.

    Args:
        params: as `init` makes them.
        batch: "patches", "patches_segment_ids" and the coordinates its positions need, as
            `packing.images.pack` gives them.
        structure, grids: as in `lm.apply`.
        segments: S, the most images of a row.
    Returns:
        f32[B, S, V]; without meaning where a row has no such segment.
    """
    x_BxLxD = batch["patches"] @ params["patch"] + positions(params, batch, config)
    ids_BxL = batch["patches_segment_ids"]
    mask_BxLxL = attention_mask(ids_BxL, causal=False)

    def product(x, w):
        return linear(x, w, structure, grids)

    for block in params["blocks"]:
        x_BxLxD += attention(x_BxLxD, block, config, mask_BxLxL, structure, grids)
        x_BxLxD += mlp(rms_norm(x_BxLxD, block["mlp_norm"]), block, config.mlp, product)
    return pool(rms_norm(x_BxLxD, params["norm"]), ids_BxL, segments) @ params["head"]
