"""Which weights are kept or pruned together."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.ops import block, transposable
from bitlaw.sparsity.masks import BitMask, nm_mask, top_k_mask
from bitlaw.sparsity.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Unstructured:
    """Every weight for itself."""

    def keep_counts(self, schedule: Schedule, shape: tuple[int, ...], final: float) -> np.ndarray:
        """i64[updates]: weights kept after every update."""
        return schedule.keep_counts(math.prod(shape), final)

    def competing(self, scores):
        """The scores of which the largest are kept."""
        return scores

    def mask(self, scores, keep) -> BitMask:
        """The mask of exactly `keep` weights of largest |scores|."""
        return top_k_mask(scores, keep)

    def __str__(self) -> str:
        return "unstructured"


@dataclasses.dataclass(frozen=True)
class NM:
    """n of every m consecutive weights along `axis`; transposable: along the last two axes.

    Reached gradually (arXiv:2309.08520): the n largest of every m are always kept, the rest of the
    array, or with scope "global" of all arrays, is pruned by magnitude to the schedule's count.
    """

    n: int
    m: int
    axis: int = -2
    transposable: bool = False

    def __post_init__(self):
        if not 1 <= self.m <= 64:
            raise ValueError(f"m must be in [1, 64], got {self.m}")
        if not 1 <= self.n <= self.m:
            raise ValueError(f"n must be in [1, m], got {self.n}:{self.m}")

    def keep_counts(self, schedule: Schedule, shape: tuple[int, ...], final: float) -> np.ndarray:
        """i64[updates]: weights kept after every update, at the end exactly n of every m."""
        if not math.isclose(final, 1 - self.n / self.m, abs_tol=1e-9):
            raise ValueError(f"final sparsity must be 1 - n/m for {self}, got {final}")
        size = math.prod(shape)
        steps_left = schedule.keep_counts(size, final)
        return np.maximum(steps_left, size // self.m * self.n)

    def competing(self, scores):
        """|scores|, infinite for the n largest of every m and only for those."""
        always = self._mask(scores)
        xp = jnp if isinstance(scores, jax.Array) else np
        # NaN stays NaN: it goes first among the others.
        others = xp.minimum(xp.abs(scores), xp.asarray(jnp.finfo(scores.dtype).max, scores.dtype))
        return xp.where(always.to_bool(), xp.asarray(np.inf, scores.dtype), others)

    def mask(self, scores, keep) -> BitMask:
        """The mask of the n largest of every m, and of the largest others up to `keep` in all."""
        return top_k_mask(self.competing(scores), keep)

    def _mask(self, scores) -> BitMask:
        if self.transposable:
            return transposable_mask(scores, self.n, self.m)
        return nm_mask(scores, self.n, self.m, self.axis)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" + ("/transposable" if self.transposable else "")


@dataclasses.dataclass(frozen=True)
class Block:
    """Blocks of rows x cols of the last two axes, by the sum of their |scores| (`block_sum`)."""

    rows: int
    cols: int

    def __post_init__(self):
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"block must have at least 1 row and column, got {self}")

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
        """[outer, blocks down, rows, blocks across, cols]"""
        if len(shape) < 2:
            raise ValueError(f"x must have at least 2 axes for {self}, got {shape}")
        for axis, size in ((-2, self.rows), (-1, self.cols)):
            if size < 1 or shape[axis] % size:
                raise ValueError(
                    f"block must divide axis {len(shape) + axis} of x, got {size} and {shape}"
                )
        down, across = shape[-2] // self.rows, shape[-1] // self.cols
        return (math.prod(shape[:-2]), down, self.rows, across, self.cols)

    def keep_counts(self, schedule: Schedule, shape: tuple[int, ...], final: float) -> np.ndarray:
        """i64[updates]: weights kept after every update, whole blocks."""
        outer, down, _, across, _ = self._grid(shape)
        blocks = schedule.keep_counts(outer * down * across, final)
        return blocks * (self.rows * self.cols)

    def mask(self, scores, keep) -> BitMask:
        """The mask of the keep / (rows * cols) blocks of largest sum of |scores|."""
        grid = self._grid(scores.shape)
        xp = jnp if isinstance(scores, jax.Array) else np
        flat = scores.reshape(1, grid[0] * scores.shape[-2], scores.shape[-1])
        sums = block.block_sum(flat, rows=self.rows, cols=self.cols)
        kept = top_k_mask(sums, keep // (self.rows * self.cols)).to_bool()
        spread = xp.broadcast_to(kept.reshape(grid[0], grid[1], 1, grid[3], 1), grid)
        return BitMask.of(spread.reshape(scores.shape))

    def __str__(self) -> str:
        return f"block{self.rows}x{self.cols}"


@dataclasses.dataclass(frozen=True)
class Channel:
    """Whole channels of the last two axes: columns (axis -1, outputs) or rows (axis -2, inputs)."""

    axis: int = -1

    def __post_init__(self):
        if self.axis not in (-1, -2):
            raise ValueError(f"axis must be -1 or -2, got {self.axis}")

    def _blocks(self, shape: tuple[int, ...]) -> Block:
        if len(shape) < 2:
            raise ValueError(f"x must have at least 2 axes for {self}, got {shape}")
        return Block(shape[-2], 1) if self.axis == -1 else Block(1, shape[-1])

    def keep_counts(self, schedule: Schedule, shape: tuple[int, ...], final: float) -> np.ndarray:
        """i64[updates]: weights kept after every update, whole channels."""
        return self._blocks(shape).keep_counts(schedule, shape, final)

    def mask(self, scores, keep) -> BitMask:
        """The mask of the channels of largest sum of |scores|, `keep` weights in all."""
        return self._blocks(scores.shape).mask(scores, keep)

    def __str__(self) -> str:
        return "channel" if self.axis == -1 else "channel/in"


Pattern = Unstructured | NM | Block | Channel


def transposable_mask(x, n: int, m: int) -> BitMask:
    """The mask with n ones in every row and column of each m by m tile of the last two axes.

    The largest sum of magnitudes for m = 4 (of 90 patterns for 2:4), by greed for other m. Such a
    mask serves both a product and its transpose, so forward and backward (arXiv:2102.08124).

    Args:
        x: f32, bf16 or f16 array of at least two axes, numpy or JAX.
        n, m: 1 <= n <= m <= 64; m must divide both axes.
    """
    if x.ndim < 2:
        raise ValueError(f"x must have at least 2 axes, got {x.shape}")
    rows = math.prod(x.shape[:-1])
    if m >= 1 and x.shape[-2] % m:
        raise ValueError(f"m must divide axis {x.ndim - 2} of x, got {m} and {x.shape}")
    bits = transposable.transposable_mask(x.reshape(1, rows, x.shape[-1]), n=n, m=m)
    return BitMask(bits[0], tuple(x.shape))
