"""Arrays as real codes: packed bits and their scales."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bitlaw.formats.fake_quantization import check_finite
from bitlaw.formats.quantizer import Codes, Quantizer
from bitlaw.formats.scheme import parse_quant
from bitlaw.formats.spec import QuantSpec
from bitlaw.ops.scale import statistic_scale

_E4M3 = ml_dtypes.float8_e4m3fn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QArray:
    """An array as codes and scales: a pytree, whose leaves are all it takes in memory.

    Invariants:
        dequantize(quantize(x, spec)) == fake_quantize(x, spec), bit for bit
        nbytes == codes.nbytes + scale.nbytes + zero.nbytes + outer.nbytes
        codes.shape[-1] == ceil(cols * bits / 8): a row of codes starts on a byte

    Attributes:
        codes: u8[items, (rows,) bytes]: code i of a row in bits i b .. i b + b - 1, little-endian.
            Integers in two's complement; quest, uint and binary from 0 up; floats as OCP bit
            patterns; nf4 as the index of the level.
        scale: [items, groups], [1, 1] for a tensor: f32, bf16, or bytes (u8) of e8m0 or e4m3, as
            the spec stores scales.
        zero: u8[items, groups], the zero points of an affine format; else [items, 0].
        outer: f32[1, 1], the tensor scale of NVFP4; else [1, 0].
        spec: how it was quantized; static.
        shape, dtype: of the array it stands for; static.
    """

    codes: Any
    scale: Any
    zero: Any
    outer: Any
    spec: QuantSpec = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: str = dataclasses.field(metadata={"static": True})

    @property
    def size(self) -> int:
        """Elements of the array."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, and in a file."""
        return sum(leaf.nbytes for leaf in (self.codes, self.scale, self.zero, self.outer))


def quantize(x, spec, *, key=None, nonfinite: str = "poison") -> QArray:
    """x in codes.

        w = bitlaw.quantize(w, "int4/block32")
        w.nbytes                              # 5 bits per weight, with f32 scales
        bitlaw.dequantize(w)                  # == bitlaw.fake_quantize(w, "int4/block32")

    Args:
        x: f32 or bf16 array, numpy or JAX.
        spec: a `QuantSpec` or its string.
        key, nonfinite: as of `fake_quantize`.

    Raises:
        ValueError: what `fake_quantize` refuses; a spec without codes (a user's quantizer) or whose
            scales are not taken from x (learned, delayed).
    """
    spec = parse_quant(spec)
    if not isinstance(spec, QuantSpec) or not isinstance(spec.structure, Quantizer):
        raise ValueError(f"spec must have codes and scales of its own data, got {spec}")
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    check_finite(x, nonfinite)
    grid = jnp.asarray(spec.grid) if isinstance(x, jax.Array) else spec.grid
    found, _ = spec.structure.encode(x, grid, spec.row.bits, key, keep_mask=False)
    outer = found.grid[:, 4:] if spec.scaling == "e4m3" else found.grid[:, :0]
    scale = _stored(found.scale, outer, spec.scaling)
    zero = found.zero.astype(np.uint8)
    return QArray(found.codes, scale, zero, outer, spec, tuple(x.shape), str(x.dtype))


def dequantize(q: QArray):
    """The array that the codes stand for, in its shape and dtype: `fake_quantize(x, spec)`."""
    xp = q.codes.__array_namespace__()
    grid = xp.asarray(q.spec.grid)[None]
    if q.outer.shape[1]:
        grid = xp.concatenate([grid[:, :4], q.outer], axis=1)
    scale = _restored(q.scale, q.outer, q.spec.scaling)
    codes = Codes(q.codes, scale, q.zero.astype(np.float32), grid)
    return q.spec.structure.decode(codes, q.spec.row.bits, q.shape, q.dtype)


def _stored(scale, outer, scaling: str):
    """f32 scales in the type in which the format stores them; they are representable in it."""
    if scaling == "f32":
        return scale
    if scaling == "bf16":
        return scale.astype(ml_dtypes.bfloat16)
    if scaling == "e4m3":
        return _product(scale, outer).astype(_E4M3).view(np.uint8)
    bits = scale.view(np.int32)  # a power of two: its exponent; NaN: 255
    return (bits >> 23).astype(np.uint8)


def _restored(scale, outer, scaling: str):
    """The f32 scales of `_stored`, to the bit."""
    xp = scale.__array_namespace__()
    if scaling in ("f32", "bf16"):
        return scale.astype(np.float32)
    if scaling == "e4m3":
        return _quotient(scale.view(_E4M3).astype(np.float32), outer)
    exponent = scale.astype(np.int32)
    smallest = np.int32(0 if scaling == "pow2" else 0x00400000)  # zero, or 2^-127
    bits = xp.where(exponent == 0, smallest, exponent << 23)
    return xp.where(exponent == 255, np.int32(0x7FC00000), bits).view(np.float32)


def _product(scale, outer):
    """scale * outer by an op, as XLA would flush subnormals."""
    return _scaled(scale, _like(outer, scale), scale.__array_namespace__().ones_like(scale))


def _quotient(scale, outer):
    """scale / outer, the effective scale of a block."""
    return _scaled(scale, scale.__array_namespace__().ones_like(scale), _like(outer, scale))


def _like(outer, scale):
    return scale.__array_namespace__().broadcast_to(outer, scale.shape)


def _scaled(high, unit, span):
    """high * unit / span for each scale: items of one group each."""
    xp = high.__array_namespace__()
    flat = lambda a: a.reshape(-1, 1)
    grid = xp.concatenate([xp.zeros((high.size, 3), np.float32), flat(span), flat(span)], axis=1)
    low = xp.zeros((high.size, 0), np.float32)
    scale, _ = statistic_scale(flat(high), low, flat(unit), grid, kind="uniform", scaling="f32")
    return scale.reshape(high.shape)
