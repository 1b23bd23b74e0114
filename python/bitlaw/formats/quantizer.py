"""Arrays of any rank through the quantization ops, with the straight-through gradient."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.ops import mask, quantize
from bitlaw.ops.bits import magnitude_bits

GRANULARITIES = ("tensor", "channel", "row", "block", "tile")


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """The structure of a quantization: everything but its numbers, so it is static under jit.

    Calling it fake-quantizes an array on the levels of `grid`, an operand: one compiled program
    serves every format of a structure.

    Attributes:
        granularity: what shares a scale: "tensor" all of x; "channel" a column of x[..., in, out];
            "row" a row of the last axis; "block" `block` consecutive elements along `axis`;
            "tile" `block` rows by `tile` columns.
        statistic: "absmax" or "rms".
        estimator: "identity", "clip_rounded" or "trust".
        block: elements per block; 0 unless granularity is "block" or "tile".
        tile: columns of a tile; 0 unless granularity is "tile".
        axis: -1 or -2, the axis blocks run along (-2 is the contraction axis of [in, out] weights).
    """

    granularity: str = "tensor"
    statistic: str = "absmax"
    estimator: str = "identity"
    block: int = 0
    tile: int = 0
    axis: int = -1

    def __post_init__(self):
        if self.granularity not in GRANULARITIES:
            names = ", ".join(GRANULARITIES)
            raise ValueError(f"granularity must be one of {names}, got {self.granularity!r}")
        wanted = {"block": (True, False), "tile": (True, True)}
        if (self.block > 0, self.tile > 0) != wanted.get(self.granularity, (False, False)):
            raise ValueError(
                f"block and tile must suit {self.granularity}, got {self.block} and {self.tile}"
            )
        if self.axis not in (-1, -2):
            raise ValueError(f"axis must be -1 or -2, got {self.axis}")

    def __call__(self, x, grid, *, pruned: bool = False, in_place: bool = False):
        """x on the grid's levels, in x's shape and dtype.

        Args:
            x: f32 or bf16 array, numpy or JAX.
            grid: f32[4]: qmin, qmax, offset, span (`QuantSpec.grid`).
            pruned: exact zeros are pruned weights: they stay zero and take no part in scales.
            in_place: x's memory may be reused: pays where x is donated or not used again, and has
                two axes (XLA copies around a reshape).
        """
        if str(x.dtype) not in ("float32", "bfloat16"):
            raise ValueError(f"x must be float32 or bfloat16, got {x.dtype}")
        call = _Call(self, pruned, in_place)
        if isinstance(x, jax.Array):
            return _straight_through(call, x, jnp.asarray(grid))
        return call.forward(np.asarray(x), np.asarray(grid, np.float32), keep_mask=False)[0]

    def layout(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """([items, rows, cols] or [items, cols], block) of the ops for an array of this shape."""
        cols = shape[-1] if shape else 1
        lines = math.prod(shape[:-1])
        if self.granularity in ("tensor", "row"):
            return (lines, cols), max(cols, 1)
        if len(shape) < 2 and not (self.granularity == "block" and self.axis == -1):
            raise ValueError(f"x must have at least 2 axes for {self.granularity}, got {shape}")
        if self.granularity == "channel":
            return (lines // max(shape[-2], 1), shape[-2], cols), 1
        if self.granularity == "block" and self.axis == -1:
            _divides("block", self.block, shape, -1)
            return (lines, cols), self.block
        _divides("block", self.block, shape, -2)
        if self.granularity == "block":
            return (lines // self.block, self.block, cols), 1
        _divides("tile", self.tile, shape, -1)
        return (lines // self.block, self.block, cols), self.tile


def _divides(name: str, size: int, shape: tuple, axis: int) -> None:
    if not shape or shape[axis] % size:
        raise ValueError(
            f"{name} must divide axis {len(shape) + axis} of x, got {size} and {shape}"
        )


@dataclasses.dataclass(frozen=True)
class _Call:
    """A quantizer with its flags: hashable, so custom_vjp can hold it."""

    quantizer: Quantizer
    pruned: bool
    in_place: bool

    def forward(self, x, grid, keep_mask: bool):
        """(x on the grid, packed mask of what the gradient passes)."""
        q = self.quantizer
        shape, block = q.layout(x.shape)
        flat = x.reshape(shape)
        grids = _xp(x).broadcast_to(grid, (shape[0], 4))
        estimator = q.estimator if keep_mask else "identity"
        common = {"block": block, "pruned": self.pruned, "in_place": self.in_place}
        if q.granularity == "tensor":
            scale = self._tensor_scale(flat, grid, block)
            scale = _xp(x).broadcast_to(scale, (shape[0], shape[-1] // block))
            y, bits = quantize.fake_quantize_scaled(
                flat, scale, grids, estimator=estimator, **common
            )
        else:
            y, _, bits = quantize.fake_quantize(
                flat, grids, statistic=q.statistic, estimator=estimator, **common
            )
        return y.reshape(x.shape), bits

    def _tensor_scale(self, flat, grid, block: int):
        """f32[1, 1]: composed of a statistic per row: sharded rows then need one all-reduce.

        XLA sees integers, and floats near 1 only: it would flush subnormals and divide inexactly.
        """
        xp, q = _xp(flat), self.quantizer
        rows = quantize.group_statistic(
            flat, block=block, statistic=q.statistic, pruned=self.pruned
        )
        # Integer bits keep NaN through the maximum, also where XLA splits it over devices.
        largest = rows.view(np.int32).max(initial=0).view(np.float32)
        if q.statistic == "absmax":
            s, unit = largest.reshape(1, 1), xp.ones((1, 1), np.float32)
        else:
            ratio, _ = quantize.statistic_ratio(rows, xp.broadcast_to(largest, rows.shape))
            count = xp.full_like(rows, flat.shape[-1])
            if self.pruned:
                count = (magnitude_bits(flat) != 0).sum(axis=1).astype(np.float32)[:, None]
            total = xp.maximum(count.sum(), np.float32(1))
            s = xp.sqrt((ratio * ratio * count).sum() / total).reshape(1, 1)
            _, unit = quantize.statistic_ratio(s, largest.reshape(1, 1))
        return quantize.statistic_scale(s, unit, grid[None])


def _xp(x):
    return x.__array_namespace__()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _straight_through(call: _Call, x, grid):
    return call.forward(x, grid, keep_mask=False)[0]


def _straight_through_fwd(call: _Call, x, grid):
    y, bits = call.forward(x, grid, keep_mask=True)
    return y, (bits, grid)


def _straight_through_bwd(call: _Call, saved, g):
    """The gradient where the estimator's bit is 1; the grid gets none."""
    bits, grid = saved
    if call.quantizer.estimator != "identity":
        shape, _ = call.quantizer.layout(g.shape)
        rows = g.reshape(math.prod(shape[:-1]), shape[-1])
        bits = bits.reshape(rows.shape[0], bits.shape[-1])
        # In place only where nothing was reshaped: else XLA would copy, twice.
        g = mask.prune(rows, bits, in_place=rows.shape == g.shape).reshape(g.shape)
    return g, jnp.zeros_like(grid)


_straight_through.defvjp(_straight_through_fwd, _straight_through_bwd)


def fake_quantize(x, spec, *, in_place: bool = False):
    """x on the levels of `spec`, in x's shape and dtype, with the spec's straight-through gradient.

        w_q = bitlaw.fake_quantize(w, "int4/channel")
        a_q = bitlaw.fake_quantize(a, "quest4/row")

    Args:
        x: f32 or bf16 array; numpy arrays go through the compiled numpy function, JAX arrays
            through the custom call (also under jit, grad, vmap and sharding).
        spec: a `QuantSpec` or its string.
        in_place: x's memory may be reused; pays where x is donated or not used again.

    Raises:
        ValueError: a bad spec, dtype, or a block that does not divide its axis.
    """
    from bitlaw.formats.spec import QuantSpec

    spec = QuantSpec.parse(spec) if isinstance(spec, str) else spec
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    return spec.structure(x, spec.grid, in_place=in_place)
