"""Learned scales: parameters beside the array, with gradients of their own.

LSQ (arXiv:1902.08153), LSQ+ (arXiv:2004.09576), which learns a zero point too, and PACT
(arXiv:1805.06085), which learns the clip alpha of an unsigned range. With v = x / scale + zero and
code = clamp(round(v)):

    lsq, lsq_plus   d scale = c sum g (code - v)  inside, c sum g (qmin or qmax, less zero) outside
    lsq_plus        d zero  = -c scale sum g      outside
    pact            d alpha = sum of g where x >= alpha;   scale = alpha / qmax

and dx = g inside. c = 1 / sqrt(n qmax) for n elements per scale, as LSQ sets it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.formats.key import key_words
from bitlaw.formats.quantizer import Quantizer
from bitlaw.ops import learned, quantize


@dataclasses.dataclass(frozen=True)
class LearnedQuantizer:
    """The structure of a quantization with learned scales.

    Attributes:
        quantizer: the same with scales given.
        estimator: "lsq", "lsq_plus" or "pact".
    """

    quantizer: Quantizer
    estimator: str

    @property
    def stochastic(self) -> bool:
        return self.quantizer.stochastic

    @property
    def multiples(self) -> dict[int, int]:
        return self.quantizer.multiples

    def first_scale(self, x, grid):
        """{"scale": f32[items, groups], "zero": the same} to begin with, from data.

            lsq        2 mean|x| / sqrt(qmax)                     (section 2.1 of the paper)
            lsq_plus   of the range: (max(x, 0) - min(x, 0)) / (qmax - qmin), and its zero point
            pact       alpha = max(x, 0)

        A tensor has one group: [1, 1]; other granularities those of the ops' layout.
        """
        x = jax.lax.stop_gradient(jnp.asarray(x)).astype(jnp.float32)
        groups = self._grouped(x)
        qmin, qmax = grid[0], grid[1]
        if self.estimator == "lsq":
            mean = jnp.abs(groups).mean(axis=(1, 3))
            return {"scale": _positive(2 * mean / jnp.sqrt(jnp.maximum(qmax, 1)))}
        high = jnp.maximum(groups.max(axis=(1, 3)), 0)
        if self.estimator == "pact":
            return {"scale": _positive(high / qmax)}
        low = jnp.minimum(groups.min(axis=(1, 3)), 0)
        scale = _positive((high - low) / (qmax - qmin))
        return {"scale": scale, "zero": jnp.round(qmin - low / scale)}

    def _grouped(self, x):
        """f32[items, rows, groups, block]; the whole tensor is one group."""
        shape, block = self.quantizer.layout(x.shape)
        if self.quantizer.granularity == "tensor":
            return x.reshape(1, -1, 1, shape[-1])
        rows = shape[1] if len(shape) == 3 else 1
        return self.quantizer.view(x).reshape(shape[0], rows, shape[-1] // block, block)

    def state(self, x, grid):
        """The first state of a model: `first_scale` with the scale's logarithm in its place.

        An optimizer with steps of a fixed size, as Adam's, then moves scales by shares of
        themselves.
        """
        first = self.first_scale(x, grid)
        return first | {"scale": jnp.log(first["scale"])}

    def __call__(self, x, grid, key=None, *, state, pruned: bool = False, in_place: bool = False):
        """x on the grid's levels; the state gets its gradients.

        Args:
            state: as `self.state` makes it.
        """
        scales = state | {"scale": jnp.exp(state["scale"])}
        return self.apply(x, grid, scales, key, pruned=pruned)

    def apply(self, x, grid, scales: dict[str, Any], key=None, *, pruned: bool = False):
        """x on the grid's levels with the scales given, which get their gradients."""
        if self.stochastic and key is None:
            raise ValueError("key must be given for stochastic rounding, got None")
        words = None if key is None else key_words(key)
        x, grid = jnp.asarray(x), jnp.asarray(grid)
        return _learned(self, pruned, x, grid, words, scales)

    def operands(self, x, grid, key, scales):
        """(x, scale, zero, grid, noise) as the op takes them, and its block."""
        q = self.quantizer
        _, block = q.layout(x.shape)
        flat = q.view(x)
        items, rows, groups = flat.shape[0], math.prod(flat.shape[1:-1]), flat.shape[-1] // block
        shape = (items, groups)
        scale = jnp.broadcast_to(_positive(scales["scale"]), shape)
        zero = jnp.zeros((items, 0))
        if q.kind == "affine":
            point = jnp.clip(jnp.round(scales.get("zero", jnp.zeros((1, 1)))), grid[0], grid[1])
            zero = jnp.broadcast_to(point, shape)
        noise = q.noise(key, items, rows, jnp)
        return (flat, scale, zero, jnp.broadcast_to(grid, (items, 5)), noise), block

    def gradients(self, x, grid, scales, g, pruned: bool):
        """(dx, gradients of the scales): the formulas at the top."""
        q = self.quantizer
        (flat, scale, zero, grids, _), block = self.operands(x, grid, None, scales)
        dx, sums = learned.learned_gradient(
            q.view(g),
            flat,
            scale,
            zero,
            grids,
            block=block,
            estimator=self.estimator,
            pruned=pruned,
        )
        per_scale = block * math.prod(flat.shape[1:-1])
        if q.granularity == "tensor":  # one scale for the groups of all items
            sums, per_scale = sums.sum(axis=0, keepdims=True), x.size
        if self.estimator != "pact":
            sums = sums * jax.lax.rsqrt(per_scale * grid[1])
        names = ("scale", "zero")[: sums.shape[1]]
        return q.unview(dx, x.shape), {name: sums[:, k] for k, name in enumerate(names)}


def _positive(scale):
    """A scale never reaches zero: the smallest normal number instead."""
    return jnp.maximum(scale, np.float32(2.0**-126))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _learned(q: LearnedQuantizer, pruned: bool, x, grid, key, scales):
    operands, block = q.operands(x, grid, key, scales)
    attributes = q.quantizer.attributes() | {"estimator": "identity"}
    y, _ = quantize.fake_quantize_scaled(*operands, block=block, pruned=pruned, **attributes)
    return q.quantizer.unview(y, x.shape)


def _learned_fwd(q: LearnedQuantizer, pruned: bool, x, grid, key, scales):
    return _learned(q, pruned, x, grid, key, scales), (x, grid, scales)


def _learned_bwd(q: LearnedQuantizer, pruned: bool, saved, g):
    x, grid, scales = saved
    dx, found = q.gradients(x, grid, scales, g, pruned)
    return dx, None, None, found


_learned.defvjp(_learned_fwd, _learned_bwd)


def learned_scales(x, spec) -> dict[str, Any]:
    """The first scales of a spec with learned scales, from data: parameters to be trained.

        scales = bitlaw.formats.learned_scales(w, "int4/channel/learned")

    Args:
        x: f32 or bf16 array.
        spec: a `QuantSpec` or its string.
    Returns:
        {"scale": f32[items, groups]} and, for lsq_plus, "zero": see `LearnedQuantizer.first_scale`.
    Raises:
        ValueError: a spec without learned scales; a block that does not divide its axis.
    """
    spec = _checked(spec)
    return spec.structure.first_scale(x, jnp.asarray(spec.grid))


def learned_fake_quantize(x, scales: dict[str, Any], spec, *, key=None):
    """x on the levels of a spec with learned scales; gradients reach x and the scales.

        w_q = bitlaw.formats.learned_fake_quantize(w, scales, "int4/channel/learned")

    Args:
        x: f32 or bf16 array.
        scales: as `learned_scales` made them, and an optimizer has moved them.
        spec: a `QuantSpec` or its string; its estimator, lsq, lsq_plus or pact, says which of the
            gradients at the top of this module the scales get.
        key: as of `fake_quantize`.
    Raises:
        ValueError: as of `learned_scales`.
    """
    spec = _checked(spec)
    return spec.structure.apply(x, spec.grid, scales, key)


def _checked(spec):
    from bitlaw.formats.spec import QuantSpec

    spec = QuantSpec.parse(spec) if isinstance(spec, str) else spec
    if not isinstance(spec.structure, LearnedQuantizer):
        raise ValueError(f"spec must have learned scales, got {spec}")
    return spec
