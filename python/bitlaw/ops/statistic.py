"""Statistics of groups, of which scales are taken (`bitlaw.ops.scale`).

Arrays are [items, rows, cols] and `block` columns over all rows of an item share a scale, as in
`bitlaw.ops.quantize`.
"""

from __future__ import annotations

import numpy as np

from bitlaw.ops.bits import magnitude_bits
from bitlaw.ops.examples import (
    HADAMARDS,
    arrays_and_blocks,
)
from bitlaw.ops.grid import INFINITY_BITS
from bitlaw.ops.hadamard import butterflies
from bitlaw.ops.op import Shape, op

STATISTICS = ("absmax", "rms", "range", "mse_search")


def check_array(x, block: int, hadamard: int = 0) -> None:
    """Raises ValueError unless x is an array of items whose columns `block` divides."""
    if x.ndim not in (2, 3):
        raise ValueError(f"x must be [items, rows, cols] or [items, cols], got shape {x.shape}")
    if str(x.dtype) not in ("float32", "bfloat16"):
        raise ValueError(f"x must be float32 or bfloat16, got {x.dtype}")
    if block < 1 or x.shape[-1] % block:
        raise ValueError(f"block must divide the last axis of x, got {block} and {x.shape}")
    if hadamard and (hadamard not in HADAMARDS or block % hadamard):
        raise ValueError(
            f"hadamard must be 0 or a power of two from 16 to 4096 that divides block, "
            f"got {hadamard} and {block}"
        )
    if hadamard and x.ndim == 3 and x.shape[1] != 1:
        raise ValueError(f"hadamard must be of items of one row, got shape {x.shape}")


def check_operand(name: str, array, shape: tuple, dtype: str = "float32") -> None:
    """Raises ValueError unless the array has this shape and type."""
    if tuple(array.shape) != shape or str(array.dtype) != dtype:
        short = {"float32": "f32", "uint32": "u32", "uint8": "u8"}[dtype]
        raise ValueError(
            f"{name} must be {short}{list(shape)}, got {array.dtype}{list(array.shape)}"
        )


def check_choice(name: str, value: str, choices: tuple) -> None:
    """Raises ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def group_shape(x, block: int, there: bool = True) -> Shape:
    """Of one number per group, or of an array that is not there."""
    return Shape((x.shape[0], x.shape[-1] // block if there else 0), np.float32)


def groups_of(x, block: int):
    """f32[items, rows, groups, block]."""
    items, cols, rows = x.shape[0], x.shape[-1], x.shape[1] if x.ndim == 3 else 1
    return x.astype(np.float32).reshape(items, rows, cols // block, block)


def rotate(x, size: int):
    """x, or f32: its runs of `size` columns rotated (see `bitlaw.ops.hadamard`)."""
    return butterflies(x.astype(np.float32), size) if size else x


# ---- statistics --------------------------------------------------------------------------------


def _statistic_out(x, *, block, statistic, pruned, hadamard):
    check_array(x, block, hadamard)
    check_choice("statistic", statistic, STATISTICS[:3])
    return group_shape(x, block), group_shape(x, block, statistic == "range")


def _statistic_examples(rng):
    for i, (x, block) in enumerate(arrays_and_blocks(rng)):
        for statistic in STATISTICS[:3]:
            pruned = block % 2 == 0
            yield (x,), {"block": block, "statistic": statistic, "pruned": pruned, "hadamard": 0}
        sizes = [n for n in HADAMARDS if block % n == 0]
        if sizes and (x.ndim == 2 or x.shape[1] == 1):
            yield (
                (x,),
                {
                    "block": block,
                    "statistic": STATISTICS[i % 3],
                    "pruned": False,
                    "hadamard": sizes[i % len(sizes)],
                },
            )


def _statistic_given(x, *, statistic, **_):
    return None if statistic != "rms" else (0, lambda s: (s, np.zeros((len(s), 0), np.float32)))


@op(out=_statistic_out, examples=_statistic_examples, given=_statistic_given)
def group_statistic(x, *, block: int, statistic: str, pruned: bool, hadamard: int):
    """Largest magnitude, root mean square, or range of each group.

        absmax:  high[i, b] = max |x[i, r, c]|        over rows r and columns c of block b
        rms:     high[i, b] = sqrt(mean x[i, r, c]^2)   (pruned: over the non-zero elements)
        range:   high[i, b] = max(0, max x[i, r, c]),  low[i, b] = max(0, max -x[i, r, c])

    NaN or infinite where an element is.

    Args:
        x: f32 or bf16 [items, rows, cols], or [items, cols] for items of one row
        block: columns per group; must divide cols.
        statistic: "absmax", "rms" or "range".
        pruned: exact zeros are pruned weights and are not counted.
        hadamard: of x rotated in runs of this many columns; 0 for none.

    Returns:
        high: f32[items, cols / block]; low: as high for a range, else f32[items, 0]
    """
    groups = groups_of(rotate(x, hadamard), block)
    xp = groups.__array_namespace__()
    none = xp.zeros((x.shape[0], 0), dtype=np.float32)
    # On integer bits: a float maximum may drop NaN (jnp.max does, depending on the shape).
    bits = magnitude_bits(groups)
    if statistic == "range":
        negative = groups.view(np.int32) < 0
        high, low = (
            xp.where(side, bits, np.int32(0)).max(axis=(1, 3), initial=0).view(np.float32)
            for side in (~negative, negative)
        )
        return high, low
    amax = bits.max(axis=(1, 3), initial=0).view(np.float32)
    if statistic != "rms":
        return amax, none
    # Squares of x / 2^k, 2^k the power of two below amax, neither overflow nor underflow.
    unit = (magnitude_bits(amax) & INFINITY_BITS).view(np.float32)
    # Up to 2^126, so that its reciprocal, which XLA may take, is normal.
    unit = xp.clip(unit, np.float32(2.0**-126), np.float32(2.0**126))
    unit = xp.where(amax < np.inf, unit, np.float32(1))
    ratio = groups / unit[:, None, :, None]
    # Zeros by their bits: XLA flushes subnormals to zero before it compares.
    counted = magnitude_bits(groups) != 0 if pruned else xp.ones_like(groups, dtype=bool)
    count = counted.sum(axis=(1, 3)).astype(np.float32)
    # JAX has no doubles by default; there the order of the sum is XLA's.
    wide = np.float64 if xp is np else np.float32
    total = (ratio * ratio).sum(axis=(1, 3), dtype=wide)
    mean = total / xp.maximum(count, np.float32(1))
    return unit * xp.sqrt(mean).astype(np.float32), none
