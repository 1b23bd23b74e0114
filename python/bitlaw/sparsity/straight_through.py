"""Dense weights behind sparse ones: masks made anew every step, gradients straight through.

The parameters that the caller holds, and differentiates at, are the sparse ones. The dense weights
are in the state: the wrapped optimizer sees and updates those, by the gradient at the sparse ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bitlaw.sparsity.masks import BitMask
from bitlaw.sparsity.patterns import NM, Pattern, Unstructured
from bitlaw.sparsity.schedules import OneShot, Schedule
from bitlaw.sparsity.selection import (
    Select,
    Selection,
    at_update,
    is_matrix,
    mask_or_none,
    over_masks,
    selection_of,
)
from bitlaw.sparsity.targets import Distribution
from bitlaw.sparsity.updates import PrunedState, Rule, when


def ste(
    tx: optax.GradientTransformation,
    schedule: Schedule,
    select: Select = is_matrix,
    *,
    pattern: Pattern = Unstructured(),  # noqa: B008  frozen
    scope: str = "layer",
    distribution: Distribution = "uniform",
) -> optax.GradientTransformationExtraArgs:
    """`tx` on dense weights, of which after every step the largest are handed out as parameters.

        w <- w + tx(g),   parameters = mask(w) w,   g the gradient at the parameters

    The count to keep is the schedule's; which weights they are is decided at every step.

    Args:
        schedule: the sparsity, a constant one as OneShot(0.9, 0); it says when the count changes.
        pattern, scope, distribution: as in `pruned`.
    """
    selection = selection_of(select, pattern, scope, distribution)
    return _behind("ste", selection, tx, schedule, distribution)


def sr_ste(
    tx: optax.GradientTransformation,
    schedule: Schedule,
    select: Select = is_matrix,
    *,
    pattern: Pattern = Unstructured(),  # noqa: B008  frozen
    scope: str = "layer",
    distribution: Distribution = "uniform",
    decay: float = 2e-4,
) -> optax.GradientTransformationExtraArgs:
    """`ste` whose pruned weights are drawn to zero (SR-STE, arXiv:2102.04010, equation 9).

        g <- g + decay (1 - mask) w

        tx = sparsity.sr_ste(optax.adamw(1e-3), OneShot(0.5, 0), pattern=NM(2, 4))

    Args:
        schedule, pattern, scope, distribution: as in `ste`.
        decay: lambda_W of the paper.
    """
    if decay < 0:
        raise ValueError(f"decay must be at least 0, got {decay}")

    def drawn(mask, g, w):
        return g + jnp.where(mask.to_bool(), jnp.zeros_like(w), jnp.asarray(decay, w.dtype) * w)

    selection = selection_of(select, pattern, scope, distribution)
    return _behind("sr_ste", selection, tx, schedule, distribution, gradient=drawn)


def s_ste(
    tx: optax.GradientTransformation,
    n: int = 2,
    m: int = 4,
    select: Select = is_matrix,
    *,
    axis: int = -2,
) -> optax.GradientTransformationExtraArgs:
    """`ste` for n:m by a soft threshold, continuous in the weights (S-STE, arXiv:2409.09099).

        parameters = beta S(w),   S(w)_i = sign(w_i) max(|w_i| - t, 0)

    with t the (n + 1)-th largest magnitude of the group of m, and beta = sum(w S(w)) / sum(S(w)^2)
    of each array, taken once, at `init`, and frozen. A survivor equal to t in magnitude is zero.
    """
    selection = Selection(select, NM(n, m, axis))

    def handed(mask, w, beta):
        return beta.astype(w.dtype) * soft_threshold(w, mask, m, axis)

    def scale(mask, w):
        s = soft_threshold(w.astype(jnp.float32), mask, m, axis)
        square = jnp.sum(s * s)
        beta = jnp.sum(w.astype(jnp.float32) * s) / jnp.where(square > 0, square, 1)
        return jnp.where(square > 0, beta, 1)

    schedule = OneShot(1 - n / m, 0)
    return _behind("s_ste", selection, tx, schedule, "uniform", handed=handed, scale=scale)


def soft_threshold(w, mask: BitMask, m: int, axis: int):
    """sign(w) max(|w| - t, 0), t the largest magnitude of each group of m that the mask prunes."""
    pruned = jnp.where(mask.to_bool(), 0, jnp.abs(w))
    axis %= w.ndim
    grouped = (*w.shape[:axis], w.shape[axis] // m, m, *w.shape[axis + 1 :])
    t = pruned.reshape(grouped).max(axis=axis + 1, keepdims=True, initial=0)
    t = jnp.broadcast_to(t, grouped).reshape(w.shape)
    return jnp.where(mask.to_bool(), jnp.sign(w) * jnp.maximum(jnp.abs(w) - t, 0), 0)


def _behind(
    name: str,
    selection: Selection,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    distribution: Distribution,
    *,
    gradient: Callable = lambda mask, g, w: g,
    handed: Callable = lambda mask, w, _: mask.apply(w),
    scale: Callable | None = None,
) -> optax.GradientTransformationExtraArgs:
    """
    Args:
        gradient: (mask, gradient, dense weights) -> what `tx` sees.
        handed: (mask, dense weights, scale) -> the parameters.
        scale: (mask, dense weights) -> a number per leaf, frozen at `init`.
    """

    def masks_at(count, steps, keep, dense, full):
        """Masks of the dense weights by the schedule's last update; everything before it."""
        begun = jnp.sum((steps >= 0) & (steps <= count))
        scores = over_masks(lambda m, w: w, full, dense)
        make = lambda _: selection.masks(scores, at_update(keep, begun - 1))
        return when(begun > 0, make, full)

    def init(params):
        steps, keep = jax.tree.map(jnp.asarray, selection.tables(params, schedule, distribution))
        full = selection.full(params)
        dense = over_masks(lambda m, p: jnp.array(p), full, params)
        count = jnp.zeros((), jnp.int32)
        masks = masks_at(count, steps, keep, dense, full)
        scales = over_masks(scale, masks, dense) if scale else None
        rule = Rule(f"{name} {selection.pattern} {'global' if selection.together else 'layer'}")
        inner = tx.init(params)
        return PrunedState(count, steps, keep, masks, inner, None, rule, dense, scales)

    def update(updates, state: PrunedState, params: Any = None, **extra: Any):
        if params is None:
            raise ValueError(f"params must be given to the update of {name}, got None")
        behind = jax.tree.map(
            lambda w, p: p if w is None else w, state.dense, params, is_leaf=lambda x: x is None
        )
        seen = over_masks(gradient, state.masks, updates, behind)
        seen = jax.tree.map(
            lambda m, s, g: g if m is None else s, state.masks, seen, updates, is_leaf=mask_or_none
        )
        changes, inner = optax.with_extra_args_support(tx).update(
            seen, state.inner, behind, **extra
        )
        count = state.count + 1
        dense = over_masks(lambda m, w, u: w + u, state.masks, behind, changes)
        masks = masks_at(count, state.steps, state.keep, dense, selection.full(params))
        scales = state.scale if scale else over_masks(lambda m: None, masks)

        def step(m, w, beta, p):
            # p plus this is what the caller holds: exactly zero where pruned, else the target up to
            # the rounding of that sum, which does not add up: the dense weights are in the state.
            target = handed(m, w, beta)
            return jnp.where(target == 0, -p, target - p)

        steps = over_masks(step, masks, dense, scales, params)
        handed_out = jax.tree.map(
            lambda m, s, u: u if m is None else s, masks, steps, changes, is_leaf=mask_or_none
        )
        return handed_out, state._replace(count=count, masks=masks, inner=inner, dense=dense)

    return optax.GradientTransformationExtraArgs(init, update)
