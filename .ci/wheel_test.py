"""One op from the wheel, as a stranger would install it; the CUDA module too, if it is in there."""

import os

import jax.numpy as jnp

import bitlaw

y = bitlaw.fake_quantize(jnp.linspace(-1, 1, 64).reshape(8, 8), "int4/row")
assert len(set(y[0].tolist())) <= 15, y
print("wheel: fake_quantize works with jax and numpy alone")
if os.environ.get("CUDA", "none") != "none":
    from bitlaw import _cuda  # without a driver

    print(f"wheel: {len(_cuda.ops)} ops with CUDA kernels")
