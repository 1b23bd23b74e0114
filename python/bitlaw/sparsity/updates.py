"""Pruning as optax transformations, around any optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.sparsity.global_masks import masks_keeping
from bitlaw.sparsity.masks import BitMask
from bitlaw.sparsity.patterns import NM, Pattern, Unstructured
from bitlaw.sparsity.schedules import OneShot, Schedule
from bitlaw.sparsity.scores import Score, score_of
from bitlaw.sparsity.targets import Distribution, distribute

try:
    import optax
except ImportError as error:
    raise ImportError("bitlaw.sparsity needs optax: pip install 'bitlaw[train]'") from error

# Tables are padded to a multiple of this, so that schedules of like length share one program.
_TABLE = 64

SCOPES = ("layer", "global")
MOMENTS = ("keep", "mask", "reset_regrown")
GRADS = ("dense", "masked")
Select = Callable[[tuple, Any], bool]


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
        inner: the wrapped optimizer's state.
        key: random key data, u32[...], of what is drawn at updates; else None.
        rule: method, pattern, scope: static.
        dense: one array per pruned leaf, the dense weights behind the masks, for `ste` and its kin;
            else None.
        scale: one f32[] per pruned leaf, the frozen scale of `s_ste`; else None.
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


def is_matrix(path: tuple, leaf: Any) -> bool:
    """Whether a leaf has two or more axes: what is pruned by default."""
    del path
    return jnp.ndim(leaf) >= 2


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
            step, "reset_regrown" zeroes those of a weight that comes back.
        grads: "dense" hands `tx` the whole gradient, "masked" that of the kept weights.
        seed: of random scores.
    """
    selection = selection_of(select, pattern, scope, distribution, normalize)
    _one_of("moments", moments, MOMENTS)
    _one_of("grads", grads, GRADS)
    score = score_of(scores)

    def refreshed(masks, counts, params, gradients, key):
        # What is pruned competes as zero: its update of this step would revive it.
        scored = scores_of(score, masks, params, gradients, key)
        competing = lambda m, s: jnp.where(m.to_bool(), s, jnp.zeros_like(s))
        scored = over_masks(competing, masks, scored)
        return selection.masks(scored, counts)

    def init(params):
        steps, keep = jax.tree.map(jnp.asarray, selection.tables(params, schedule, distribution))
        masks = selection.full(params)
        key = jax.random.key_data(jax.random.key(seed))
        if schedule.is_update(0):
            masks = refreshed(masks, at_update(keep, 0), params, None, key)
        rule = Rule(f"pruned {pattern} {scope}")
        return PrunedState(jnp.zeros((), jnp.int32), steps, keep, masks, tx.init(params), key, rule)

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
    count = state.count + 1
    due = state.steps == count
    key = jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(state.key), count))

    def refresh(masks):
        # Computed here and again below: handed in, it would be written to memory at every step.
        change, _ = run(updates, state.inner, params, **extra)
        new = jax.tree.map(lambda p, u: p + u, params, change)
        counts = at_update(state.keep, jnp.argmax(due))
        return refreshed(masks, counts, new, gradients, key)

    masks = jax.lax.cond(due.any(), refresh, lambda masks: masks, state.masks)
    updates, inner = run(_after(masks, updates), state.inner, params, **extra)

    def masked(m, old, p, u):
        # The sum p + u is what the caller forms: -p makes it exactly zero. What regrows is zero
        # already, and starts so.
        return jnp.where(BitMask(m.bits & old.bits, m.shape).to_bool(), u, -p)

    updates = over_masks(masked, masks, state.masks, params, updates, last=True)
    if moments == "mask":
        zeroed = lambda m, x: jnp.where(m.to_bool(), x, jnp.zeros_like(x))
        inner = on_moments(zeroed, inner, params, masks)
    elif moments == "reset_regrown":
        pairs = over_masks(lambda m, old: BitMask(m.bits & ~old.bits, m.shape), masks, state.masks)
        zeroed = lambda grown, x: jnp.where(grown.to_bool(), jnp.zeros_like(x), x)
        inner = jax.lax.cond(
            due.any(), lambda i: on_moments(zeroed, i, params, pairs), lambda i: i, inner
        )
    return updates, state._replace(count=count, masks=masks, inner=inner)


def _after(masks, gradients):
    """The gradients, bit for bit, as something that is computed after the masks.

    Else XLA sees no order between the refresh, which reads the old moments, and their update, and
    copies them at every step: that took three times the bare step. A barrier does not help, it is
    removed before copies are decided on; a product with 1 + 0 bits stays.
    """
    bits = [m.bits for m in jax.tree.leaves(masks, is_leaf=mask_or_none) if m is not None]
    if not bits or not bits[0].size:
        return gradients
    one = 1 + 0.0 * bits[0][0].astype(jnp.float32)
    return jax.tree.map(lambda g: g * one.astype(g.dtype), gradients)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which leaves are pruned, in which pattern, and whether by one count for all."""

    select: Select
    pattern: Pattern
    together: bool = False
    normalize: str | None = None

    def tables(self, params, schedule: Schedule, distribution: Distribution = "uniform"):
        """(steps, keep) of a state, as numpy arrays."""
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

    def masks(self, scores, counts):
        """Masks of the largest scores, by counts as `tables` lays them out; scores may be None."""
        if self.together:
            competing = lambda s: None if s is None else self.pattern.competing(s)
            scores = jax.tree.map(competing, scores, is_leaf=_none)
            return masks_keeping(scores, counts, normalize=self.normalize)
        make = lambda s, k: None if s is None else self.pattern.mask(s, k)
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
    _one_of("scope", scope, SCOPES)
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


def on_moments(function: Callable, inner, params, masks):
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


def padded(table: np.ndarray, edge: bool) -> np.ndarray:
    """i32[table]: filled up with -1, or with its last entry."""
    spare = -len(table) % _TABLE
    padding = np.full(spare, table[-1] if edge and len(table) else -1)
    return np.concatenate([table, padding]).astype(np.int32)


def _one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}")


def _none(x: Any) -> bool:
    return x is None


def mask_or_none(x: Any) -> bool:
    return x is None or isinstance(x, BitMask)
