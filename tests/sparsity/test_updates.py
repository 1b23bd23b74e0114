"""pruned(): exact counts at every step, around any optimizer, one program for all schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from bitlaw.sparsity import Cubic, masks_of, pruned

OPTIMIZERS = {
    "adamw": optax.adamw(1e-2),
    "lion": optax.lion(1e-3),
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adafactor": optax.adafactor(1e-2),
    "muon": optax.contrib.muon(1e-2),
}


def params():
    rng = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(np.float32))
    return {"a": make(24, 16), "b": {"w": make(16, 40), "bias": make(40)}}


def stepper(tx):
    @jax.jit
    def step(p, state, k):
        grads = jax.tree.map(lambda x: jnp.sin(3 * x + k), p)
        updates, state = tx.update(grads, state, p)
        return optax.apply_updates(p, updates), state

    return step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_counts_follow_the_schedule_with_any_optimizer(name):
    schedule = Cubic(0.75, begin=3, end=12, every=4)
    tx = pruned(OPTIMIZERS[name], schedule)
    p = params()
    state, step = tx.init(p), stepper(tx)
    for k in range(1, 16):
        p, state = step(p, state, k)
        for leaf in (p["a"], p["b"]["w"]):
            due = schedule.steps() <= k
            want = schedule.keep_counts(leaf.size)[due][-1] if due.any() else leaf.size
            assert int((leaf != 0).sum()) == want, k
        assert (p["b"]["bias"] != 0).all()
    assert masks_of(state)["b"]["bias"] is None
    assert int(masks_of(state)["a"].count()) == 24 * 16 // 4


def test_one_program_serves_every_schedule():
    short, long = Cubic(0.5, 2, 8, 2), Cubic(0.9, 5, 40, 3)
    tx = pruned(optax.adamw(1e-2), short)
    step = stepper(tx)
    for schedule in (short, long):
        p = params()
        state = pruned(optax.adamw(1e-2), schedule).init(p)
        for k in range(1, 42):
            p, state = step(p, state, k)
        assert int((p["a"] != 0).sum()) == schedule.keep_counts(384)[-1]
    assert step._cache_size() == 1


def test_between_updates_the_survivors_train_and_the_rest_stays_zero():
    tx = pruned(optax.sgd(0.1), Cubic(0.5, 1, 2))
    p = params()
    state, step = tx.init(p), stepper(tx)
    for k in range(1, 4):
        p, state = step(p, state, k)
    before = p["a"]
    p, state = step(p, state, 4)
    zero = np.asarray(before == 0)
    assert (np.asarray(p["a"])[zero] == 0).all()
    assert (np.asarray(p["a"] != before)[~zero]).all()


def test_the_mask_keeps_the_largest_new_magnitudes():
    tx = pruned(optax.sgd(1.0), Cubic(0.5, 1, 2))
    p = {"w": jnp.asarray([[1.0, 2.0], [3.0, 4.0]])}
    state = tx.init(p)
    for _ in range(2):
        updates, state = tx.update({"w": jnp.asarray([[-4.0, 1.0], [1.0, 1.0]])}, state, p)
        p = optax.apply_updates(p, updates)
    assert p["w"].tolist() == [[9.0, 0.0], [0.0, 2.0]]


def test_it_works_under_multi_steps_and_scan():
    tx = optax.MultiSteps(pruned(optax.adamw(1e-2), Cubic(0.5, 1, 4)), every_k_schedule=2)
    p = params()

    def body(carry, k):
        p, state = carry
        updates, state = tx.update(jax.tree.map(jnp.cos, p), state, p)
        return (optax.apply_updates(p, updates), state), k

    (p, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, jnp.arange(10)))((p, tx.init(p)))
    assert int((p["a"] != 0).sum()) == 192


def test_select_says_what_is_pruned():
    tx = pruned(optax.sgd(0.1), Cubic(0.5, 1, 2), select=lambda path, leaf: "a" in str(path[0]))
    p = params()
    state, step = tx.init(p), stepper(tx)
    for k in range(1, 4):
        p, state = step(p, state, k)
    assert int((p["a"] != 0).sum()) == 192 and (p["b"]["w"] != 0).all()


def test_params_must_be_given():
    tx = pruned(optax.sgd(0.1), Cubic(0.5, 1, 2))
    p = params()
    with pytest.raises(ValueError, match="params must be given"):
        tx.update(p, tx.init(p))


def test_what_is_pruned_does_not_regrow():
    """A pruned weight's own update may exceed a survivor: it must not come back."""
    schedule = Cubic(0.5, begin=2, end=60, every=1)
    tx = pruned(optax.adamw(0.3), schedule)  # large steps, so that survivors cross zero
    p = params()
    state, step = tx.init(p), stepper(tx)
    alive = np.ones(p["a"].shape, bool)
    for k in range(1, 70):
        p, state = step(p, state, k)
        mask = np.asarray(masks_of(state)["a"].to_bool())
        assert not (mask & ~alive).any(), k
        alive = mask
    assert alive.sum() == 192


def test_a_schedule_that_begins_at_once_prunes_from_the_first_step():
    schedule = Cubic(0.9, begin=0, end=10, every=5, initial=0.5)
    tx = pruned(optax.sgd(0.1), schedule)
    p = params()
    state, step = tx.init(p), stepper(tx)
    p, state = step(p, state, 1)
    assert int((p["a"] != 0).sum()) == 192
