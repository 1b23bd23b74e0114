"""Flags into bits and back, and the bits of a float: array-API code shared by the definitions."""

from __future__ import annotations

import numpy as np


def bytes_of_bits(n: int) -> int:
    """Bytes that hold n bits."""
    return -(-n // 8)


def pack_flags(flags):
    """u8[..., ceil(n / 8)]: bit i of byte b is flags[..., 8 b + i]; spare bits are 0.

    Args:
        flags: bool[..., n]
    """
    xp = flags.__array_namespace__()
    n = flags.shape[-1]
    spare = [(0, 0)] * (flags.ndim - 1) + [(0, -n % 8)]
    eight = xp.pad(flags.astype(np.uint8), spare).reshape(*flags.shape[:-1], bytes_of_bits(n), 8)
    weights = np.left_shift(1, np.arange(8)).astype(np.uint8)
    return (eight * weights).sum(-1, dtype=np.uint8)


def unpack_flags(bits, n: int):
    """bool[..., n]: the first n bits of u8[..., ceil(n / 8)], little-endian within a byte."""
    one = (bits[..., None] >> np.arange(8, dtype=np.uint8)) & np.uint8(1)
    return one.reshape(*bits.shape[:-1], bits.shape[-1] * 8)[..., :n].astype(bool)


def magnitude_bits(x):
    """i32: the bits of |x| as f32. Ordered like the magnitudes, infinity then NaN at the top."""
    return x.astype(np.float32).view(np.int32) & np.int32(0x7FFFFFFF)
