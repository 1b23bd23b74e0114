"""Training runs that share a trunk.

Until its cool-down begins, a run does not know its budget: the learning rate is constant. So the
runs of one model, scheme and seed at several budgets are branches of one trunk, each bit for bit
the run it would be alone:

    trunk    warmup ---- stable ----------------------------->
    branch           \\__ cool-down: first budget    \\__ cool-down: second budget

A pruned run has its own ramp over its whole length, and so no trunk to share.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optax

from bitlaw.formats import Scheme
from bitlaw.models.count import n_dense
from bitlaw.models.layers import Structure, grids_of
from bitlaw.models.lm import ModelConfig
from bitlaw.train import checkpoint, optimizer, step
from bitlaw.train.data import Corpus
from bitlaw.train.state import State, copy

VALIDATION_BATCH = 8  # rows; the same for every run


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run but its budget and the corpus."""

    scheme: Scheme
    model: ModelConfig
    seed: int
    batch: int
    learning_rate: float
    warmup: int = optimizer.WARMUP  # steps
    cooldown: float = optimizer.COOLDOWN  # of all steps
    init: str = ""  # a checkpoint of the model to start from, instead of fresh parameters


@dataclass(frozen=True)
class Branch:
    """The end of one run. loss: validation nats per byte, None when the run diverged."""

    steps: int
    params: Any
    loss: float | None


OnChunk = Callable[[int, int, int, float], None]  # steps in the chunk; step, budget, loss after it


def train(
    recipe: Recipe, corpus: Corpus, budgets: Sequence[int], on_chunk: OnChunk
) -> Iterator[Branch]:
    """One branch per budget, as each is done. A loss that is not finite ends its run only.

    Args:
        budgets: steps of each run, ascending; one only for a pruned scheme.
    Raises:
        ValueError: the budgets or the corpus do not suit the recipe.
    """
    pruned = recipe.scheme.s is not None
    if list(budgets) != sorted(set(budgets)) or budgets[0] < 1 or (pruned and len(budgets) > 1):
        raise ValueError(
            f"budgets must ascend from 1, and be one only for a pruned scheme, got {budgets}"
        )
    if corpus.context != recipe.model.context:
        raise ValueError(
            f"context of the corpus must be the model's, got {corpus.context} "
            f"and {recipe.model.context}"
        )
    tx = optimizer.sparse(recipe.scheme.s, budgets[0]) if pruned else None
    trunk: State | None = _fresh(recipe, corpus, tx)
    trunk_step = 0
    for budget in budgets:
        branch_step = optimizer.cooldown_begin(budget, recipe.cooldown)
        trunk = _advance(recipe, corpus, trunk, trunk_step, branch_step, budget, on_chunk)
        trunk_step = branch_step
        branch = None if trunk is None else copy(trunk)
        branch = _advance(recipe, corpus, branch, branch_step, budget, budget, on_chunk)
        yield measured(recipe, corpus, None if branch is None else branch.params, budget)


def _fresh(recipe: Recipe, corpus: Corpus, tx: optax.GradientTransformation | None) -> State:
    """The state before the first step, with the states of quantizers that have any."""
    params = _first_params(recipe)
    structure = Structure.of(recipe.scheme)
    if structure.stateful:
        salt = n_dense(recipe.model)
        batches = corpus.train_batches(recipe.seed, recipe.batch, 0, 1, salt=salt)
        grids = grids_of(recipe.scheme)
        params = step.with_quantizers(params, batches, recipe.model, structure, grids)
    return step.fresh_state(params, tx)


def _first_params(recipe: Recipe) -> Any:
    """Fresh parameters, or those of the recipe's checkpoint.

    Raises:
        ValueError: the checkpoint is of another model.
    """
    fresh = step.fresh_params(recipe.seed, recipe.model)
    if not recipe.init:
        return fresh
    return checkpoint.restore(Path(recipe.init), like=fresh)[0]


def _advance(
    recipe: Recipe,
    corpus: Corpus,
    state: State | None,
    begin: int,
    end: int,
    budget: int,
    on_chunk: OnChunk,
) -> State | None:
    """The state after steps begin..end-1 of a run of `budget` steps; None once it has diverged."""
    structure, grids = Structure.of(recipe.scheme), grids_of(recipe.scheme)
    for first in range(begin, end, step.CHUNK):
        if state is None:
            return None
        last = min(first + step.CHUNK, end)
        rates = optimizer.wsd(
            first,
            last,
            steps=budget,
            peak=recipe.learning_rate,
            warmup=recipe.warmup,
            cooldown=recipe.cooldown,
        )
        batches = corpus.train_batches(
            recipe.seed, recipe.batch, first, last, salt=n_dense(recipe.model)
        )
        keys = step.step_keys(recipe.seed, first, last) if structure.stochastic else None
        state, losses = step.train_chunk(
            state, batches, rates, recipe.model, structure, grids, keys
        )
        on_chunk(last - first, last, budget, float(losses[-1]))
        if not np.isfinite(losses).all():
            return None
    return state


def finetune(
    recipe: Recipe, corpus: Corpus, params: Any, begin: int, end: int, on_chunk: OnChunk
) -> Branch:
    """Trained parameters, trained on under a scheme towards their own dense probabilities.

    Gemma 3's quantization-aware training (arXiv:2503.19786, section 2.3): a few per cent of the
    steps, targets from the checkpoint before it was quantized. The data are those of steps
    begin..end-1 of the run, so it sees what the run alone would see next.
    """
    structure, grids = Structure.of(recipe.scheme), grids_of(recipe.scheme)
    salt, steps = n_dense(recipe.model), end - begin
    first = corpus.train_batches(recipe.seed, recipe.batch, begin, begin + 1, salt=salt)
    start = step.with_quantizers(params, first, recipe.model, structure, grids)
    state: State | None = copy(step.fresh_state(start))
    for at in range(0, steps, step.CHUNK):
        last = min(at + step.CHUNK, steps)
        rates = optimizer.wsd(
            at, last, steps=steps, peak=recipe.learning_rate, warmup=steps // 10, cooldown=0.9
        )
        batches = corpus.train_batches(
            recipe.seed, recipe.batch, begin + at, begin + last, salt=salt
        )
        keys = step.step_keys(recipe.seed, begin + at, begin + last)
        state, losses = step.train_chunk(
            state, batches, rates, recipe.model, structure, grids, keys, teacher=params
        )
        on_chunk(last - at, begin + last, end, float(losses[-1]))
        if not np.isfinite(losses).all():
            state = None
            break
    return measured(recipe, corpus, None if state is None else state.params, end)


def measured(recipe: Recipe, corpus: Corpus, params: Any, budget: int) -> Branch:
    """The branch that ends in these parameters, with its validation loss; None has diverged."""
    if params is None:
        return Branch(budget, None, None)
    loss = step.validation_loss(
        params,
        corpus.validation_batches(VALIDATION_BATCH),
        recipe.model,
        Structure.of(recipe.scheme),
        grids_of(recipe.scheme),
    )
    return Branch(budget, params, loss if np.isfinite(loss) else None)
