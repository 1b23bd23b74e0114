"""Dispatch against a literal loop and np.argsort, gather and combine against finite sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw import dispatch
from bitlaw.ops import OPS


def one_by_one(expert, gate, experts, capacity, priority):
    """Slots by walking through the assignments in the order the priority names."""
    tokens, k = expert.shape
    order = [(t, j) for t in range(tokens) for j in range(k)]
    if priority == "choice":
        order.sort(key=lambda a: (a[1], a[0]))
    if priority == "gate":
        lost = np.isnan(gate).any(1)
        order.sort(key=lambda a: (a[1], lost[a[0]], -np.nanmax(gate[a[0]], initial=-9), a[0]))
    used, slot = np.zeros(experts, int), np.full((tokens, k), -1)
    for t, j in order:
        e = expert[t, j]
        if e >= 0:
            if used[e] < capacity:
                slot[t, j] = e * capacity + used[e]
            used[e] += 1
    return slot, used


@pytest.mark.parametrize("priority", ["token", "choice", "gate"])
def test_slots_equal_a_walk_through_the_assignments(priority):
    rng = np.random.default_rng(0)
    for tokens, k, experts, capacity in [(40, 2, 4, 7), (40, 3, 5, 100), (1, 1, 9, 1)]:
        expert = rng.integers(-1, experts, (tokens, k)).astype(np.int32)
        gate = np.round(rng.random((tokens, k)) * 8).astype(np.float32) / 8
        gate[rng.random(gate.shape) < 0.05] = np.nan
        plan = dispatch.plan(expert, gate, experts=experts, capacity=capacity, priority=priority)
        slot, used = one_by_one(expert, gate, experts, capacity, priority)
        np.testing.assert_array_equal(plan.slot, slot)
        np.testing.assert_array_equal(plan.count, used)
        # Slot and source say the same, and no assignment is doubled.
        source = np.asarray(plan.source).ravel()
        for i, s in enumerate(slot.ravel()):
            assert s == -1 or source[s] == i
        assert (source >= 0).sum() == (slot >= 0).sum() == used.sum() - int(plan.dropped)


def test_whom_each_priority_drops_by_hand():
    expert = np.array([[0, 1], [0, 1], [1, 0]], np.int32)
    gate = np.array([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]], np.float32)
    slot = lambda gate, **how: dispatch.plan(expert, gate, experts=2, capacity=1, **how).slot
    assert slot(gate, priority="token").tolist() == [[0, 1], [-1, -1], [-1, -1]]
    assert slot(gate, priority="choice").tolist() == [[0, -1], [-1, -1], [1, -1]]
    assert slot(gate, priority="gate").tolist() == [[-1, -1], [0, -1], [1, -1]]
    gate[1, 1] = np.nan  # goes last
    assert slot(gate, priority="gate").tolist() == [[0, -1], [-1, -1], [1, -1]]


def test_dropless_equals_a_stable_argsort():
    expert = np.random.default_rng(0).integers(0, 13, (50_000, 2)).astype(np.int32)
    plan = dispatch.dropless(expert, experts=13)
    order = np.argsort(expert.ravel(), kind="stable")
    np.testing.assert_array_equal(plan.source, order)
    np.testing.assert_array_equal(plan.slot.ravel()[order], np.arange(len(order)))
    np.testing.assert_array_equal(plan.count, np.bincount(expert.ravel(), minlength=13))


def matrices(x, gate, plan, w):
    """The definition, token by token in float64."""
    out = np.zeros((len(x), w.shape[2]))
    slots = np.prod(plan.source.shape)
    start = np.cumsum(plan.count) - plan.count
    for t, j in np.ndindex(plan.slot.shape):
        s = int(plan.slot[t, j])
        if s >= 0:
            if plan.source.ndim == 2:
                e = s // (slots // len(w))
            else:
                e = np.searchsorted(start, s, side="right") - 1
            out[t] += gate[t, j] * np.tanh(x[t] @ w[e])
    return out


@pytest.mark.parametrize("ragged", [False, True])
def test_experts_and_their_gradients_equal_a_sum_over_tokens(ragged):
    rng = np.random.default_rng(0)
    tokens, k, experts, width = 24, 2, 3, 4
    # Expert 2 last, so that no empty group makes searchsorted above ambiguous.
    expert = rng.integers(-1, experts, (tokens, k)).astype(np.int32)
    x, gate = rng.normal(size=(tokens, width)), rng.random((tokens, k))
    w, dout = rng.normal(size=(experts, width, 5)), rng.normal(size=(tokens, 5))
    if ragged:
        plan = dispatch.dropless(expert, experts=experts)
    else:
        plan = dispatch.plan(expert, gate, experts=experts, capacity=9)
        assert int(plan.dropped) > 0

    def run(x, gate, w):
        y = dispatch.gather(x, plan)
        if ragged:
            y = jax.lax.ragged_dot(y, w, plan.count)
        else:
            y = jnp.einsum("ecd,edf->ecf", y, w, precision="highest")
        return (dispatch.combine(jnp.tanh(y), gate, plan) * dout).sum()

    f32 = [jnp.asarray(a, jnp.float32) for a in (x, gate, w)]
    value, gradients = jax.jit(jax.value_and_grad(run, (0, 1, 2)))(*f32)
    plan_64 = jax.tree.map(np.asarray, plan)
    exact = lambda *a: (matrices(a[0], a[1], plan_64, a[2]) * dout).sum()
    assert abs(value - exact(x, gate, w)) < 1e-4
    for at, array in enumerate((x, gate, w)):
        for index in list(np.ndindex(array.shape))[::7]:
            ends = []
            for step in (1e-6, -1e-6):
                moved = [a.copy() for a in (x, gate, w)]
                moved[at][index] += step
                ends.append(exact(*moved))
            # 1e-4: f32 sums of a few dozen terms of size one.
            assert abs((ends[0] - ends[1]) / 2e-6 - gradients[at][index]) < 1e-4


def test_groups_by_vmap_and_no_tokens():
    rng = np.random.default_rng(0)
    expert, gate = rng.integers(0, 4, (3, 16, 2)), rng.random((3, 16, 2)).astype(np.float32)
    x = jnp.asarray(rng.normal(size=(3, 16, 8)), jnp.float32)

    def layer(x, expert, gate):
        plan = dispatch.plan(expert, gate, experts=4, capacity=5)
        return dispatch.combine(dispatch.gather(x, plan), gate, plan)

    together = jax.jit(jax.vmap(layer))(x, jnp.asarray(expert), gate)
    for i in range(3):
        alone = layer(x[i], jnp.asarray(expert[i]), gate[i])
        # XLA contracts a * b + c in the one program and not in the others: an ulp or two of a term.
        np.testing.assert_allclose(together[i], alone, rtol=0, atol=5e-7)
    none = layer(x[0, :0], jnp.zeros((0, 2), jnp.int32), gate[0, :0])
    assert none.shape == (0, 8)


def test_a_nan_gate_reaches_the_output():
    gate = np.array([[np.nan, 1.0], [1.0, 1.0]], np.float32)
    plan = dispatch.plan(np.array([[0, 1], [1, 0]]), gate, experts=2, capacity=2, priority="gate")
    out = dispatch.combine(dispatch.gather(jnp.ones((2, 3)), plan), gate, plan)
    assert np.isnan(out[0]).all() and (out[1] == 2).all()


def test_slots_per_expert():
    assert dispatch.capacity(64, 2, 8, 1.25) == 20
    assert dispatch.capacity(3, 1, 8, 1.0) == 1  # more experts than tokens: one slot each
    assert dispatch.capacity(jnp.int32(64), 2, np.array(8), jnp.float32(1.25)) == 20
    for arguments, message in [
        ((64, 2, 8, 0.0), "factor must be positive and finite, got 0.0"),
        ((64, 2, 8, np.nan), "factor must be positive and finite, got nan"),
        ((64, 0, 8, 1.0), "k must be at least 1, got 0"),
        (("64", 2, 8, 1.0), "tokens must be an integer, got '64'"),
        ((64, 2, 8, "1"), "factor must be positive and finite, got '1'"),
    ]:
        with pytest.raises(ValueError, match=message):
            dispatch.capacity(*arguments)


GATE = np.ones((2, 1), np.float32)


@pytest.mark.parametrize(
    ("expert", "gate", "options", "message"),
    [
        ([[0], [1]], GATE, {"capacity": 0}, "capacity must be at least 1 slot per expert, got 0"),
        ([[0], [1]], GATE, {"experts": 0}, "experts must be at least 1, got 0"),
        ([[0], [1]], GATE, {"priority": "last"}, "priority must be token, choice or gate"),
        ([[0], [1]], GATE, {"experts": 2.5}, "experts must be an integer, got 2.5"),
        ([[0], [1]], GATE[:1], {}, "gate must be [2, 1], got [1, 1]"),
        ([[0], [1]], GATE * 1j, {}, "gate must be numbers, got complex"),
        ([[0], [1]], None, {}, "gate must be an array, got None"),
        ([0, 1], GATE, {}, "expert must be i32[tokens, k], got"),
        ([[0], [1, 1]], GATE, {}, "expert must be i32[tokens, k], got list"),
        ([[0.5], [1]], GATE, {}, "expert must be i32[tokens, k], got float64[2, 1]"),
        ([[0], [2]], GATE, {}, "expert must be in [-1, 2), got 0 to 2"),
        ([[0], [2**32]], GATE, {}, "expert must be in [-1, 2), got 0 to 4294967296"),
        (np.zeros((2, 0), int), GATE[:, :0], {}, "at least one choice per token"),
        ([[0], [1]], GATE, {"capacity": 2**30}, "must be below 2^31"),
    ],
)
def test_bad_dispatch_is_refused_by_name(expert, gate, options, message):
    with pytest.raises(ValueError) as error:
        dispatch.plan(expert, gate, **({"experts": 2, "capacity": 1} | options))
    assert message in str(error.value)


def test_an_expert_that_does_not_exist_is_an_error_through_every_door():
    expert = np.array([[[0], [2]]], np.int32)
    message = r"expert must be in \[-1, 2\), got"
    with pytest.raises(ValueError, match=message):
        OPS["dispatch_sort"](expert, experts=2)
    with pytest.raises(ValueError, match=message):
        OPS["dispatch_sort"].definition(expert, experts=2)
    with pytest.raises(ValueError, match=message):
        dispatch.dropless(expert[0], experts=2)
    for wrong in jnp.asarray(expert[0]), jnp.array([[0], [2**32 - 1]], jnp.uint32):
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            jax.block_until_ready(dispatch.dropless(wrong, experts=2))


def test_gather_and_combine_refuse_other_shapes():
    plan = dispatch.plan(np.array([[0], [1]]), GATE, experts=2, capacity=1)
    for call, message in [
        (lambda: dispatch.gather(jnp.ones((3, 4)), plan), r"x must be \[2, d\], got \[3, 4\]"),
        (lambda: dispatch.gather(jnp.ones((2, 4)), (1, 2)), "plan must be a Dispatch, got tuple"),
        (lambda: dispatch.combine(jnp.ones((2, 4)), GATE, plan), r"y must be \[2, 1\] x d"),
        (lambda: dispatch.combine(jnp.ones((2, 1, 4)), GATE[:1], plan), r"gate must be \[2, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_lists_of_traced_gates_and_masks_for_gates():
    expert = np.array([[1], [0], [1]])
    plan = lambda gate: dispatch.plan(expert, gate, experts=2, capacity=1, priority="gate").slot
    traced = jax.jit(lambda g: plan([[g], [g], [2 * g]]))(jnp.float32(0.5))
    np.testing.assert_array_equal(traced[:, 0], [-1, 0, 1])
    np.testing.assert_array_equal(plan(expert > 0)[:, 0], [1, 0, -1])
