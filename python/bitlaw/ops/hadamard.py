"""The Walsh-Hadamard transform of runs of columns, by which outliers are spread before rounding."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import bytes_of_bits, unpack_flags
from bitlaw.ops.op import Shape, op

SMALLEST, LARGEST = 16, 4096


def check_block(block: int, cols: int) -> None:
    """Raises ValueError unless block is a power of two in [16, 4096] that divides cols."""
    if not SMALLEST <= block <= LARGEST or block & (block - 1):
        raise ValueError(f"block must be a power of two in [16, 4096], got {block}")
    if cols % block:
        raise ValueError(f"block must divide the last axis of x, got {block} and {cols}")


def butterflies(x, block: int):
    """f32, x's shape: runs of `block` elements of the last axis of f32 x, transformed.

    Strides ascend; each butterfly is a sum and a difference; 1 / sqrt(block) comes last.
    """
    xp = x.__array_namespace__()
    shape = x.shape
    stride = 1
    while stride < block:
        pairs = x.reshape(*shape[:-1], shape[-1] // (2 * stride), 2, stride)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = xp.stack([a + b, a - b], axis=-2).reshape(shape)
        stride *= 2
    return x * np.float32(1 / np.sqrt(block))


def _hadamard_out(x, signs, *, block, inverse):
    del inverse
    if x.ndim not in (2, 3):
        raise ValueError(f"x must be [items, rows, cols] or [items, cols], got shape {x.shape}")
    if str(x.dtype) not in ("float32", "bfloat16"):
        raise ValueError(f"x must be float32 or bfloat16, got {x.dtype}")
    check_block(block, x.shape[-1])
    want = (x.shape[0], bytes_of_bits(x.shape[-1]))
    if tuple(signs.shape) not in (want, (want[0], 0)) or str(signs.dtype) != "uint8":
        raise ValueError(
            f"signs must be u8{list(want)} or u8[{want[0]}, 0], "
            f"got {signs.dtype}{list(signs.shape)}"
        )
    return (Shape(x.shape, x.dtype),)


def _hadamard_examples(rng):
    import ml_dtypes

    for shape, block in [
        ((0, 32), 16), ((2, 0), 16), ((3, 1, 16), 16), ((5, 48), 16), ((2, 3, 96), 32),
        ((4, 320), 64), ((300, 256), 128), ((1, 5, 1280), 256), ((2, 1024), 512), ((3, 4096), 1024),
        ((2, 10240), 2048), ((5, 8192), 4096), ((2, 9, 4096), 16),
    ]:  # fmt: skip
        x = rng.normal(size=shape).astype(np.float32)
        x[rng.random(shape) < 0.01] *= np.float32(1e30)
        x[rng.random(shape) < 0.01] = np.float32(-1e-42)
        if x.size > 10000:
            x.ravel()[[1, -1]] = np.nan, np.inf
        cols = bytes_of_bits(shape[-1])
        signs = rng.integers(0, 256, (shape[0], cols)).astype(np.uint8)
        for kept, inverse in [(signs, False), (signs, True), (signs[:, :0], False)]:
            attributes = {"block": block, "inverse": inverse}
            yield (x, kept), attributes
            yield (x.astype(ml_dtypes.bfloat16), kept), attributes


@op(out=_hadamard_out, examples=_hadamard_examples, alias=(0, 0))
def hadamard(x, signs, *, block: int, inverse: bool):
    """Runs of `block` columns times the normalised Hadamard matrix, with signs if given.

        y = H (s x)         inverse:  y = s (H x)
        H[i, j] = (-1)^popcount(i & j) / sqrt(block),    s = -1 where the bit of `signs` is 1

    H is symmetric and orthonormal, so without signs the transform is its own inverse, and with them
    the inverse is the transpose, as the gradient needs. Sums run in f32 by ascending stride and the
    product with 1 / sqrt(block) comes last: magnitudes above FLT_MAX / block may overflow.

    Args:
        x: f32 or bf16 [items, rows, cols], or [items, cols] for items of one row
        signs: u8[items, ceil(cols / 8)], bits shared by the rows of an item; u8[items, 0] for none
        block: a power of two in [16, 4096] that divides cols.
        inverse: undo instead.

    Returns:
        like x; bf16 is rounded once, at the end
    """
    xp = x.__array_namespace__()
    f = x.astype(np.float32)
    minus = None
    if signs.shape[1]:
        flags = unpack_flags(signs, x.shape[-1])
        minus = flags.reshape(x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
    turn = lambda v: v if minus is None else xp.where(minus, -v, v)
    y = turn(butterflies(f, block)) if inverse else butterflies(turn(f), block)
    return y.astype(x.dtype)
