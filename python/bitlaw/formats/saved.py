"""How much a function keeps for its backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax


def saved_bytes(fn: Callable, *args) -> int:
    """Bytes that `fn(*args)` keeps between its forward and its backward pass.

        bitlaw.saved_bytes(lambda x: bitlaw.fake_quantize(x, "quest4/row"), x)
        # x.size / 8 and a grid: one bit per element

    Nothing is computed: the residuals of `jax.vjp` are counted in the traced program, each array
    once. An argument that is kept counts too, as it cannot be freed. XLA may keep less, where it
    recomputes.

    Args:
        fn: a differentiable function of pytrees of arrays.
        args: arrays, or `jax.ShapeDtypeStruct`s.
    """

    def residuals(*args):
        _, pull = jax.vjp(fn, *args)
        return jax.tree.leaves(pull)

    kept = {id(v): v.aval for v in jax.make_jaxpr(residuals)(*args).jaxpr.outvars}
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in kept.values())
