"""Codes of 1 to 8 bits into bytes and back; flags, codes of one bit; the bits of a float."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.op import Shape, op


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


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be in [1, 8], got {bits}")


def _check_bytes(name: str, array) -> None:
    if array.ndim != 2 or str(array.dtype) != "uint8":
        raise ValueError(f"{name} must be u8[items, n], got {array.dtype}{list(array.shape)}")


def _pack_out(codes, *, bits):
    _check_bits(bits)
    _check_bytes("codes", codes)
    return (Shape((codes.shape[0], bytes_of_bits(codes.shape[1] * bits)), np.uint8),)


def _unpack_out(packed, *, bits, n):
    _check_bits(bits)
    _check_bytes("packed", packed)
    if n < 0 or packed.shape[1] != bytes_of_bits(n * bits):
        raise ValueError(
            f"packed must have {bytes_of_bits(n * bits)} bytes an item for {n} codes of {bits} "
            f"bits, got {list(packed.shape)}"
        )
    return (Shape((packed.shape[0], n), np.uint8),)


def _pack_examples(rng):
    for bits in range(1, 9):
        for items, n in [(0, 5), (2, 0), (3, 1), (2, 7), (3, 17), (4, 600), (2, 33003)]:
            yield (rng.integers(0, 256, (items, n), dtype=np.uint8),), {"bits": bits}


def _unpack_examples(rng):
    for (codes,), attributes in _pack_examples(rng):
        packed = bytes_of_bits(codes.shape[1] * attributes["bits"])
        yield (
            (rng.integers(0, 256, (codes.shape[0], packed), dtype=np.uint8),),
            attributes | {"n": codes.shape[1]},
        )


@op(out=_pack_out, examples=_pack_examples)
def pack_bits(codes, *, bits: int):
    """Codes side by side: code i of an item occupies its bits  i bits .. (i + 1) bits - 1.

    Bit j of byte b is bit 8 b + j of the item; spare bits of the last byte are 0.

    Args:
        codes: u8[items, n]; of each the low `bits` bits are taken.
        bits: of a code, 1 to 8.

    Returns:
        u8[items, ceil(n bits / 8)]
    """
    planes = (codes[..., None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    return pack_flags(planes.reshape(codes.shape[0], codes.shape[1] * bits).astype(bool))


@op(out=_unpack_out, examples=_unpack_examples)
def unpack_bits(packed, *, bits: int, n: int):
    """The codes that `pack_bits` put side by side: unpack_bits(pack_bits(codes)) is codes.

    Args:
        packed: u8[items, ceil(n bits / 8)]; spare bits are not read.
        bits: of a code, 1 to 8.
        n: codes of an item.

    Returns:
        u8[items, n]
    """
    planes = unpack_flags(packed, n * bits).reshape(packed.shape[0], n, bits).astype(np.uint8)
    return (planes << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8)
