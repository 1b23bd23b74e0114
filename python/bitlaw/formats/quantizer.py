"""Arrays of any rank through the quantization ops, with the straight-through gradient."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.formats.key import key_words
from bitlaw.formats.scale import largest, scales
from bitlaw.ops import codes, hadamard, mask, quantize, statistic
from bitlaw.ops.scale import statistic_scale

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
        statistic: what a scale is taken from, as of the ops; "given" where the caller has it.
        estimator, kind, rounding, scaling: as of the ops.
        block: elements per block; 0 unless granularity is "block" or "tile".
        tile: columns of a tile; 0 unless granularity is "tile".
        axis: -1 or -2, the axis blocks run along (-2 is the contraction axis of [in, out] weights).
        hadamard: elements of a run that is rotated, along the axis that shares a scale; 0 for none.
    """

    granularity: str = "tensor"
    statistic: str = "absmax"
    estimator: str = "identity"
    block: int = 0
    tile: int = 0
    axis: int = -1
    kind: str = "uniform"
    rounding: str = "nearest"
    scaling: str = "f32"
    hadamard: int = 0

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
        one_run = {"block": self.block, "tile": 0}.get(self.granularity, self.hadamard)
        if self.hadamard and (not one_run or one_run % self.hadamard):
            raise ValueError(
                f"hadamard must divide the block, and not be with tiles, got {self.hadamard} and "
                f"{self.block} with {self.granularity}"
            )

    @property
    def stochastic(self) -> bool:
        return self.rounding == "stochastic"

    @property
    def counts(self) -> bool:
        """Whether the scale hangs on how many elements there are, so that padding would move it."""
        return self.statistic in ("rms", "mse_search")

    @property
    def multiples(self) -> dict[int, int]:
        """By axis of an array, what must divide it."""
        if self.granularity == "tile":
            return {-2: self.block, -1: self.tile}
        if self.granularity == "block":
            return {self.axis: self.block}
        return {-2 if self.granularity == "channel" else -1: self.hadamard or 1}

    @property
    def turned(self) -> bool:
        """Whether the ops get the transposed array: they rotate and search along rows only."""
        down = self.granularity == "channel" or (self.granularity == "block" and self.axis == -2)
        return down and bool(self.hadamard or self.statistic == "mse_search")

    def __call__(
        self, x, grid, key=None, *, scale=None, pruned: bool = False, in_place: bool = False
    ):
        """x on the grid's levels, in x's shape and dtype.

        Args:
            x: f32 or bf16 array, numpy or JAX.
            grid: f32[5] (`QuantSpec.grid`).
            key: u32[2] or a jax key, for stochastic rounding.
            scale: f32[], where the statistic is "given"; by default the grid's span.
            pruned: exact zeros are pruned weights: they stay zero and take no part in scales.
            in_place: x's memory may be reused: pays where x is donated or not used again, and has
                two axes (XLA copies around a reshape).
        """
        if str(x.dtype) not in ("float32", "bfloat16"):
            raise ValueError(f"x must be float32 or bfloat16, got {x.dtype}")
        if self.stochastic and key is None:
            raise ValueError("key must be given for stochastic rounding, got None")
        call = _Call(self, pruned, in_place)
        if isinstance(x, jax.Array):
            given = None if scale is None else jax.lax.stop_gradient(jnp.asarray(scale))
            words = None if key is None else key_words(key)
            return _straight_through(call, x, jnp.asarray(grid), words, given)
        words = None if key is None else np.asarray(key_words(key))
        grid = np.asarray(grid, np.float32)
        return call.forward(np.asarray(x), grid, words, scale, keep_mask=False)[0]

    def layout(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """([items, rows, cols] or [items, cols], block) of the ops for an array of this shape."""
        down = self.granularity in ("channel", "tile") or -2 in self.multiples
        if down and len(shape) < 2:
            raise ValueError(f"x must have at least 2 axes for {self.granularity}, got {shape}")
        for axis, size in self.multiples.items():
            name = {"tile": "tile" if axis == -1 else "block"}.get(self.granularity, "block")
            _divides(name if self.block else "hadamard", size, shape, axis)
        if self.turned:
            lines, cols = math.prod(shape[:-2]) * shape[-1], shape[-2]
            return (lines, cols), self.block or cols or self.hadamard or 1
        cols = shape[-1] if shape else 1
        lines = math.prod(shape[:-1])
        if self.granularity in ("tensor", "row"):
            return (lines, cols), cols or self.hadamard or 1
        if self.granularity == "channel":
            return (lines // max(shape[-2], 1), shape[-2], cols), 1
        if self.granularity == "block" and self.axis == -1:
            return (lines, cols), self.block
        return (lines // self.block, self.block, cols), self.tile or 1

    def view(self, x):
        """x as the ops take it."""
        shape, _ = self.layout(x.shape)
        return (x.swapaxes(-1, -2) if self.turned else x).reshape(shape)

    def unview(self, flat, shape: tuple[int, ...]):
        """An array of `shape` from what the ops gave."""
        if not self.turned:
            return flat.reshape(shape)
        return flat.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2)

    def attributes(self) -> dict[str, Any]:
        """Those of the ops that map elements."""
        names = ("kind", "scaling", "rounding", "estimator", "hadamard")
        return {name: getattr(self, name) for name in names}

    def noise(self, key, items: int, rows: int, xp):
        """u32[items, 3]: the key and the number of each item's first row; without a key [items, 0].

        Under vmap row numbers restart in every example, under shard_map on every device.
        """
        if not self.stochastic:
            return xp.zeros((items, 0), np.uint32)
        first = xp.arange(items, dtype=np.uint32) * np.uint32(rows)
        words = xp.broadcast_to(xp.asarray(key).reshape(1, 2), (items, 2))
        return xp.concatenate([words, first[:, None]], axis=1)

    def absmax(self, x):
        """f32[]: the largest magnitude of all of x; NaN or infinite where an element is."""
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1] if x.shape else 1)
        high, _ = statistic.group_statistic(
            flat, block=flat.shape[-1] or 1, statistic="absmax", pruned=False, hadamard=0
        )
        return largest(high).reshape(())

    def scale_of(self, amax, grid):
        """f32[]: the scale of a tensor whose largest magnitude is this."""
        xp = _xp(grid)
        high = xp.asarray(amax, dtype=np.float32).reshape(1, 1)
        scale, _ = statistic_scale(
            high,
            xp.zeros((1, 0), np.float32),
            xp.ones((1, 1), np.float32),
            grid[None],
            kind=self.kind,
            scaling=self.scaling,
        )
        return scale.reshape(())

    def marked(self, x, grid, key=None):
        """(x on the grid's levels, the packed bits of what the gradient passes)."""
        return _Call(self, False, False).forward(x, grid, key, None, keep_mask=True)

    def encode(self, x, grid, bits: int, key=None, *, keep_mask: bool = True) -> tuple[Codes, Any]:
        """(x in codes of `bits` bits, the packed bits of what the gradient passes)."""
        return _Call(self, False, False).encode(x, grid, bits, key, keep_mask)

    def decode(self, found: Codes, bits: int, shape: tuple[int, ...], dtype: str):
        """The array of this shape and dtype whose codes these are."""
        xp = _xp(found.codes)
        flat, block = self.layout(shape)
        groups = (flat[0], flat[-1] // block)
        points = (flat[0], groups[1] if found.zero.shape[1] else 0)
        y = codes.dequantize(
            found.codes,
            xp.broadcast_to(found.scale, groups),
            xp.broadcast_to(found.zero, points),
            xp.broadcast_to(found.grid, (flat[0], 5)),
            cols=flat[-1],
            block=block,
            kind=self.kind,
            hadamard=self.hadamard,
            bits=bits,
            dtype=dtype,
        )
        return self.unview(y, shape)

    def passed(self, bits, g):
        """The gradient where the estimator's bit is 1; rotated there and back with a Hadamard."""
        if self.estimator == "identity":
            return g
        flat = self.view(g)
        rows = flat.reshape(math.prod(flat.shape[:-1]), flat.shape[-1])
        bits = bits.reshape(rows.shape[0], bits.shape[-1])
        rows = self._rotated(rows)
        # In place only where nothing was reshaped: else XLA would copy, twice.
        rows = mask.prune(rows, bits, in_place=rows.shape == g.shape and not self.turned)
        return self.unview(self._rotated(rows).reshape(flat.shape), g.shape)

    def _rotated(self, rows):
        if not self.hadamard:
            return rows
        signs = jnp.zeros((rows.shape[0], 0), np.uint8)
        return hadamard.hadamard(rows, signs, block=self.hadamard, inverse=False)


def _divides(name: str, size: int, shape: tuple, axis: int) -> None:
    if size > 1 and (len(shape) < -axis or shape[axis] % size):
        raise ValueError(
            f"{name} must divide axis {len(shape) + axis} of x, got {size} and {shape}"
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codes:
    """An array in codes, as the ops make them.

    Attributes:
        codes: u8[items, (rows,) bytes]
        scale: f32[items, groups]; [1, 1] for a tensor
        zero: the same of an affine format, else [items, 0] or [1, 0]
        grid: f32[1, 5], with the tensor scale of NVFP4
    """

    codes: Any
    scale: Any
    zero: Any
    grid: Any


@dataclasses.dataclass(frozen=True)
class _Call:
    """A quantizer with its flags: hashable, so custom_vjp can hold it."""

    quantizer: Quantizer
    pruned: bool
    in_place: bool

    def forward(self, x, grid, key, scale, keep_mask: bool):
        """(x on the grid, packed mask of what the gradient passes)."""
        q, xp = self.quantizer, _xp(x)
        _, block = q.layout(x.shape)
        flat = q.view(x)
        items, rows = flat.shape[0], flat.shape[1] if flat.ndim == 3 else 1
        attributes = q.attributes() | {"block": block, "pruned": self.pruned}
        attributes["in_place"] = self.in_place and not q.turned
        if not keep_mask:
            attributes["estimator"] = "identity"
        noise = q.noise(key, items, rows, xp)
        scale, zero, grid = scales(q, flat, grid, scale, block, self.pruned)
        grids = xp.broadcast_to(grid, (items, 5))
        if scale is None:
            y, _, _, bits = quantize.fake_quantize(
                flat, grids, noise, statistic=q.statistic, **attributes
            )
        else:
            y, bits = quantize.fake_quantize_scaled(flat, scale, zero, grids, noise, **attributes)
        return q.unview(y, x.shape), bits

    def encode(self, x, grid, bits: int, key, keep_mask: bool):
        q, xp = self.quantizer, _xp(x)
        key = None if key is None else key_words(key)
        _, block = q.layout(x.shape)
        flat = q.view(x)
        items, rows = flat.shape[0], flat.shape[1] if flat.ndim == 3 else 1
        attributes = q.attributes() | {"block": block, "bits": bits}
        if not keep_mask:
            attributes["estimator"] = "identity"
        noise = q.noise(key, items, rows, xp)
        scale, zero, grid = scales(q, flat, grid, None, block, self.pruned)
        grids = xp.broadcast_to(grid, (items, 5))
        if scale is None:
            coded, scale, zero, passed = codes.quantize(
                flat, grids, noise, statistic=q.statistic, **attributes
            )
        else:
            coded, passed = codes.quantize_scaled(flat, scale, zero, grids, noise, **attributes)
            scale, zero = scale[:1, :1], zero[:1, :1]
        return Codes(coded, scale, zero, grid), passed


def _xp(x):
    return x.__array_namespace__()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _straight_through(call: _Call, x, grid, key, scale):
    return call.forward(x, grid, key, scale, keep_mask=False)[0]


def _straight_through_fwd(call: _Call, x, grid, key, scale):
    return call.forward(x, grid, key, scale, keep_mask=True)


def _straight_through_bwd(call: _Call, bits, g):
    """The gradient where the estimator's bit is 1; grid and scale get none."""
    return call.quantizer.passed(bits, g), None, None, None


_straight_through.defvjp(_straight_through_fwd, _straight_through_bwd)
