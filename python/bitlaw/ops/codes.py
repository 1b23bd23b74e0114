"""Quantization to packed codes and back; together, fake quantization, bit for bit.

| kind | code |
|---|---|
| uniform, offset 0 | two's complement |
| uniform mid-rise, affine | unsigned, 0 is the lowest level |
| float | sign, exponent, mantissa: the bit patterns of the OCP formats; NaN all ones but its sign |
| nf4 | the index of the level |

Layouts, grids and attributes are those of `bitlaw.ops.quantize`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from bitlaw.ops.bits import bytes_of_bits, magnitude_bits, pack_bits, unpack_bits
from bitlaw.ops.examples import arrays_and_blocks, choices_for, grids_of_kinds, noise_for
from bitlaw.ops.grid import GRID_NUMBERS, INFINITY_BITS, KINDS, NF4
from bitlaw.ops.op import Shape, op
from bitlaw.ops.quantize import (
    MAP,
    check_call,
    check_statistic,
    levels_of,
    mask_shape,
    packed_mask,
    scale_of,
)
from bitlaw.ops.statistic import (
    check_array,
    check_choice,
    check_operand,
    group_shape,
    groups_of,
    rotate,
)

DTYPES = ("float32", "bfloat16")


def _codes_shape(x, bits: int, kind: str) -> Shape:
    if not 1 <= bits <= 8 or (kind == "nf4" and bits != 4):
        raise ValueError(f"bits must be 1 to 8, and 4 of nf4, got {bits} of {kind}")
    return Shape((*x.shape[:-1], bytes_of_bits(x.shape[-1] * bits)), np.uint8)


def _out(x, grid, noise, *, statistic, bits, **attributes):
    block, kind = attributes["block"], attributes["kind"]
    check_call(x, grid, noise, pruned=False, **attributes)
    check_statistic(x, kind, statistic)
    scale, zero = group_shape(x, block), group_shape(x, block, kind == "affine")
    return _codes_shape(x, bits, kind), scale, zero, mask_shape(x, attributes["estimator"])


def _scaled_out(x, scale, zero, grid, noise, *, bits, **attributes):
    block, kind = attributes["block"], attributes["kind"]
    check_call(x, grid, noise, pruned=False, **attributes)
    check_operand("scale", scale, group_shape(x, block).shape)
    check_operand("zero", zero, group_shape(x, block, kind == "affine").shape)
    return _codes_shape(x, bits, kind), mask_shape(x, attributes["estimator"])


def _dequantize_out(codes, scale, zero, grid, *, block, cols, bits, kind, hadamard, dtype):
    check_choice("kind", kind, KINDS)
    check_choice("dtype", dtype, DTYPES)
    if codes.ndim not in (2, 3) or str(codes.dtype) != "uint8":
        raise ValueError(
            f"codes must be u8[items, rows, bytes] or u8[items, bytes], "
            f"got {codes.dtype}{list(codes.shape)}"
        )
    y = Shape((*codes.shape[:-1], cols), jnp.dtype(dtype))
    check_array(y, block, hadamard)
    check_operand("codes", codes, _codes_shape(y, bits, kind).shape, "uint8")
    check_operand("scale", scale, group_shape(y, block).shape)
    check_operand("zero", zero, group_shape(y, block, kind == "affine").shape)
    check_operand("grid", grid, (codes.shape[0], GRID_NUMBERS))
    return (y,)


# ---- definitions -------------------------------------------------------------------------------


def encode(levels, zero, grid, *, kind: str, bits: int):
    """u8: codes of levels, whose arrays broadcast with `zero` and the five of `grid`."""
    xp = levels.__array_namespace__()
    if kind == "nf4":
        return sum((levels > level).astype(np.uint8) for level in NF4[:15])
    if kind != "float":
        if kind == "affine":
            first = grid[0] - zero
        else:
            first = xp.where(grid[2] == 0, np.float32(0), grid[0] + grid[2])
        code = levels - first
        # A NaN level comes with a NaN scale.
        return xp.where(code >= -256, code, np.float32(0)).astype(np.int32).astype(np.uint8)
    mag, sign = magnitude_bits(levels), np.int32(1 << (bits - 1))
    mantissa = np.int32(127) - (grid[2].view(np.int32) >> 23)
    least = grid[1].view(np.int32)
    normal = (mag >> (23 - mantissa)) - (((least >> 23) - 1) << mantissa)
    unit = np.float32(1) / (grid[1] * grid[2])
    below = (xp.where(mag < least, mag, 0).view(np.float32) * unit).astype(np.int32)
    code = xp.where(mag < least, below, normal) | xp.where(xp.signbit(levels), sign, 0)
    return xp.where(mag > INFINITY_BITS, sign - 1, code).astype(np.uint8)


def decode(codes, zero, grid, *, kind: str, bits: int):
    """f32 levels of u8 codes: `encode` undone; codes above the largest float level are NaN."""
    xp = codes.__array_namespace__()
    if kind == "nf4":
        return xp.asarray(NF4)[codes]
    code = codes.astype(np.int32)
    half = np.int32(1 << (bits - 1))
    if kind == "float":
        mag = code & (half - 1)
        steps = (np.float32(1) / grid[2]).astype(np.int32)
        exponent, part = mag // steps, mag % steps
        whole = xp.where(exponent > 0, steps + part, part).astype(np.float32) * grid[2]
        power = (np.int32(1) << xp.clip(exponent - 1, 0, 30)).astype(np.float32)
        level = whole * (grid[1] * power)
        level = xp.where(level > grid[0], np.float32(np.nan), level)
        return xp.where(code >= half, -level, level)
    signed = xp.where(code < half, code, code - 2 * half).astype(np.float32)
    unsigned = code.astype(np.float32) + grid[0] + grid[2]
    if kind == "affine":
        return unsigned - zero
    return xp.where(grid[2] == 0, signed, unsigned)


def _numbers(grid):
    return [grid[:, k, None, None, None] for k in range(GRID_NUMBERS)]


def _turns(rng):
    for i, (x, block) in enumerate(arrays_and_blocks(rng)):
        attributes = choices_for(x, block, 5 * i + 2)
        attributes.pop("pruned")
        kind = attributes["kind"]
        grid = grids_of_kinds(rng, x, kind, attributes["scaling"])
        yield x, block, attributes | {"bits": 4 if kind == "nf4" else 8}, grid
        # Narrow codes: one grid for all items.
        narrow, bits = {
            "uniform": ((-2, 1, 0.5, 1), 2) if i % 2 else ((-3, 3, 0, 3), 3),
            "affine": ((0, 15, 0, 15), 4),
            "float": ((6, 1, 0.5, 6), 4) if i % 2 else ((28, 0.25, 0.25, 28), 6),
            "nf4": ((1, 0, 0, 1), 4),
        }[kind]
        grid = np.repeat(np.float32([[*narrow, 1]]), x.shape[0], axis=0)
        yield x, block, attributes | {"bits": bits}, grid


def _examples(rng):
    for x, _, attributes, grid in _turns(rng):
        yield (x, grid, noise_for(rng, x, attributes["rounding"])), attributes


def _groups(rng, x, block, kind):
    groups = (x.shape[0], x.shape[-1] // block)
    scale = rng.lognormal(size=groups).astype(np.float32)
    zero = rng.integers(0, 4, groups).astype(np.float32)
    return scale, zero if kind == "affine" else zero[:, :0]


def _scaled_examples(rng):
    for x, block, attributes, grid in list(_turns(rng))[::2]:
        attributes.pop("statistic")
        noise = noise_for(rng, x, attributes["rounding"])
        yield (x, *_groups(rng, x, block, attributes["kind"]), grid, noise), attributes


def _dequantize_examples(rng):
    for i, (x, block, attributes, grid) in enumerate(_turns(rng)):
        kept = {name: attributes[name] for name in ("block", "bits", "kind", "hadamard")}
        shape = _codes_shape(x, kept["bits"], kept["kind"]).shape
        codes = rng.integers(0, 256, shape).astype(np.uint8)
        attributes = kept | {"cols": x.shape[-1], "dtype": DTYPES[i % 2]}
        yield (codes, *_groups(rng, x, block, kept["kind"]), grid), attributes


@op(out=_scaled_out, examples=_scaled_examples, attributes=MAP)
def quantize_scaled(x, scale, zero, grid, noise, *, bits: int, **attributes):
    """Packed codes of x for the scales given, and where the gradient passes.

        codes = pack_bits(encode(the levels fake_quantize_scaled takes, in units of the scale))

    The codes of a group whose scale is NaN mean nothing. Only 8-bit floats have a code for a NaN
    element of a group with a finite scale; who gives scales must look for NaN in other formats.

    Args:
        x, scale, zero, grid, noise: as of `fake_quantize_scaled`.
        bits: of a code, 1 to 8.
        the other attributes: as there.

    Returns:
        codes: u8[..., ceil(cols bits / 8)], rows starting on a byte; mask: as there
    """
    kind = attributes["kind"]
    levels, flags = levels_of(x, scale, zero, grid, noise, **attributes)
    zeros = zero[:, None, :, None] if kind == "affine" else None
    codes = encode(levels, zeros, _numbers(grid), kind=kind, bits=bits).reshape(x.shape)
    return packed(codes, bits), packed_mask(x, flags)


def packed(codes, bits: int):
    """u8[..., ceil(cols bits / 8)] of u8[..., cols]: rows start on a byte."""
    lines = codes.reshape(int(np.prod(codes.shape[:-1])), codes.shape[-1])
    out = pack_bits.definition(lines & np.uint8((1 << bits) - 1), bits=bits)
    return out.reshape(*codes.shape[:-1], out.shape[-1])


def _given(x, grid, noise, *, statistic, **attributes):
    def outs(scale):
        zero = np.zeros((x.shape[0], 0), np.float32)
        codes, mask = quantize_scaled.definition(x, scale, zero, grid, noise, **attributes)
        return codes, scale, zero, mask

    return (1, outs) if statistic == "rms" else None


@op(out=_out, examples=_examples, given=_given, attributes=MAP)
def quantize(x, grid, noise, *, bits: int, statistic: str, **attributes):
    """Packed codes of x, their scales, and where the gradient passes, in one pass.

        dequantize(quantize(x)) = fake_quantize(x)    bit for bit, -0 included; NaN is NaN,
                                                      without a sign

    Args:
        x, grid, noise: as of `fake_quantize`.
        bits: of a code, 1 to 8.
        the other attributes: as there.

    Returns:
        codes: u8[..., ceil(cols bits / 8)], rows starting on a byte; scale, zero, mask: as there
    """
    scale, zero = scale_of(x, grid, statistic=statistic, pruned=False, **attributes)
    codes, mask = quantize_scaled.definition(x, scale, zero, grid, noise, bits=bits, **attributes)
    return codes, scale, zero, mask


@op(out=_dequantize_out, examples=_dequantize_examples)
def dequantize(
    codes,
    scale,
    zero,
    grid,
    *,
    block: int,
    cols: int,
    bits: int,
    kind: str,
    hadamard: int,
    dtype: str,
):
    """Values of packed codes.

        y = level(code) scale, rotated back with `hadamard`

    Args:
        codes: u8[items, rows, ceil(cols bits / 8)] or u8[items, ceil(cols bits / 8)]
        scale: f32[items, cols / block]; zero: as scale of affine grids, else f32[items, 0]
        grid: f32[items, 5], see `bitlaw.ops.grid`
        block, bits, kind, hadamard: as codes were made.
        cols: of the array.
        dtype: "float32" or "bfloat16".

    Returns:
        dtype[items, rows, cols] or [items, cols]
    """
    lines = codes.reshape(int(np.prod(codes.shape[:-1])), codes.shape[-1])
    loose = unpack_bits.definition(lines, bits=bits, n=cols).reshape(*codes.shape[:-1], cols)
    groups = groups_of(loose, block).astype(np.uint8)
    zeros = zero[:, None, :, None] if kind == "affine" else None
    level = decode(groups, zeros, _numbers(grid), kind=kind, bits=bits)
    y = (level * scale[:, None, :, None]).reshape(loose.shape)
    return rotate(y, hadamard).astype(jnp.dtype(dtype))
