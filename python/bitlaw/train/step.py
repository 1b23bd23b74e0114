"""The compiled programs of a model: fresh parameters, a chunk of training steps, validation.

One of each per model shape and structure of the scheme. Everything a study varies is an operand:
budgets and schedules as learning rates, bit widths as grids, sparsities in the optimizer's state. A
chunk is a loop of up to CHUNK steps in one program: fewer dispatches, and one report per chunk.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitlaw import sparsity
from bitlaw.models import lm
from bitlaw.models.layers import Grids, Structure
from bitlaw.models.lm import ModelConfig
from bitlaw.train import loss, optimizer
from bitlaw.train.data import Rows
from bitlaw.train.state import State

CHUNK = 32  # steps


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


def _inputs(batch):
    return {name: batch[name].astype(jnp.int32) for name in ("inputs", "segment_ids", "positions")}


@functools.lru_cache
def _train_program(config: ModelConfig, structure: Structure):
    tx = optimizer.adamw()
    if structure.sparse is not None:
        # `update` reads the schedule from the state, so any schedule makes the same program.
        tx = optimizer.sparse(structure.sparse, 100)

    def batch_loss(params, batch, grids):
        inputs, targets = _inputs(batch), batch["targets"].astype(jnp.int32)
        logits, balance = lm.forward(params, inputs, config, structure, grids, train=True)
        return loss.mean_cross_entropy(logits, targets, batch["weights"]) + balance

    @functools.partial(jax.jit, donate_argnums=0)
    def program(state, batches, learning_rates, n_steps, grids):
        def step(i, carry):
            state, losses = carry
            batch = jax.tree.map(lambda x: x[i], batches)
            value, gradients = jax.value_and_grad(batch_loss)(state.params, batch, grids)
            updates, optimizer_state = tx.update(
                gradients, state.optimizer, state.params, learning_rate=learning_rates[i]
            )
            params = optax.apply_updates(state.params, updates)
            return State(params, optimizer_state), losses.at[i].set(value)

        return jax.lax.fori_loop(0, n_steps, step, (state, jnp.zeros(CHUNK)))

    return program


def train_chunk(
    state: State,
    batches: Rows,
    learning_rates: np.ndarray,
    config: ModelConfig,
    structure: Structure,
    grids: Grids,
) -> tuple[State, np.ndarray]:
    """The state after one training step per batch, at most CHUNK, and the loss of each step.

    The old state is donated: its buffers are gone. Short chunks run the same program, on padding it
    does not read, so how steps are cut into chunks changes no bit.

    Args:
        batches: as `Corpus.train_batches` gives them, [steps, B, L] each.
        learning_rates: f32[steps]
    Returns:
        state, f32[steps] in nats per byte
    """
    n_steps = len(learning_rates)
    pad = CHUNK - n_steps
    batches = {k: np.pad(x, [(0, pad), (0, 0), (0, 0)]) for k, x in batches.items()}
    program = _train_program(config, structure)
    state, losses = program(state, batches, np.pad(learning_rates, (0, pad)), n_steps, grids)
    return state, np.asarray(losses)[:n_steps]


@functools.lru_cache
def _validation_program(config: ModelConfig, structure: Structure):
    @jax.jit
    def program(params, batches, grids):
        def one(batch):
            logits = lm.apply(params, _inputs(batch), config, structure, grids)
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
