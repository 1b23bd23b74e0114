"""The same examples padded and packed, trained in turn on one machine.

A step takes the same examples in both layouts: padded, each has a row to itself; packed, rows hold
as many as fit. The loss is a mean over the examples' own targets, so both layouts have the same
loss and the same gradient but for rounding, and the two trainings are one training done twice. They
alternate step by step, so whatever else the machine does falls on both alike.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bitlaw import packing
from bitlaw.models import lm, vit
from bitlaw.models.layers import Structure
from bitlaw.packing import images
from bitlaw.train import optimizer
from bitlaw.train.glyphs import Glyphs
from bitlaw.train.loss import summed_cross_entropy
from bitlaw.train.state import State

PADDED, PACKED = LAYOUTS = ("padded", "packed")

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Examples:
    """A data set with a model: what the layouts are compared on.

    Attributes:
        lengths: i64[n], tokens of each training example.
        capacity: tokens per row, at least the longest.
        batch: (which training examples, planning of `packing.plan`) -> rows of them.
        validation: batches of one shape, packed.
        init: key -> parameters.
        loss: (params, batch) -> the summed loss and the number of targets.
    """

    lengths: np.ndarray
    capacity: int
    batch: Callable[[np.ndarray, dict], Batch]
    validation: list[Batch]
    init: Callable[[Any], Any]
    loss: Callable[[Any, Batch], tuple[Any, Any]]

    def chosen(self, seed: int, step: int, size: int) -> np.ndarray:
        """The examples of a step: a permutation per epoch, its last incomplete batch left out."""
        per_epoch = len(self.lengths) // size
        order = np.random.default_rng((seed, step // per_epoch)).permutation(len(self.lengths))
        return order[step % per_epoch * size :][:size]


def planning(layout: str) -> dict:
    """What `packing.plan` is told: one example per row, or as many as fit."""
    return {"max_segments": 1} if layout == PADDED else {}


def text(documents: list[bytes], held_out: list[bytes], model: lm.ModelConfig) -> Examples:
    """Documents of at most `model.context` + 1 bytes each, for the language model."""

    def rows(chosen: list[bytes], planning: dict) -> Batch:
        plan = packing.plan(list(map(len, chosen)), model.context + 1, **planning)
        joined = np.frombuffer(b"".join(chosen), np.uint8).astype(np.int32)
        return packing.shift(packing.materialize(plan, joined))

    def loss(params, batch):
        logits = lm.apply(params, batch, model, Structure(), {})
        summed = summed_cross_entropy(logits, batch["targets"], batch["weights"])
        return summed, jnp.sum(batch["weights"])

    return Examples(
        lengths=np.array(list(map(len, documents))),
        capacity=model.context + 1,
        batch=lambda chosen, planning: rows([documents[i] for i in chosen], planning),
        validation=_cut(rows(held_out, {}), 16),
        init=lambda key: lm.init(key, model),
        loss=loss,
    )


def pictures(data: Glyphs, model: vit.ViTConfig, patch: int, capacity: int) -> Examples:
    """Images of at most `capacity` patches each, for the image model."""

    def rows(part, chosen: np.ndarray, planning: dict) -> Batch:
        pixels, labels = part
        batch = images.pack(
            [pixels[i] for i in chosen], capacity, patch=patch, max_tokens=capacity, **planning
        )
        owner = batch.pop("images")
        there = owner >= 0
        return batch | {
            "labels": np.where(there, labels[chosen][owner], 0),
            "weights": there.astype(np.float32),
        }

    def loss(params, batch):
        segments = batch["labels"].shape[1]
        logits = vit.apply(params, batch, model, Structure(), {}, segments)
        summed = summed_cross_entropy(logits, batch["labels"], batch["weights"])
        return summed, jnp.sum(batch["weights"])

    sizes = [image.shape for image in data.train[0]]
    return Examples(
        lengths=images.grids(sizes, patch, capacity).prod(axis=1),
        capacity=capacity,
        batch=lambda chosen, planning: rows(data.train, chosen, planning),
        validation=_cut(rows(data.validation, np.arange(len(data.validation[0])), {}), 16),
        init=lambda key: vit.init(key, model),
        loss=loss,
    )


def _cut(batch: Batch, rows: int) -> list[Batch]:
    """Batches of this many rows, the last filled up with empty rows."""
    whole = -(-len(batch["weights"]) // rows) * rows
    shapes = {k: jax.ShapeDtypeStruct((whole, *x.shape[1:]), x.dtype) for k, x in batch.items()}
    batch = grown(batch, shapes)
    return [{name: x[i : i + rows] for name, x in batch.items()} for i in range(0, whole, rows)]


def grown(batch: Batch, shapes: dict[str, Any]) -> Batch:
    """The batch with zeros appended, to these shapes: empty rows and absent segments."""
    return {
        name: np.pad(x, [(0, to - at) for at, to in zip(x.shape, shapes[name].shape, strict=True)])
        for name, x in batch.items()
    }


@dataclass(frozen=True)
class Step:
    """One training step of one layout. Seconds: planning and filling the rows; the update."""

    layout: str
    loss: float
    tokens: int
    positions: int
    host_seconds: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """The end of one layout's training: parameters, mean validation loss."""

    params: Any
    loss: float


def alternate(
    examples: Examples, chosen: list[np.ndarray], *, seed: int, learning_rate: float
) -> Iterator[Step | dict[str, Result]]:
    """Trains both layouts in turn; yields every step, and last the result of each layout.

    Args:
        chosen: the examples of each step, as `Examples.chosen` gives them.
    """
    shapes = {layout: _shapes(examples, chosen, layout) for layout in LAYOUTS}
    start = examples.init(jax.random.key(seed))
    state = {layout: _fresh(start) for layout in LAYOUTS}
    update = jax.jit(_update(examples.loss), donate_argnums=0)
    compiled = {
        layout: update.lower(state[layout], shapes[layout], np.float32(0)).compile()
        for layout in LAYOUTS
    }
    steps = len(chosen)
    rates = optimizer.wsd(0, steps, steps=steps, peak=learning_rate)
    for step in range(steps):
        for layout in LAYOUTS[:: 1 if step % 2 else -1]:  # neither is always the first
            began = time.perf_counter()
            rows = grown(examples.batch(chosen[step], planning(layout)), shapes[layout])
            ready = time.perf_counter()
            state[layout], loss = compiled[layout](state[layout], rows, rates[step])
            loss = float(loss)  # waits for the step
            yield Step(
                layout,
                loss,
                int(examples.lengths[chosen[step]].sum()),
                _positions(rows),
                ready - began,
                time.perf_counter() - ready,
            )
    measure = jax.jit(examples.loss)
    yield {layout: _measured(measure, state[layout].params, examples) for layout in LAYOUTS}


def _shapes(examples: Examples, chosen: list[np.ndarray], layout: str) -> dict[str, Any]:
    """Arrays that hold every step's rows, as shapes and types: one program for all of them."""
    plans = [
        packing.plan(examples.lengths[which], examples.capacity, **planning(layout))
        for which in chosen
    ]
    rows = max(plan.rows for plan in plans)
    segments = max(int(np.bincount(plan.row).max()) for plan in plans)
    batch = examples.batch(chosen[0], planning(layout))
    by_segment = ("labels", "weights") if "labels" in batch else ()
    tails = {name: (segments,) if name in by_segment else x.shape[1:] for name, x in batch.items()}
    return {name: jax.ShapeDtypeStruct((rows, *tails[name]), x.dtype) for name, x in batch.items()}


def _positions(rows: Batch) -> int:
    ids = rows["segment_ids"] if "segment_ids" in rows else rows["patches_segment_ids"]
    return ids.size


def _fresh(params) -> State:
    params = jax.tree.map(jnp.copy, params)  # a layout of its own: its buffers are donated
    return State(params, optimizer.adamw().init(params))


def _update(loss):
    tx = optimizer.adamw()

    def mean(params, batch):
        summed, count = loss(params, batch)
        return summed / jnp.maximum(count, 1)

    def update(state: State, batch: Batch, learning_rate) -> tuple[State, Any]:
        value, gradients = jax.value_and_grad(mean)(state.params, batch)
        updates, optimizer_state = tx.update(
            gradients, state.optimizer, state.params, learning_rate=learning_rate
        )
        return State(optax.apply_updates(state.params, updates), optimizer_state), value

    return update


def _measured(measure, params, examples: Examples) -> Result:
    sums = [measure(params, batch) for batch in examples.validation]
    total, count = np.sum(np.array(sums, np.float64), axis=0)
    return Result(params, float(total / count))
