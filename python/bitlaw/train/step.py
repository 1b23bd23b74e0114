"""The compiled programs of a model: fresh parameters, a chunk of training steps, validation.

One of each per model shape and structure of the scheme. Everything a study varies is an operand:
budgets and schedules as learning rates, bit widths as grids, sparsities in the optimizer's state. A
chunk is a loop of up to CHUNK steps in one program: fewer dispatches, and one report per chunk.

An ensemble is several seeds in one program: every leaf of its state and every batch has a first
axis of members, over which the step is mapped (vmap). They share learning rates and grids only.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitlaw import sparsity
from bitlaw.models import lm, sites
from bitlaw.models.layers import Grids, Structure
from bitlaw.models.lm import ModelConfig
from bitlaw.train import loss, optimizer
from bitlaw.train.data import Rows
from bitlaw.train.state import State

CHUNK = 32  # steps
NO_KEY = np.zeros(2, np.uint32)  # validation rounds with the same random numbers every time


@functools.lru_cache
def _init_program(config: ModelConfig):
    return jax.jit(lambda key: lm.init(key, config))


def fresh_params(seed: int, config: ModelConfig):
    """The parameters before the first step: they depend on the seed and the model alone."""
    return _init_program(config)(jax.random.key(seed))


def fresh_state(params, tx: optax.GradientTransformation | None = None) -> State:
    """The state before the first step of `tx`, `adamw` if none; masks that it begins with apply.

    Args:
        tx: of `optimizer.sparse`, for a pruned run.
    """
    if tx is None:
        return State(params, optimizer.adamw().init(params))
    state = tx.init(params)
    return State(sparsity.prune(params, state), state)


def with_quantizers(params, batches: Rows, config: ModelConfig, structure: Structure, grids: Grids):
    """The parameters with first states of their quantizers, if those have any.

    Args:
        batches: the first of them is what the scales of activations begin with.
    """
    if not structure.stateful:
        return params
    batch = {name: rows[0] for name, rows in batches.items()}
    return _state_program(config, structure)(params, batch, grids)


@functools.lru_cache
def _state_program(config: ModelConfig, structure: Structure):
    @jax.jit
    def program(params, batch, grids):
        loss_of = lambda params, structure: _batch_loss(
            params, batch, config, structure, grids, NO_KEY
        )
        return sites.with_states(params, structure, grids, loss_of)

    return program


def _forward(params, batch, config: ModelConfig, structure: Structure, grids: Grids, key, train):
    """Logits, and what the balance of experts adds to the loss in training."""
    batch = {name: batch[name].astype(jnp.int32) for name in ("inputs", "segment_ids", "positions")}
    params = sites.with_sites(params, structure, key)
    return lm.forward(params, batch, config, structure, grids, train=train)


def _batch_loss(params, batch, config, structure, grids, key, teacher=None):
    """Mean cross-entropy to the next bytes, or to the probabilities of a dense teacher."""
    logits, balance = _forward(params, batch, config, structure, grids, key, train=True)
    if teacher is None:
        targets = batch["targets"].astype(jnp.int32)
        return loss.mean_cross_entropy(logits, targets, batch["weights"]) + balance
    wanted, _ = _forward(teacher, batch, config, Structure(), {}, key, train=False)
    return loss.mean_distillation(logits, jax.lax.stop_gradient(wanted), batch["weights"]) + balance


@functools.lru_cache
def _train_program(config: ModelConfig, structure: Structure, ensemble: bool):
    tx = optimizer.adamw()
    if structure.sparse is not None:
        # `update` reads the schedule from the state, so any schedule makes the same program.
        tx = optimizer.sparse(structure.sparse, 100)

    def step(state, batch, rate, key, grids, teacher):
        value, gradients = jax.value_and_grad(_batch_loss)(
            state.params, batch, config, structure, grids, key, teacher
        )
        updates, optimizer_state = tx.update(
            sites.without_overwritten(gradients, structure),
            state.optimizer,
            state.params,
            learning_rate=rate,
        )
        params = optax.apply_updates(state.params, updates)
        params = sites.overwrite(params, gradients, structure)
        return State(params, optimizer_state), value

    if ensemble:
        step = jax.vmap(step, in_axes=(0, 0, None, 0, None, None))

    @functools.partial(jax.jit, donate_argnums=0)
    def program(state, batches, learning_rates, keys, n_steps, grids, teacher):
        def advance(i, carry):
            state, losses = carry
            batch = jax.tree.map(lambda x: x[i], batches)
            state, value = step(state, batch, learning_rates[i], keys[i], grids, teacher)
            return state, losses.at[i].set(value)

        return jax.lax.fori_loop(0, n_steps, advance, (state, jnp.zeros(keys.shape[:-1])))

    return program


def step_keys(seed: int, first: int, last: int) -> np.ndarray:
    """u32[last - first, 2]: the random numbers of steps first..last-1 of a run."""
    draw = [np.random.SeedSequence((seed, step)).generate_state(2) for step in range(first, last)]
    return np.asarray(draw, np.uint32).reshape(-1, 2)


def train_chunk(
    state: State,
    batches: Rows,
    learning_rates: np.ndarray,
    config: ModelConfig,
    structure: Structure,
    grids: Grids,
    keys: np.ndarray | None = None,
    teacher: Any = None,
) -> tuple[State, np.ndarray]:
    """The state after one training step per batch, at most CHUNK, and the loss of each step.

    The old state is donated: its buffers are gone. Short chunks run the same program, on padding it
    does not read, so how steps are cut into chunks changes no bit.

    Args:
        batches: as `Corpus.train_batches` gives them, [steps, B, L] each; [steps, members, B, L]
            of an ensemble.
        learning_rates: f32[steps]
        keys: u32[steps, 2] or u32[steps, members, 2], for stochastic rounding (`step_keys`).
        teacher: parameters of a dense model, whose probabilities are then the targets.
    Returns:
        state, f32[steps] or f32[steps, members] in nats per byte
    """
    n_steps = len(learning_rates)
    padded = lambda x: np.pad(x, [(0, CHUNK - n_steps)] + [(0, 0)] * (x.ndim - 1))
    members = batches["inputs"].shape[1:-2]
    if keys is None:
        keys = np.zeros((n_steps, *members, 2), np.uint32)
    state, losses = _train_program(config, structure, bool(members))(
        state,
        {name: padded(x) for name, x in batches.items()},
        padded(learning_rates),
        padded(keys),
        n_steps,
        grids,
        teacher,
    )
    return state, np.asarray(losses)[:n_steps]


@functools.lru_cache
def _validation_program(config: ModelConfig, structure: Structure):
    @jax.jit
    def program(params, batches, grids):
        def one(batch):
            logits, _ = _forward(params, batch, config, structure, grids, NO_KEY, train=False)
            return loss.summed_cross_entropy(
                logits, batch["targets"].astype(jnp.int32), batch["weights"]
            )

        return jax.lax.map(one, batches)

    return program


def validation_loss(
    params, batches: Rows, config: ModelConfig, structure: Structure, grids: Grids
) -> float:
    """Mean loss over the trained targets of the batches, in nats per byte."""
    sums = _validation_program(config, structure)(params, batches, grids)
    # In float64: the sum of all batches is near 1e6, the differences of interest near 1e-3 of it.
    total, count = (np.sum(x, dtype=np.float64) for x in (np.asarray(sums), batches["weights"]))
    return float(total / count)
