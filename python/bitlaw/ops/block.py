"""Sums over blocks of a matrix, in one fixed order."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.op import Shape, op
from bitlaw.ops.select import DTYPES


def _sum_out(x, *, rows, cols):
    if x.ndim != 3 or str(x.dtype) not in DTYPES:
        raise ValueError(
            f"x must be f32, bf16 or f16 [items, rows, cols], got {x.dtype}{list(x.shape)}"
        )
    for name, size, axis in (("rows", rows, 1), ("cols", cols, 2)):
        if size < 1 or x.shape[axis] % size:
            raise ValueError(f"{name} must divide axis {axis} of x, got {size} and {x.shape}")
    return (Shape((x.shape[0], x.shape[1] // rows, x.shape[2] // cols), np.float32),)


def _sum_examples(rng):
    import ml_dtypes

    for shape, rows, cols in [
        ((0, 4, 4), 2, 2), ((2, 6, 0), 3, 1), ((2, 3, 8), 1, 8), ((1, 12, 15), 4, 3),
        ((3, 7, 5), 7, 1), ((1, 4, 1201), 1, 1201), ((1, 777, 600), 777, 1), ((2, 128, 300), 32, 4),
    ]:  # fmt: skip
        x = (rng.normal(size=shape) * np.exp(rng.normal(size=shape))).astype(np.float32)
        x[rng.random(shape) < 0.001] = np.nan
        for of in (x, x * np.float32(1e-41), x.astype(ml_dtypes.bfloat16), x.astype(np.float16)):
            yield (of,), {"rows": rows, "cols": cols}


def pair_sum(x):
    """f32[...]: sums over the last axis, of neighbours in pairs, the pairs in pairs and so on."""
    xp = x.__array_namespace__()
    while x.shape[-1] > 1:
        n = x.shape[-1] // 2 * 2
        pairs = x[..., 0:n:2] + x[..., 1:n:2]
        x = xp.concat([pairs, x[..., n:]], axis=-1) if n < x.shape[-1] else pairs
    return x[..., 0]


@op(out=_sum_out, examples=_sum_examples)
def block_sum(x, *, rows: int, cols: int):
    """Sum of magnitudes of every block, in f32.

        sums[i, p, q] = sum(|x[i, p rows + r, q cols + c]| for r < rows for c < cols)

    Neighbours are added in pairs, the pairs in pairs, and so on, down the rows and then across the
    columns: one order, so the same bits everywhere, and an error that grows with log(rows cols).

    Args:
        x: f32, bf16 or f16 [items, n, m]
        rows, cols: of a block; must divide n and m.

    Returns:
        f32[items, n / rows, m / cols]
    """
    xp = x.__array_namespace__()
    items, n, m = x.shape
    blocks = xp.abs(x.astype(np.float32)).reshape(items, n // rows, rows, m // cols, cols)
    return pair_sum(pair_sum(xp.moveaxis(blocks, 2, -1)))
