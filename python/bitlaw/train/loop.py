"""Training runs that share a trunk.

Until its cool-down begins, a run does not know its budget: the learning rate is constant. So the
runs of one model, scheme and seed at several budgets are branches of one trunk, each bit for bit
the run it would be alone:

    trunk    warmup ---- stable ----------------------------->
    branch           \\__ cool-down: first budget    \\__ cool-down: second budget

A pruned run has its own ramp over its whole length, and so no trunk to share.

Several seeds can be trained as one ensemble (see `step`), which a GPU that a single small model
does not fill has time for. Pruned runs are not: vmap would turn the occasional refresh of their
masks into one at every step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitlaw.formats import Scheme
from bitlaw.models.count import n_dense
from bitlaw.models.layers import Structure, grids_of
from bitlaw.models.lm import ModelConfig
from bitlaw.train import checkpoint, optimizer, step
from bitlaw.train.data import Corpus, Rows
from bitlaw.train.state import State, copy

VALIDATION_BATCH = 8  # rows; the same for every run


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run but its budget and the corpus.

    With members, it is an ensemble of the seeds seed .. seed + members - 1.
    """

    scheme: Scheme
    model: ModelConfig
    seed: int
    batch: int
    learning_rate: float
    warmup: int = optimizer.WARMUP  # steps
    cooldown: float = optimizer.COOLDOWN  # of all steps
    init: str = ""  # a checkpoint of the model to start from, instead of fresh parameters
    members: int = 1

    @property
    def seeds(self) -> range:
        """The seeds that are trained."""
        return range(self.seed, self.seed + self.members)


@dataclass(frozen=True)
class Branch:
    """The end of one run. loss: validation nats per byte, None when the run diverged."""

    steps: int
    params: Any
    loss: float | None
    seed: int = 0


OnChunk = Callable[[int, int, int, float], None]  # steps in the chunk; step, budget, loss after it


def train(
    recipe: Recipe, corpus: Corpus, budgets: Sequence[int], on_chunk: OnChunk
) -> Iterator[Branch]:
    """One branch per budget and seed, as each is done. A loss that is not finite ends its run only.

    Args:
        budgets: steps of each run, ascending; one only for a pruned scheme.
    Raises:
        ValueError: the budgets or the corpus do not suit the recipe.
    """
    pruned = recipe.scheme.s is not None
    if pruned and recipe.members > 1:
        raise ValueError(f"members must be 1 for a pruned scheme, got {recipe.members}")
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
    alive = np.ones(recipe.members, bool)
    trunk_step = 0
    for budget in budgets:
        branch_step = optimizer.cooldown_begin(budget, recipe.cooldown)
        trunk, alive = _advance(
            recipe, corpus, trunk, alive, trunk_step, branch_step, budget, on_chunk
        )
        trunk_step = branch_step
        branch = None if trunk is None else copy(trunk)
        branch, ended = _advance(
            recipe, corpus, branch, alive, branch_step, budget, budget, on_chunk
        )
        for index, seed in enumerate(recipe.seeds):
            params = None
            if branch is not None and ended[index]:
                params = _member(branch.params, index) if recipe.members > 1 else branch.params
            yield measured(recipe, corpus, params, budget, seed)


def _member(params: Any, index: int) -> Any:
    """The parameters of one member of an ensemble."""
    return jax.tree.map(lambda leaf: leaf[index], params)


def _fresh(recipe: Recipe, corpus: Corpus, tx: optax.GradientTransformation | None) -> State:
    """The state before the first step, with the states of quantizers that have any."""
    structure = Structure.of(recipe.scheme)
    states = []
    for seed in recipe.seeds:
        params = _first_params(recipe, seed)
        if structure.stateful:
            batches = corpus.train_batches(seed, recipe.batch, 0, 1, salt=n_dense(recipe.model))
            grids = grids_of(recipe.scheme)
            params = step.with_quantizers(params, batches, recipe.model, structure, grids)
        states.append(step.fresh_state(params, tx))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states) if states[1:] else states[0]


def _first_params(recipe: Recipe, seed: int) -> Any:
    """Fresh parameters, or those of the recipe's checkpoint.

    Raises:
        ValueError: the checkpoint is of another model.
    """
    fresh = step.fresh_params(seed, recipe.model)
    if not recipe.init:
        return fresh
    return checkpoint.restore(Path(recipe.init), like=fresh)[0]


def _batches(recipe: Recipe, corpus: Corpus, first: int, last: int) -> Rows:
    """The data of steps first..last-1; of an ensemble, an axis of members after that of steps."""
    each = [
        corpus.train_batches(seed, recipe.batch, first, last, salt=n_dense(recipe.model))
        for seed in recipe.seeds
    ]
    return {k: np.stack([b[k] for b in each], axis=1) for k in each[0]} if each[1:] else each[0]


def _keys(recipe: Recipe, first: int, last: int) -> np.ndarray:
    """The random numbers of steps first..last-1, as `_batches`."""
    each = [step.step_keys(seed, first, last) for seed in recipe.seeds]
    return np.stack(each, axis=1) if each[1:] else each[0]


def _advance(
    recipe: Recipe,
    corpus: Corpus,
    state: State | None,
    alive: np.ndarray,
    begin: int,
    end: int,
    budget: int,
    on_chunk: OnChunk,
) -> tuple[State | None, np.ndarray]:
    """The state after steps begin..end-1 of a run of `budget` steps; None once all have diverged.

    Args:
        alive: which members have not diverged; the second result is the same after these steps.
    """
    structure, grids = Structure.of(recipe.scheme), grids_of(recipe.scheme)
    for first in range(begin, end, step.CHUNK):
        if state is None:
            break
        last = min(first + step.CHUNK, end)
        rates = optimizer.wsd(
            first,
            last,
            steps=budget,
            peak=recipe.learning_rate,
            warmup=recipe.warmup,
            cooldown=recipe.cooldown,
        )
        batches = _batches(recipe, corpus, first, last)
        keys = _keys(recipe, first, last) if structure.stochastic else None
        state, losses = step.train_chunk(
            state, batches, rates, recipe.model, structure, grids, keys
        )
        losses = losses.reshape(last - first, recipe.members)
        alive = alive & np.isfinite(losses).all(axis=0)
        mean = float(losses[-1][alive].mean()) if alive.any() else np.nan
        on_chunk(last - first, last, budget, mean)
        if not alive.any():
            state = None
    return state, alive


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


def measured(
    recipe: Recipe, corpus: Corpus, params: Any, budget: int, seed: int | None = None
) -> Branch:
    """The branch that ends in these parameters, with its validation loss; None has diverged.

    Args:
        seed: of an ensemble, the member's; else the recipe's.
    """
    seed = recipe.seed if seed is None else seed
    if params is None:
        return Branch(budget, None, None, seed)
    loss = step.validation_loss(
        params,
        corpus.validation_batches(VALIDATION_BATCH),
        recipe.model,
        Structure.of(recipe.scheme),
        grids_of(recipe.scheme),
    )
    return Branch(budget, params, loss if np.isfinite(loss) else None, seed)
