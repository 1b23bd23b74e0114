"""Pruning as optax transformations, around any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.sparsity.masks import BitMask, top_k_mask
from bitlaw.sparsity.schedules import Cubic

try:
    import optax
except ImportError as error:
    raise ImportError("bitlaw.sparsity needs optax: pip install 'bitlaw[train]'") from error

# Tables are padded to a multiple of this, so that schedules of like length share one program.
_TABLE = 64


class PrunedState(NamedTuple):
    """State of `pruned`. The schedule is data: one compiled step serves every schedule.

    Attributes:
        count: i32[], updates of the optimizer so far.
        steps: i32[table], the steps of the mask updates; padding is -1.
        keep: one i32[table] per pruned leaf, its keep counts; None elsewhere.
        masks: one BitMask per pruned leaf; None elsewhere.
        inner: the wrapped optimizer's state.
    """

    count: Any
    steps: Any
    keep: Any
    masks: Any
    inner: Any


def _matrices(path: tuple, leaf: Any) -> bool:
    del path
    return jnp.ndim(leaf) >= 2


def pruned(
    tx: optax.GradientTransformation,
    schedule: Cubic,
    select: Callable[[tuple, Any], bool] = _matrices,
) -> optax.GradientTransformation:
    """`tx` with gradual magnitude pruning: after every update pruned weights are exactly zero.

    At each step of the schedule a leaf keeps its largest new magnitudes, counted exactly; between
    updates the mask stays. What is pruned does not regrow (the recipe of arXiv:2309.08520). The
    moments of `tx` see the dense gradient and are left alone. Updates are added by the caller, so a
    weight that is NaN or infinite stays so, pruned or not.

        tx = sparsity.pruned(optax.adamw(1e-3), Cubic(0.75, begin=250, end=750, every=10))

    Args:
        tx: any optax transformation whose updates are added to the parameters.
        schedule: when to prune and how far.
        select: (path, leaf) -> whether to prune it; by default every leaf of two or more axes.
    """

    def init(params):
        def keep(path, leaf):
            if not select(path, leaf):
                return None
            if leaf.size >= 2**31:
                name = jax.tree_util.keystr(path)
                raise ValueError(f"leaf {name} must have fewer than 2^31 elements, got {leaf.size}")
            return _padded(schedule.keep_counts(leaf.size), edge=True)

        keeps = jax.tree_util.tree_map_with_path(keep, params)

        def first(k, p):
            if k is None:
                return None
            return top_k_mask(p, k[0]) if schedule.is_update(0) else BitMask.ones(p.shape)

        masks = jax.tree.map(first, keeps, params, is_leaf=_none)
        steps = _padded(schedule.steps(), edge=False)
        return PrunedState(jnp.zeros((), jnp.int32), steps, keeps, masks, tx.init(params))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("params must be given to the update of pruned, got None")
        updates, inner = optax.with_extra_args_support(tx).update(
            updates, state.inner, params, **extra
        )
        count = state.count + 1
        due = state.steps == count
        index = jnp.argmax(due)

        def refresh(masks):
            def leaf(k, m, p, u):
                # What is pruned competes as zero: its update of this step would revive it.
                return None if k is None else top_k_mask(m.apply(p + u), k[index])

            return jax.tree.map(leaf, state.keep, masks, params, updates, is_leaf=_none)

        masks = jax.lax.cond(due.any(), refresh, lambda masks: masks, state.masks)

        def masked(m, p, u):
            # The sum p + u is what the caller forms: -p makes it exactly zero.
            return u if m is None else jnp.where(m.to_bool(), u, -p)

        updates = jax.tree.map(masked, masks, params, updates, is_leaf=_mask_or_none)
        return updates, PrunedState(count, state.steps, state.keep, masks, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def masks_of(state: Any) -> Any:
    """The masks in an optimizer state that holds a `PrunedState` at any depth."""
    found = [
        s
        for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, PrunedState))
        if isinstance(s, PrunedState)
    ]
    if len(found) != 1:
        raise ValueError(f"state must hold one PrunedState, got {len(found)}")
    return found[0].masks


def _padded(table: np.ndarray, edge: bool) -> jax.Array:
    spare = -len(table) % _TABLE
    padding = np.full(spare, table[-1] if edge else -1)
    return jnp.asarray(np.concatenate([table, padding]), jnp.int32)


def _none(x: Any) -> bool:
    return x is None


def _mask_or_none(x: Any) -> bool:
    return x is None or isinstance(x, BitMask)
