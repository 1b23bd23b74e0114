"""Delayed scales: one per tensor, of the largest magnitudes of past steps (arXiv:2209.05433).

    scale    = max(history) / largest level        of this x where the history is all zeros
    history' = [max |x|, history[0], ..., history[n - 2]]

The history is explicit state. `delayed_fake_quantize` takes it in and gives it out; in a model it
is a leaf among the parameters whose gradient IS its new value, which the optimizer must not see but
overwrite (as the fp8 layers of flax do).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bitlaw.formats.quantizer import Quantizer

STEPS = 16  # of a history


@dataclasses.dataclass(frozen=True)
class DelayedQuantizer:
    """The structure of a quantization with delayed scales.

    Attributes:
        quantizer: the same with scales given.
        overwritten: the gradient of its state is the state's new value.
    """

    quantizer: Quantizer
    overwritten = True

    @property
    def stochastic(self) -> bool:
        return self.quantizer.stochastic

    @property
    def multiples(self) -> dict[int, int]:
        return self.quantizer.multiples

    def state(self, x, grid):
        """f32[STEPS]: a history of nothing."""
        del x, grid
        return jnp.zeros(STEPS)

    def __call__(self, x, grid, key=None, *, state, pruned: bool = False, in_place: bool = False):
        """x on the grid's levels; the gradient of `state` is the new history."""
        y, history = self.step(x, grid, key, state=state, pruned=pruned, in_place=in_place)
        return _carry(y, state, history)

    def step(self, x, grid, key=None, *, state, pruned: bool = False, in_place: bool = False):
        """(x on the grid's levels, the new history)."""
        x, grid = jnp.asarray(x), jnp.asarray(grid)
        state = jax.lax.stop_gradient(jnp.asarray(state))
        amax = self.quantizer.absmax(x)
        past = jnp.max(state)
        scale = self.quantizer.scale_of(jnp.where(past > 0, past, amax), grid)
        y = self.quantizer(x, grid, key, scale=scale, pruned=pruned, in_place=in_place)
        return y, jnp.concatenate([amax[None], state[:-1]])


@jax.custom_vjp
def _carry(y, history, new):
    return y


_carry.defvjp(lambda y, history, new: (y, new), lambda new, g: (g, new, None))


def delayed_history(steps: int = STEPS):
    """f32[steps] of zeros: the history before the first step."""
    return jnp.zeros(steps)


def delayed_fake_quantize(x, history, spec, *, key=None):
    """(x on the levels of a spec with delayed scales, the new history).

        history = bitlaw.formats.delayed_history()
        x_q, history = bitlaw.formats.delayed_fake_quantize(x, history, "e4m3/delayed")

    Args:
        x: f32 or bf16 array.
        history: f32[n]: largest magnitudes of the last n calls, the newest first.
        spec: a `QuantSpec` or its string.
        key: as of `fake_quantize`.
    Returns:
        like x; f32[n], the formulas at the top of this module.
    Raises:
        ValueError: a spec without delayed scales.
    """
    from bitlaw.formats.spec import QuantSpec

    spec = QuantSpec.parse(spec) if isinstance(spec, str) else spec
    if not isinstance(spec.structure, DelayedQuantizer):
        raise ValueError(f"spec must have delayed scales, got {spec}")
    return spec.structure.step(x, spec.grid, key, state=history)
