"""Switched fp8 (SFP8), the 8-bit weights of gemma.cpp and of Gemma 3 (arXiv:2503.19786).

A format without scales: 3 bits of mantissa from 2^-7 to 1.875, and 2 below, down to 2^-23. It is a
quantizer by name, as a user would write one:

    w=bitlaw.formats.switched:switched_fp8
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

LARGEST = np.float32(1.875)
SWITCH = np.float32(2.0**-7)
SMALLEST = np.float32(1.25 * 2.0**-23)  # the code of 2^-23 is taken by zero


def switched_fp8(x):
    """x in switched fp8, to nearest, ties to even; clamped to +-1.875.

        quantum = 2^floor(log2 |x|) / 8            / 4 below 2^-7
        x_hat   = round_half_even(x / quantum) * quantum

    Below 2^-23 it is 0 if it rounds to less, and 1.25 * 2^-23 otherwise: there are no subnormals.

    Args:
        x: f32 or bf16 array; weights of a trained model are well inside +-1.875.
    """
    wide = x.astype(jnp.float32)
    magnitude = jnp.minimum(jnp.abs(wide), LARGEST)  # NaN stays
    bits = magnitude.view(jnp.int32) & np.int32(0x7F800000)
    power = jnp.maximum(bits.view(jnp.float32), np.float32(2.0**-24))
    quantum = power * jnp.where(magnitude >= SWITCH, np.float32(1 / 8), np.float32(1 / 4))
    rounded = jnp.rint(magnitude / quantum) * quantum
    rounded = jnp.where(rounded < np.float32(2.0**-23), np.float32(0), rounded)
    rounded = jnp.where((rounded > 0) & (rounded < SMALLEST), SMALLEST, rounded)
    return jnp.copysign(rounded, wide).astype(x.dtype)


switched_fp8.bits = 8.0
