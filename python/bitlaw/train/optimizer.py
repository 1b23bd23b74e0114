"""AdamW, pruning around it, and the warmup-stable-decay schedule."""

import jax
import numpy as np
import optax

from bitlaw import sparsity
from bitlaw.formats import SparseSpec
from bitlaw.models.lm import is_compressed
from bitlaw.models.sites import BRANCH

WARMUP = 100  # steps; 50 doubled the spread over seeds at widths 16 and 24 (docs/log.md)
COOLDOWN = 0.25  # of all steps
RAMP = (0.25, 0.75)  # of all steps: where sparsity rises, arXiv:2309.08520 section 3
RAMP_INTERVALS = 50
ACDC_PHASES = 8  # sparse and dense ones in the ramp's place


def adamw(
    b1: float = 0.9, b2: float = 0.95, weight_decay: float = 0.01, clip: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """AdamW (arXiv:1711.05101) after clipping to a global norm; matrices decay, norms do not.

    Nor do the states of quantizers.

    `update` takes the learning rate as the keyword `learning_rate`, so one compiled step serves
    every schedule and budget.
    """

    def is_matrix(params):
        def of(path, leaf):
            return leaf.ndim >= 2 and getattr(path[0], "key", None) != BRANCH

        return jax.tree_util.tree_map_with_path(of, params)

    def scale(updates, state, params=None, *, learning_rate, **others):
        del params, others
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b1=b1, b2=b2),
        optax.add_decayed_weights(weight_decay, mask=is_matrix),
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), scale),
    )


def cooldown_begin(steps: int, cooldown: float = COOLDOWN) -> int:
    """The first step of the cool-down of a run; until it, runs of all budgets are the same."""
    return steps - round(steps * cooldown)


def wsd(
    begin: int,
    end: int,
    *,
    steps: int,
    peak: float,
    warmup: int = WARMUP,
    cooldown: float = COOLDOWN,
) -> np.ndarray:
    """Learning rates of steps begin..end-1 of a run: warmup-stable-decay (arXiv:2404.06395).

        peak * min(1, (t + 1) / warmup, (steps - t) / (number of cool-down steps + 1))

    Returns:
        f32[end - begin]
    """
    t = np.arange(begin, end)
    tail = steps - cooldown_begin(steps, cooldown) + 1
    scale = np.minimum(1.0, np.minimum((t + 1) / max(warmup, 1), (steps - t) / tail))
    return np.asarray(peak * scale, np.float32)


def pruning(level: float, steps: int) -> sparsity.Cubic:
    """The cubic ramp to a sparsity over the middle half of a run, in at most 50 intervals.

    A bounded number of updates keeps the tables in the optimizer's state of one size: one program.
    """
    return sparsity.Cubic(level, *_ramp(steps))


def sparsity_of(spec: SparseSpec, steps: int) -> sparsity.Schedule:
    """The sparsity of the weights in use over a run of a method."""
    if spec.method == "gradual":
        return pruning(spec.level, steps)
    if spec.method == "oneshot":
        return sparsity.OneShot(spec.level, steps // 2)
    if spec.method == "acdc":
        begin, end, _ = _ramp(steps)
        return sparsity.ACDC(spec.level, begin, end, max(1, (end - begin) // ACDC_PHASES))
    return sparsity.OneShot(spec.level, 0)  # sparse from the start


def pattern_of(spec: SparseSpec) -> sparsity.Pattern:
    """The pattern of a spec, groups along the contraction axis."""
    if spec.m:
        return sparsity.NM(spec.n, spec.m, transposable=spec.transposable)
    return sparsity.Block(*spec.block) if spec.block != (0, 0) else sparsity.Unstructured()


def sparse(spec: SparseSpec, steps: int) -> optax.GradientTransformationExtraArgs:
    """`adamw` that keeps the block matrices sparse as a spec says, for a run of `steps`.

    The schedule is in the state `init` makes; `update` serves any of the same structure.
    """
    schedule, pattern = sparsity_of(spec, steps), pattern_of(spec)
    if spec.method in ("rigl", "set"):
        regrowing = sparsity.rigl if spec.method == "rigl" else sparsity.set_
        end = max(1, round(RAMP[1] * steps))
        exchange = sparsity.Exchange(0, end, max(1, -(-end // RAMP_INTERVALS)))
        return regrowing(adamw(), spec.level, exchange, is_compressed)
    if spec.method == "s_ste":
        return sparsity.s_ste(adamw(), spec.n, spec.m, is_compressed)
    if spec.method in ("ste", "sr_ste"):
        straight = sparsity.ste if spec.method == "ste" else sparsity.sr_ste
        return straight(adamw(), schedule, is_compressed, pattern=pattern, scope=spec.scope)
    return sparsity.pruned(adamw(), schedule, is_compressed, pattern=pattern, scope=spec.scope)


def _ramp(steps: int) -> tuple[int, int, int]:
    """(begin, end, every) of the middle half of a run, in at most 50 intervals."""
    begin, end = round(RAMP[0] * steps), round(RAMP[1] * steps)
    return begin, end, max(1, -(-(end - begin) // RAMP_INTERVALS))
