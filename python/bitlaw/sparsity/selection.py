"""Which leaves of a tree are pruned, and the masks of their largest scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.sparsity.global_masks import masks_keeping
from bitlaw.sparsity.masks import BitMask
from bitlaw.sparsity.patterns import NM, Pattern, Unstructured
from bitlaw.sparsity.schedules import Schedule
from bitlaw.sparsity.scores import Score
from bitlaw.sparsity.targets import Distribution, distribute

# Tables are padded to a multiple of this, so that schedules of like length share one program.
_TABLE = 64

SCOPES = ("layer", "global")
Select = Callable[[tuple, Any], bool]


def is_matrix(path: tuple, leaf: Any) -> bool:
    """Whether a leaf has two or more axes: what is pruned by default."""
    del path
    return jnp.ndim(leaf) >= 2


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which leaves are pruned, in which pattern, and whether by one count for all."""

    select: Select
    pattern: Pattern
    together: bool = False
    normalize: str | None = None

    def tables(self, params, schedule: Schedule, distribution: Distribution = "uniform"):
        """(steps, keep) of a state, as numpy arrays."""
        if not isinstance(schedule, Schedule):
            raise ValueError(f"schedule must be one of sparsity's schedules, got {schedule!r}")
        paths = jax.tree_util.tree_leaves_with_path(params)
        chosen = {
            jax.tree_util.keystr(path): jnp.shape(leaf)
            for path, leaf in paths
            if self.select(path, leaf)
        }
        for name, shape in chosen.items():
            if np.prod(shape, dtype=np.int64) >= 2**31:
                raise ValueError(f"leaf {name} must have fewer than 2^31 elements, got {shape}")
        steps = padded(schedule.steps(), edge=False)
        if self.together:
            total = sum(int(np.prod(shape, dtype=np.int64)) for shape in chosen.values())
            if total >= 2**31:
                raise ValueError(f"leaves must have fewer than 2^31 elements in all, got {total}")
            counts = self.pattern.keep_counts(schedule, (total,), schedule.final)
            return steps, padded(counts, edge=True)
        levels = distribute(schedule.final, chosen, distribution)

        def keep(path, leaf):
            name = jax.tree_util.keystr(path)
            if name not in chosen:
                return None
            counts = self.pattern.keep_counts(schedule, jnp.shape(leaf), levels[name])
            return padded(counts, edge=True)

        return steps, jax.tree_util.tree_map_with_path(keep, params)

    def full(self, params):
        """Masks that keep everything, None where nothing is pruned."""
        return jax.tree_util.tree_map_with_path(
            lambda path, p: BitMask.ones(jnp.shape(p)) if self.select(path, p) else None, params
        )

    def masks(self, scores, counts, one_by_one: bool = False):
        """Masks of the largest scores, by counts as `tables` lays them out; scores may be None.

        Args:
            one_by_one: compute the scores of a leaf after the mask of the one before, so that those
                of one leaf are in memory at a time and not all.
        """
        if self.together:
            competing = lambda s: None if s is None else self.pattern.competing(s)
            scores = jax.tree.map(competing, scores, is_leaf=_none)
            return masks_keeping(scores, counts, normalize=self.normalize)
        made: list[BitMask] = []

        def make(s, k):
            if s is None:
                return None
            made.append(self.pattern.mask(after(made[-1], s) if one_by_one and made else s, k))
            return made[-1]

        return jax.tree.map(make, scores, counts, is_leaf=_none)


def selection_of(
    select: Select,
    pattern: Pattern,
    scope: str,
    distribution: Distribution,
    normalize: str | None = None,
) -> Selection:
    """The selection, checked.

    Raises:
        ValueError: a scope, or a pattern or distribution that the scope does not have.
    """
    one_of("scope", scope, SCOPES)
    if not isinstance(pattern, Pattern):
        raise ValueError(f"pattern must be one of sparsity's patterns, got {pattern!r}")
    together = scope == "global"
    if together and (not isinstance(pattern, Unstructured | NM) or distribution != "uniform"):
        raise ValueError(
            "scope global must be unstructured or n:m, and uniform, "
            f"got {pattern} and {distribution}"
        )
    if normalize is not None and not (together and pattern == Unstructured()):
        raise ValueError(
            f"normalize must be None but for scope global, unstructured, got {normalize!r}"
        )
    return Selection(select, pattern, together, normalize)


def scores_of(score: Score, masks, params, gradients, key):
    """Scores of the pruned leaves, None elsewhere; each leaf draws from a key of its own."""
    place = iter(range(len(jax.tree.leaves(params))))
    random = jax.random.wrap_key_data(key)

    def one(m, p, g):
        own = jax.random.fold_in(random, next(place))
        scored = score(p, g, own)
        if jnp.shape(scored) != m.shape:
            raise ValueError(f"scores must have the shape {m.shape}, got {jnp.shape(scored)}")
        return scored

    if gradients is None:
        return over_masks(lambda m, p: one(m, p, None), masks, params)
    return over_masks(one, masks, params, gradients)


def after(mask: BitMask, x):
    """x, bit for bit, as something that XLA computes after the mask.

    A barrier does not help, it is removed before copies and order are decided on; a product with
    1 + 0 bits stays.
    """
    if not mask.bits.size:
        return x
    return x * (1 + 0.0 * mask.bits[0].astype(jnp.float32)).astype(x.dtype)


def at_update(keep, index):
    """The keep counts of one update."""
    return jax.tree.map(lambda table: table[index], keep)


def over_masks(function: Callable, masks, *trees, last: bool = False):
    """function(mask, *leaves) of the pruned leaves; elsewhere None, or the last tree's leaf."""

    def leaf(m, *leaves):
        if m is None:
            return leaves[-1] if last else None
        return function(m, *leaves)

    return jax.tree.map(leaf, masks, *trees, is_leaf=mask_or_none)


def mask_or_none(x: Any) -> bool:
    return x is None or isinstance(x, BitMask)


def padded(table: np.ndarray, edge: bool) -> np.ndarray:
    """i32[table]: filled up with -1, or with its last entry."""
    spare = -len(table) % _TABLE
    padding = np.full(spare, table[-1] if edge and len(table) else -1)
    return np.concatenate([table, padding]).astype(np.int32)


def one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}")


def _none(x: Any) -> bool:
    return x is None
