"""Tokens to experts and back, with a capacity per expert or without one.

    plan = dispatch.plan(expert, gate, experts=8, capacity=dispatch.capacity(tokens, 2, 8, 1.25))
    y = dispatch.combine(run_experts(dispatch.gather(x, plan)), gate, plan)

    plan = dispatch.dropless(expert, experts=8)
    y = jax.lax.ragged_dot(dispatch.gather(x, plan), weights, plan.count)
    y = dispatch.combine(y, gate, plan)

All functions are of one group of tokens; `jax.vmap` them for more. Forward and backward only
gather: no scatter, so no sum whose order a device could choose.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.ops.dispatch import check_range, dispatch_plan, dispatch_sort
from bitlaw.packing.plan import as_array, integer, kind_of


class Dispatch(NamedTuple):
    """Where tokens go.

    Attributes:
        slot: i32[tokens, k], the slot of a token's choice in the flattened slots; -1 for none.
        source: i32[experts, capacity], or i32[tokens * k] without a capacity: token * k + choice;
            -1 for an empty slot.
        count: i32[experts], what each expert was assigned, before the cut at capacity.
    """

    slot: jax.Array
    source: jax.Array
    count: jax.Array

    @property
    def dropped(self) -> jax.Array:
        """How many assignments to an expert found no slot."""
        return self.count.sum() - (self.slot >= 0).sum()


def capacity(tokens: int, k: int, experts: int, factor: float) -> int:
    """Slots of each expert: ceil(factor tokens k / experts), at least 1.

    The capacity factor of Switch Transformers (arXiv:2101.03961, equation 3).
    """
    try:
        by = math.nan if isinstance(factor, str) else float(factor)
    except (TypeError, ValueError):
        by = math.nan
    if not 0 < by < math.inf:
        raise ValueError(f"factor must be positive and finite, got {factor!r}")
    tokens, k = integer("tokens", tokens, 0), integer("k", k, 1)
    return max(1, math.ceil(by * tokens * k / integer("experts", experts, 1)))


def plan(expert, gate, *, experts: int, capacity: int, priority: str = "choice") -> Dispatch:
    """Slots of experts with a fixed capacity; see `ops.dispatch.dispatch_plan` for the priorities.

    Args:
        expert: i32[tokens, k] in [-1, experts); -1 asks for no slot, as padding should.
        gate: f32[tokens, k]; orders the tokens under priority "gate", a NaN last.
        experts: number of experts.
        capacity: slots of each expert.
        priority: whose assignments are dropped last: "token", "choice" or "gate".
    """
    experts = integer("experts", experts, 1)
    expert, gate = _choices(expert, experts), _array("gate", gate, "biufV")
    if gate.shape != expert.shape:
        raise ValueError(f"gate must be {list(expert.shape)}, got {list(gate.shape)}")
    gate = gate.astype(jnp.float32)
    slot, source, count = dispatch_plan(
        expert[None], gate[None], experts=experts, capacity=capacity, priority=priority
    )
    return Dispatch(slot[0], source[0].reshape(experts, capacity), count[0])


def dropless(expert, *, experts: int) -> Dispatch:
    """Assignments sorted by expert: `gather` gives the lhs, `count` the sizes of `ragged_dot`.

    Args:
        expert: i32[tokens, k] in [-1, experts); -1 asks for no slot.
        experts: number of experts.
    """
    experts = integer("experts", experts, 1)
    slot, source, count = dispatch_sort(_choices(expert, experts)[None], experts=experts)
    return Dispatch(slot[0], source[0], count[0])


def gather(x, plan: Dispatch) -> jax.Array:
    """Every slot's token.

        y[s] = x[source[s] // k], and 0 in an empty slot

    Args:
        x: [tokens, d]

    Returns:
        [experts, capacity, d], or [tokens * k, d] without a capacity
    """
    _check_plan(plan)
    x = _array("x", x)
    if x.ndim != 2 or x.shape[0] != plan.slot.shape[0]:
        raise ValueError(f"x must be [{plan.slot.shape[0]}, d], got {list(x.shape)}")
    return _gather(x, plan)


def combine(y, gate, plan: Dispatch) -> jax.Array:
    """Every token's choices, weighted.

        out[t] = sum over j of gate[t, j] y[slot[t, j]]        a dropped choice adds 0

    Args:
        y: [*slots, d], as `gather` gives them.
        gate: [tokens, k]

    Returns:
        [tokens, d]
    """
    _check_plan(plan)
    y, gate = _array("y", y), _array("gate", gate)
    if y.shape[:-1] != plan.source.shape:
        raise ValueError(f"y must be {[*plan.source.shape]} x d, got {list(y.shape)}")
    if gate.shape != plan.slot.shape:
        raise ValueError(f"gate must be {list(plan.slot.shape)}, got {list(gate.shape)}")
    return _combine(y.reshape(-1, y.shape[-1]), gate, plan)


def _array(name: str, given, kinds: str = "biufVc") -> jax.Array:
    """The given as a JAX array, of a kind of numbers (V is bfloat16 and the like)."""
    array = _as_any_array(name, "an array", given)
    if getattr(array.dtype, "kind", "") not in kinds:  # keys have none
        raise ValueError(f"{name} must be numbers, got {array.dtype}{list(array.shape)}")
    return jnp.asarray(array)


def _as_any_array(name: str, expected: str, given):
    """The given as an array of numpy's, or of JAX's where it is one or has traced values."""
    if isinstance(given, jax.Array):
        return given
    try:
        return as_array(name, expected, given)
    except jax.errors.TracerArrayConversionError:
        return jnp.asarray(given)


def _choices(expert, experts: int) -> jax.Array:
    expert = _as_any_array("expert", "i32[tokens, k]", expert)
    if expert.ndim != 2 or expert.dtype.kind not in "iu":
        raise ValueError(f"expert must be i32[tokens, k], got {expert.dtype}{list(expert.shape)}")
    if isinstance(expert, np.ndarray):
        check_range(expert, experts)
        return jnp.asarray(expert.astype(np.int32))
    if expert.dtype == jnp.int32:
        return expert
    # What 32 bits do not hold must not wrap round to an expert that exists: the kernel refuses
    # -2 and 2^31 - 1, as it does all other experts that do not exist.
    kind = np.iinfo(expert.dtype)
    return jnp.clip(expert, max(-2, kind.min), min(2**31 - 1, kind.max)).astype(jnp.int32)


def _check_plan(plan) -> None:
    if not isinstance(plan, Dispatch):
        raise ValueError(f"plan must be a Dispatch, got {kind_of(plan)}")


def _rows(x, index):
    """x[index], and 0 where the index is -1."""
    if not x.shape[0]:
        return jnp.zeros((*index.shape, x.shape[1]), x.dtype)
    return jnp.where((index >= 0)[..., None], x[jnp.maximum(index, 0)], 0)


def _token(plan: Dispatch):
    return plan.source // plan.slot.shape[1]  # -1 stays -1: the quotient is rounded down


@jax.custom_vjp
def _gather(x, plan):
    return _rows(x, _token(plan))


def _gather_forward(x, plan):
    return _gather(x, plan), plan


def _gather_backward(plan, dy):
    # A token's gradient is the sum over its slots: a gather where XLA's own rule would scatter.
    dx = _rows(dy.reshape(-1, dy.shape[-1]), plan.slot)
    return dx.sum(1, dtype=jnp.float32).astype(dy.dtype), None


_gather.defvjp(_gather_forward, _gather_backward)


@jax.custom_vjp
def _combine(y, gate, plan):
    weighted = _rows(y, plan.slot) * gate[..., None]
    return weighted.sum(1, dtype=jnp.promote_types(weighted.dtype, jnp.float32)).astype(y.dtype)


def _combine_forward(y, gate, plan):
    return _combine(y, gate, plan), (y, gate, plan)


def _combine_backward(kept, dout):
    y, gate, plan = kept
    source = plan.source.reshape(-1)
    weight = _rows(gate.reshape(-1, 1), source)
    dy = (_rows(dout, _token(plan).reshape(-1)) * weight).astype(y.dtype)
    dots = (_rows(y, plan.slot) * dout[:, None]).sum(-1, dtype=jnp.float32)
    return dy, dots.astype(gate.dtype), None


_combine.defvjp(_combine_forward, _combine_backward)
