"""Pruning as optax transformations, around any optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bitlaw.sparsity.masks import BitMask
from bitlaw.sparsity.patterns import Pattern, Unstructured
from bitlaw.sparsity.schedules import OneShot, Schedule
from bitlaw.sparsity.scores import score_of
from bitlaw.sparsity.selection import (
    Select,
    after,
    at_update,
    is_matrix,
    mask_or_none,
    one_of,
    over_masks,
    scores_of,
    selection_of,
)
from bitlaw.sparsity.targets import Distribution

try:
    import optax
except ImportError as error:
    raise ImportError("bitlaw.sparsity needs optax: pip install 'bitlaw[train]'") from error

MOMENTS = ("keep", "mask", "reset_regrown")
GRADS = ("dense", "masked")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rule:
    """What the masks of a state follow: a part of its structure, so a checkpoint of another is
    refused."""

    text: str


class PrunedState(NamedTuple):
    """State of a pruning transformation. The schedule is data: one compiled step serves all.

    Attributes:
        count: i32[], updates of the optimizer so far.
        steps: i32[table], the steps of the mask updates; padding is -1.
        keep: one i32[table] per pruned leaf, its keep counts, None elsewhere; with scope "global"
            one i32[table] for all.
        masks: one BitMask per pruned leaf; None elsewhere.
        inner: the wrapped optimizer's state; with moments="reset_regrown", right after an update of
            the masks, still with the old moments of what `regrown` names.
        key: random key data, u32[...], of what is drawn at updates; else None.
        rule: method, pattern, scope: static.
        dense: one array per pruned leaf, the dense weights behind the masks, for `ste` and its kin;
            else None.
        scale: one f32[] per pruned leaf, the frozen scale of `s_ste`; else None.
        regrown: one BitMask per pruned leaf, the weights that the last update brought back, whose
            moments the next step begins by zeroing; None unless moments="reset_regrown".
    """

    count: Any
    steps: Any
    keep: Any
    masks: Any
    inner: Any
    key: Any
    rule: Rule
    dense: Any = None
    scale: Any = None
    regrown: Any = None


def pruned(
    tx: optax.GradientTransformation,
    schedule: Schedule,
    select: Select = is_matrix,
    *,
    pattern: Pattern = Unstructured(),  # noqa: B008  frozen
    scope: str = "layer",
    distribution: Distribution = "uniform",
    normalize: str | None = None,
    scores: str | Callable = "magnitude",
    moments: str = "keep",
    grads: str = "dense",
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """`tx` with pruning along a schedule: after every update pruned weights are exactly zero.

    At each step of the schedule a leaf keeps its largest new |scores|, counted exactly; between
    updates the mask stays. What is pruned does not regrow while the sparsity rises (the recipe of
    arXiv:2309.08520); where it falls (AC/DC) weights come back from zero. Updates are added by the
    caller, so a weight that is NaN or infinite stays so, pruned or not.

        tx = sparsity.pruned(optax.adamw(1e-3), Cubic(0.75, begin=250, end=750, every=10))
        tx = sparsity.pruned(tx, Cubic(0.5, 250, 750), pattern=sparsity.NM(2, 4))

    Under jit, unstructured masks of leaves that are sharded gather the scores at every update of
    the masks, in both scopes: whole copies, with scope "layer" one leaf's after the other. Between
    updates nothing is gathered. What never gathers is `global_masks` with axis_name, in shard_map;
    of one leaf it is that leaf's mask.

    Args:
        tx: any optax transformation whose updates are added to the parameters.
        schedule: when to prune and how far.
        select: (path, leaf) -> whether to prune it; by default every leaf of two or more axes.
        pattern: Unstructured(), NM(n, m), Block(rows, cols) or Channel().
        scope: "layer", or "global": one count for all leaves together, unstructured or n:m.
        distribution: of the sparsity over the leaves, see `distribute`; with scope "layer".
        normalize: of the leaves with scope "global", unstructured, see `global_masks`.
        scores: "magnitude", "saliency" (|w g|), "random", or a function (weights, gradients) ->
            scores.
        moments: of `tx` for pruned weights: "keep" leaves them alone, "mask" zeroes them at every
            step, "reset_regrown" those of a weight that comes back, before its first step.
        grads: "dense" hands `tx` the whole gradient, "masked" that of the kept weights.
        seed: of random scores.
    """
    selection = selection_of(select, pattern, scope, distribution, normalize)
    one_of("moments", moments, MOMENTS)
    one_of("grads", grads, GRADS)
    score = score_of(scores)

    def refreshed(masks, counts, params, gradients, key):
        # What is pruned competes as zero: its update of this step would revive it.
        scored = scores_of(score, masks, params, gradients, key)
        competing = lambda m, s: jnp.where(m.to_bool(), s, jnp.zeros_like(s))
        scored = over_masks(competing, masks, scored)
        return selection.masks(scored, counts, one_by_one=True)

    def init(params):
        steps, keep = jax.tree.map(jnp.asarray, selection.tables(params, schedule, distribution))
        masks = selection.full(params)
        key = jax.random.key_data(jax.random.key(seed))
        if schedule.is_update(0):
            masks = refreshed(masks, at_update(keep, 0), params, None, key)
        rule = Rule(f"pruned {pattern} {scope}")
        count, regrown = jnp.zeros((), jnp.int32), none_regrown(masks, moments)
        inner = tx.init(params)
        return PrunedState(count, steps, keep, masks, inner, key, rule, regrown=regrown)

    def update(updates, state, params=None, **extra):
        return masked_update(
            tx, refreshed, updates, state, params, extra, moments=moments, grads=grads
        )

    return optax.GradientTransformationExtraArgs(init, update)


def static(
    tx: optax.GradientTransformation, sparsity: float, select: Select = is_matrix, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """`pruned` once, before the first step: a fixed mask (`prune` the parameters after `init`).

    Args:
        sparsity: in [0, 1).
        **options: of `pruned`; scores="random" for a random mask.
    """
    return pruned(tx, OneShot(sparsity, 0), select, **options)


def masked_update(
    tx, refreshed, updates, state: PrunedState, params, extra, *, moments: str, grads: str
):
    """(updates, state) of one step: `tx`, the masks where they are due, zeros where they say so.

    Args:
        refreshed: (masks, counts, new parameters, gradients, key) -> masks.
    """
    if params is None:
        raise ValueError("params must be given to the update of pruned, got None")
    gradients = updates
    if grads == "masked":
        keep = lambda m, g: jnp.where(m.to_bool(), g, jnp.zeros_like(g))
        updates = over_masks(keep, state.masks, updates, last=True)
    run = optax.with_extra_args_support(tx).update
    before = state.inner
    if moments == "reset_regrown":
        # Not in the step that regrew them: all updates would be alive at once beside the moments.
        zeroed = lambda m, x: jnp.where(m.to_bool(), jnp.zeros_like(x), x)
        was_due = (state.steps == state.count).any()
        before = when(was_due, lambda x: on_moments(zeroed, x, state.regrown), before)
    count = state.count + 1
    due = state.steps == count
    key = jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(state.key), count))

    def refresh(masks):
        # Computed here and again below: handed in, it would be written to memory at every step.
        change, _ = run(updates, before, params, **extra)
        new = jax.tree.map(lambda p, u: p + u, params, change)
        counts = at_update(state.keep, jnp.argmax(due))
        new = refreshed(masks, counts, new, gradients, key)
        return new, _combined(jnp.bitwise_and, new, masks)

    masks, kept = when(due.any(), lambda now: refresh(now[0]), (state.masks, state.masks))
    updates, inner = run(_after(masks, updates), before, params, **extra)

    def masked(m, p, u):
        # The sum p + u is what the caller forms: -p makes it exactly zero. What regrows is zero
        # already, and starts so.
        return jnp.where(m.to_bool(), u, -p)

    updates = over_masks(masked, kept, params, updates, last=True)
    if moments == "mask":
        zeroed = lambda m, x: jnp.where(m.to_bool(), x, jnp.zeros_like(x))
        inner = on_moments(zeroed, inner, masks)
    regrown = state.regrown
    if moments == "reset_regrown":
        regrown = _combined(lambda one, other: one & ~other, masks, kept)
    return updates, state._replace(count=count, masks=masks, inner=inner, regrown=regrown)


def none_regrown(masks, moments: str):
    """The `regrown` of a new state."""
    if moments != "reset_regrown":
        return None
    return over_masks(lambda m: BitMask(jnp.zeros_like(m.bits), m.shape), masks)


def _combined(function: Callable, masks, others):
    """Masks of function(bits, bits of the other)."""
    return over_masks(lambda m, o: BitMask(function(m.bits, o.bits), m.shape), masks, others)


def when(due, change: Callable, x: Any) -> Any:
    """change(x) if due, else x: a loop of one turn or none.

    What is inside a conditional XLA's CPU backend runs on one thread, what is in a loop on all.
    """
    step = lambda carry: (jnp.zeros_like(due), change(carry[1]))
    return jax.lax.while_loop(lambda carry: carry[0], step, (due, x))[1]


def _after(masks, gradients):
    """The gradients, as something that is computed after the masks.

    Else XLA sees no order between the refresh, which reads the old moments, and their update, and
    copies them at every step: that took three times the bare step.
    """
    made = [m for m in jax.tree.leaves(masks, is_leaf=mask_or_none) if m is not None]
    return jax.tree.map(lambda g: after(made[0], g), gradients) if made else gradients


def on_moments(function: Callable, inner, masks):
    """function(mask, array) of every array in an optimizer's state that belongs to a pruned leaf:

    its path ends with the leaf's, and it has the leaf's shape.
    """
    by_path: dict[tuple, BitMask] = {}
    for path, m in jax.tree_util.tree_leaves_with_path(masks, is_leaf=mask_or_none):
        if m is not None:
            by_path[path] = m

    def moment(path, x):
        for begin in range(len(path) + 1):  # the longest suffix first
            m = by_path.get(path[begin:])
            if m is not None and m.shape == jnp.shape(x):
                return function(m, x)
        return x

    return jax.tree_util.tree_map_with_path(moment, inner)


def masks_of(state: Any) -> Any:
    """The masks in an optimizer state that holds a `PrunedState` at any depth."""
    return pruned_state(state).masks


def pruned_state(state: Any) -> PrunedState:
    """The one `PrunedState` in an optimizer's state."""
    is_pruned = lambda s: isinstance(s, PrunedState)
    found = [s for s in jax.tree.leaves(state, is_leaf=is_pruned) if is_pruned(s)]
    if len(found) != 1:
        raise ValueError(f"state must hold one PrunedState, got {len(found)}")
    return found[0]


def prune(params: Any, state: Any) -> Any:
    """Parameters with the masks of an optimizer's state applied: +0 where pruned.

    For what is pruned before the first step: `update` does it from then on.
    """
    apply = lambda m, p: p if m is None else m.apply(p)
    return jax.tree.map(apply, masks_of(state), params, is_leaf=mask_or_none)
