"""Arrays whose axes the blocks of a quantizer do not divide: the padding leaves no trace.

Zeros change no largest value, so the array is quantized with zeros at its end, and they are cut off
again. Where the statistic counts elements, the last block is shorter instead. A run that is rotated
takes its zeros with it: they are spread over the run before a scale is taken.
"""

from __future__ import annotations

import dataclasses

from bitlaw.formats.key import derived_key
from bitlaw.formats.quantizer import Quantizer

LAST = 2**32 - 1  # the number of the key of a shorter last block


def quantized(x, quantizer, grid, pruned: bool = False, **given):
    """x through a quantizer, padded where its blocks do not divide an axis of x.

    Args:
        quantizer: called as (x, grid, pruned=..., **given).
        given: "key" and "state", of the quantizers that take them.
    """
    rest = _rest(x, quantizer)
    if not rest:
        return quantizer(x, grid, pruned=pruned, **given)
    if _counts_in_blocks(quantizer):
        return _shorter_last_block(x, quantizer, grid, pruned, min(rest), **given)
    y = quantizer(padded(x, quantizer), grid, pruned=pruned, **given)
    return y[tuple(slice(0, n) for n in x.shape)]


def padded(x, quantizer):
    """x, or x with zeros at the end of the axes that the quantizer's blocks do not divide."""
    rest = _rest(x, quantizer)
    if not rest:
        return x
    ends = [(0, -x.shape[k] % rest.get(k - x.ndim, 1)) for k in range(x.ndim)]
    return x.__array_namespace__().pad(x, ends)


def _rest(x, quantizer) -> dict[int, int]:
    """By axis, the multiples that do not divide it."""
    multiples = quantizer.multiples.items()
    return {axis: n for axis, n in multiples if x.ndim >= -axis and x.shape[axis] % n}


def _counts_in_blocks(quantizer) -> bool:
    """Whether padding would move scales: a mean over elements, or an error where 0 is no level."""
    if not isinstance(quantizer, Quantizer) or quantizer.hadamard or not quantizer.block:
        return False
    searched = quantizer.statistic == "mse_search" and quantizer.kind == "uniform"
    return quantizer.statistic == "rms" or searched


def _shorter_last_block(x, quantizer: Quantizer, grid, pruned: bool, axis: int, key=None, **given):
    """x in two parts along an axis, the second one a single block."""
    size = {-1: quantizer.tile or quantizer.block, -2: quantizer.block}[axis]
    if quantizer.scaling == "e4m3":
        raise ValueError(
            f"block must divide axis {x.ndim + axis} of x where e4m3 scales are of an rms, "
            f"got {size} and {x.shape}"
        )
    rest = x.shape[axis] % size
    name = "tile" if axis == -1 and quantizer.tile else "block"
    last_key = None if key is None else derived_key(key, LAST)
    xp = x.__array_namespace__()
    whole, last = xp.split(x, [x.shape[axis] - rest], axis=axis)
    shorter = dataclasses.replace(quantizer, **{name: rest})
    parts = [quantized(last, shorter, grid, pruned, key=last_key, **given)]
    if whole.size:
        parts.insert(0, quantized(whole, quantizer, grid, pruned, key=key, **given))
    return xp.concatenate(parts, axis=axis)
