"""One array through a spec and back in float: the public door to the quantizers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from bitlaw.formats.padding import quantized
from bitlaw.formats.scheme import parse_quant

NONFINITE = ("poison", "raise")


def fake_quantize(
    x, spec, *, key=None, pad: bool = False, nonfinite: str = "poison", in_place: bool = False
):
    """x on the levels of `spec`, in x's shape and dtype, with the spec's straight-through gradient.

        w_q = bitlaw.fake_quantize(w, "int4/channel")
        a_q = bitlaw.fake_quantize(a, "mxfp4/stochastic", key=key)

        scale = what the rule takes from the elements that share it, as the format stores it
        x_hat = level(round(x / scale)) * scale      to the bit: `bitlaw.ops.quantize`
        dx    = g where the estimator passes it, else 0

    Args:
        x: f32 or bf16 array; numpy arrays go through the compiled numpy function, JAX arrays
            through the custom call (also under jit, grad, vmap and sharding).
        spec: a `QuantSpec`, a `UserSpec`, or their string.
        key: u32[2] or a jax key; where values are rounded stochastically.
        pad: where blocks do not divide their axis, x is padded; the padding takes no part in the
            scales nor in the result (with a Hadamard it is rotated with its run).
        nonfinite: "poison" makes the whole group of a NaN or an infinity NaN (an element format
            with a NaN keeps it per element); "raise" refuses x, under jit by
            `jax.experimental.checkify`, whose `checkify` the function must then go through.
        in_place: x's memory may be reused; pays where x is donated or not used again.

    Raises:
        ValueError: a bad spec, dtype, or a block that does not divide its axis; no key; x that is
            not finite where that is to be raised; learned or delayed scales, which are parameters
            or state: `learned_fake_quantize`, `delayed_fake_quantize`.
    """
    spec = parse_quant(spec)
    if hasattr(spec.structure, "state"):
        raise ValueError(
            f"spec must not have {spec.rule} scales here, got {spec}: use "
            f"bitlaw.formats.{spec.rule}_fake_quantize, which takes them"
        )
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    check_finite(x, nonfinite)
    if pad:
        y = quantized(x, spec.structure, spec.grid, key=key)
    else:
        y = spec.structure(x, spec.grid, key, in_place=in_place)
    return y if isinstance(x, jax.Array) else np.asarray(y)


def check_finite(x, nonfinite: str) -> None:
    """Refuses x with a NaN or an infinity in it where `nonfinite` is "raise"."""
    if nonfinite not in NONFINITE:
        raise ValueError(f"nonfinite must be one of {', '.join(NONFINITE)}, got {nonfinite!r}")
    if nonfinite == "poison":
        return
    message = "x must be finite, got {} NaN or infinite elements"
    if not isinstance(x, jax.Array):
        found = x.size - np.count_nonzero(np.isfinite(x))
        if found:
            raise ValueError(message.format(found))
        return
    found = jnp.sum(~jnp.isfinite(jax.lax.stop_gradient(x)))
    checkify.check(found == 0, message, found)
