"""AdamW, gradual pruning around it, and the warmup-stable-decay schedule."""

import jax
import numpy as np
import optax

from bitlaw import sparsity
from bitlaw.models.lm import is_compressed
from bitlaw.models.sites import BRANCH

WARMUP = 100  # steps; 50 doubled the spread over seeds at widths 16 and 24 (docs/log.md)
COOLDOWN = 0.25  # of all steps
RAMP = (0.25, 0.75)  # of all steps: where sparsity rises, arXiv:2309.08520 section 3
RAMP_INTERVALS = 50


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
            return leaf.ndim == 2 and getattr(path[0], "key", None) != BRANCH

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
    begin, end = round(RAMP[0] * steps), round(RAMP[1] * steps)
    return sparsity.Cubic(level, begin, end, max(1, -(-(end - begin) // RAMP_INTERVALS)))


def gradually_pruned(schedule: sparsity.Cubic) -> optax.GradientTransformationExtraArgs:
    """`adamw` that prunes the block matrices along a schedule, each matrix to the same sparsity.

    The schedule is in the state `init` makes; `update` serves any.
    """
    return sparsity.pruned(adamw(), schedule, select=is_compressed)
