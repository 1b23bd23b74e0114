"""The optimizer against optax's own, and the schedules value by value."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bitlaw.formats import SparseSpec
from bitlaw.train import optimizer


def test_adamw_equals_the_one_of_optax():
    params = {"matrix": jnp.ones((3, 4)), "gain": jnp.ones(4)}
    ours = optimizer.adamw(b2=0.95, weight_decay=0.1, clip=1.0)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(1e-2, b2=0.95, weight_decay=0.1, mask={"matrix": True, "gain": False}),
    )
    states, both = [ours.init(params), theirs.init(params)], [params, params]
    for i in range(4):
        gradients = jax.tree.map(lambda p, i=i: jnp.sin(p * (i + 1)) * 3, params)
        for j, (tx, rate) in enumerate(((ours, {"learning_rate": 1e-2}), (theirs, {}))):
            updates, states[j] = tx.update(gradients, states[j], both[j], **rate)
            both[j] = optax.apply_updates(both[j], updates)
    assert all(map(np.array_equal, jax.tree.leaves(both[0]), jax.tree.leaves(both[1])))
    assert np.all(both[0]["matrix"] < both[0]["gain"])  # matrices decayed


def test_wsd_warms_up_stays_and_cools_down_to_almost_zero():
    rates = optimizer.wsd(0, 1000, steps=1000, peak=2.0, warmup=50, cooldown=0.25)
    np.testing.assert_allclose(rates[:50], 2.0 * np.arange(1, 51) / 50, rtol=1e-6)
    assert np.all(rates[49:750] == 2.0)
    np.testing.assert_allclose(rates[750:], 2.0 * np.arange(250, 0, -1) / 251, rtol=1e-6)


def test_wsd_of_every_budget_is_one_trunk_until_its_cooldown():
    long = optimizer.wsd(0, 800, steps=800, peak=0.1)
    for steps in (41, 100, 400):
        begin = optimizer.cooldown_begin(steps)
        assert np.array_equal(optimizer.wsd(0, begin, steps=steps, peak=0.1), long[:begin])
        last = optimizer.wsd(begin, steps, steps=steps, peak=0.1)
        assert np.all(np.diff(last[50:]) < 0)
        assert 0 < last[-1] < last[0]


@pytest.mark.parametrize("steps", [8, 52, 396, 512, 2048])
def test_pruning_ramps_over_the_middle_half_and_ends_exactly(steps):
    schedule = optimizer.pruning(0.75, steps)
    updates = np.asarray(schedule.steps())
    assert (updates[0], updates[-1]) == (steps // 4, 3 * steps // 4)
    assert np.all(np.diff(updates) >= 1)
    assert len(updates) <= optimizer.RAMP_INTERVALS + 1
    assert np.asarray(schedule.keep_counts(1000))[-1] == 250


def test_only_block_matrices_are_pruned_each_to_the_same_sparsity():
    params = {
        "embedding": jnp.arange(1.0, 9.0).reshape(2, 4),
        "blocks": [{"up": jnp.arange(1.0, 9.0).reshape(2, 4), "mlp_norm": jnp.ones(4)}],
    }
    tx = optimizer.sparse(SparseSpec(0.5), 8)
    state = tx.init(params)
    for _ in range(8):
        gradients = jax.tree.map(jnp.zeros_like, params)
        updates, state = tx.update(gradients, state, params, learning_rate=0.0)
        params = optax.apply_updates(params, updates)
    assert np.count_nonzero(params["embedding"]) == 8
    assert np.count_nonzero(params["blocks"][0]["mlp_norm"]) == 4
    assert params["blocks"][0]["up"].tolist() == [[0, 0, 0, 0], [5, 6, 7, 8]]
