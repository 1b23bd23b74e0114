"""Sparse from start to end: the smallest weights are dropped and as many regrown elsewhere."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitlaw.ops import schedule
from bitlaw.sparsity.masks import BitMask, top_k_mask
from bitlaw.sparsity.patterns import Unstructured
from bitlaw.sparsity.schedules import OneShot
from bitlaw.sparsity.scores import magnitude, random
from bitlaw.sparsity.selection import (
    Select,
    Selection,
    at_update,
    is_matrix,
    over_masks,
    padded,
    scores_of,
)
from bitlaw.sparsity.targets import Distribution
from bitlaw.sparsity.updates import PrunedState, Rule, masked_update, none_regrown


@dataclasses.dataclass(frozen=True)
class Exchange:
    """When weights are exchanged, and which fraction: alpha / 2 (1 + cos(pi p)), from begin to end.

    RigL, arXiv:1911.11134, section 3. The last exchange is before `end`.
    """

    begin: int
    end: int
    every: int = 100
    alpha: float = 0.3

    def __post_init__(self):
        self.table()

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """(i64[updates] steps, f64[updates] fractions)."""
        return schedule.cosine_schedule(
            initial=self.alpha, begin=self.begin, end=self.end, every=self.every
        )

    def survivors(self, active: int) -> np.ndarray:
        """i64[updates]: of `active` weights, how many are not dropped at each update."""
        return active - np.rint(active * self.table()[1]).astype(np.int64)


def rigl(
    tx: optax.GradientTransformation,
    sparsity: float,
    exchange: Exchange,
    select: Select = is_matrix,
    *,
    distribution: Distribution = "uniform",
    moments: str = "reset_regrown",
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """`tx` with RigL: weights of smallest magnitude dropped, those of largest gradient grown.

    Every leaf keeps its exact count throughout; what is grown starts from zero. The first masks are
    random (`prune` the parameters after `init`). arXiv:1911.11134.

        tx = sparsity.rigl(optax.adamw(1e-3), 0.9, Exchange(0, 7500, every=100))

    Args:
        sparsity: in [0, 1).
        distribution: over the leaves, see `distribute`; the paper's best is "erk".
        moments: as in `pruned`.
        seed: of the first masks.
    """
    grow = lambda p, g, key: jnp.where(jnp.isnan(g), 0, g)
    return _regrowing("rigl", grow, tx, sparsity, exchange, select, distribution, moments, seed)


def set_(
    tx: optax.GradientTransformation,
    sparsity: float,
    exchange: Exchange,
    select: Select = is_matrix,
    *,
    distribution: Distribution = "uniform",
    moments: str = "reset_regrown",
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """`rigl` that grows at random: sparse evolutionary training, arXiv:1707.04780."""
    return _regrowing("set", random, tx, sparsity, exchange, select, distribution, moments, seed)


def _regrowing(
    name: str,
    grow,
    tx,
    sparsity: float,
    exchange: Exchange,
    select: Select,
    distribution: Distribution,
    moments: str,
    seed: int,
) -> optax.GradientTransformationExtraArgs:
    selection = Selection(select, Unstructured())

    def refreshed(masks, survivors, params, gradients, key):
        scores = scores_of(magnitude, masks, params, gradients, key)
        growth = scores_of(grow, masks, params, gradients, key)

        def leaf(m, keep, w, g):
            # A NaN score comes last: there are enough others to choose from.
            active = m.to_bool()
            kept = top_k_mask(jnp.where(active, jnp.where(jnp.isnan(w), 0, w), jnp.nan), keep)
            room = m.count().astype(jnp.int32) - keep
            grown = top_k_mask(jnp.where(kept.to_bool(), jnp.nan, g), room)
            return BitMask(kept.bits | grown.bits, m.shape)

        return over_masks(leaf, masks, survivors, scores, growth)

    def init(params):
        _, active = selection.tables(params, OneShot(sparsity, 0), distribution)
        key = jax.random.key_data(jax.random.key(seed))
        scores = scores_of(random, selection.full(params), params, None, key)
        masks = selection.masks(scores, at_update(active, 0))
        steps, _ = exchange.table()
        # At step 0 there is no gradient yet.
        survivors = lambda table: padded(exchange.survivors(int(table[0])), edge=True)
        steps = padded(np.where(steps == 0, -1, steps), edge=False)
        steps, keep = jax.tree.map(jnp.asarray, (steps, jax.tree.map(survivors, active)))
        count = jnp.zeros((), jnp.int32)
        regrown, inner = none_regrown(masks, moments), tx.init(params)
        return PrunedState(count, steps, keep, masks, inner, key, Rule(name), regrown=regrown)

    def update(updates: Any, state: PrunedState, params: Any = None, **extra: Any):
        return masked_update(
            tx, refreshed, updates, state, params, extra, moments=moments, grads="dense"
        )

    return optax.GradientTransformationExtraArgs(init, update)
