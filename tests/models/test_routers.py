"""Routers against brute force in numpy, their losses by hand, and what padding must not do."""

import jax
import numpy as np
import pytest
from scipy.special import softmax

from bitlaw.models import routers
from bitlaw.models.routers import Routing

LOGITS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
REAL = np.arange(12) < 10
RTOL = 1e-5  # exponentials of f32, sums of 12 terms


def test_top_k_equals_brute_force_under_both_normalisations():
    order = np.argsort(-LOGITS, axis=1, kind="stable")[:, :2]
    everywhere = softmax(LOGITS.astype(np.float64), axis=1)
    vmoe, mixtral = (routers.top_k(LOGITS, 2, normalize) for normalize in ("vmoe", "mixtral"))
    for routing in (vmoe, mixtral):
        assert np.array_equal(routing.experts, order)
        np.testing.assert_allclose(routing.probabilities, everywhere, rtol=RTOL)
    np.testing.assert_allclose(vmoe.gates, np.take_along_axis(everywhere, order, 1), rtol=RTOL)
    kept = softmax(np.take_along_axis(LOGITS, order, 1).astype(np.float64), axis=1)
    np.testing.assert_allclose(mixtral.gates, kept, rtol=RTOL)


def test_top_k_by_hand():
    logits = np.log(np.array([[1, 2, 5, 2]], np.float32))
    routing = routers.top_k(logits, 2)
    assert routing.experts.tolist() == [[2, 1]]  # of the two equal ones the lowest
    assert routing.gates[0] == pytest.approx([0.5, 0.2], rel=RTOL)
    assert routers.top_k(logits, 2, "mixtral").gates[0] == pytest.approx([5 / 7, 2 / 7], rel=RTOL)
    noise = np.array([[9, 0, 0, 0]], np.float32)
    assert routers.top_k(logits, 1, noise_NxX=noise).experts.tolist() == [[0]]


def test_hashed_is_the_remainder():
    routing = routers.hashed(np.array([0, 5, 255, 8]), 4)
    assert routing.experts.tolist() == [[0], [1], [3], [0]] and (routing.gates == 1).all()
    assert routing.probabilities.tolist() == np.eye(4)[[0, 1, 3, 0]].tolist()


def plan_by_scaling(logits, steps):
    """Sinkhorn's algorithm on the matrix itself, in float64: columns, then rows."""
    p = np.exp(logits.astype(np.float64))
    for _ in range(steps):
        p *= len(p) / p.shape[1] / p.sum(axis=0)
        p /= p.sum(axis=1, keepdims=True)
    return p


def test_sinkhorn_equals_scaling_of_the_matrix_and_balances_it():
    found = np.asarray(routers.sinkhorn(LOGITS, REAL, 8))[REAL]
    np.testing.assert_allclose(np.exp(found), plan_by_scaling(LOGITS[REAL], 8), rtol=1e-4)
    plan = np.exp(np.asarray(routers.sinkhorn(LOGITS, REAL, 200))[REAL])
    np.testing.assert_allclose(plan.sum(axis=0), 10 / 4, rtol=1e-4)  # 200 roundings of f32
    np.testing.assert_allclose(plan.sum(axis=1), 1, rtol=1e-4)
    # The optimum: log P - logits is a number of the row plus a number of the column.
    rest = np.log(plan) - LOGITS[REAL]
    rest = rest - rest.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(np.ptp(rest, axis=0), 0, atol=1e-4)


def test_s_base_spreads_tokens_that_all_prefer_one_expert():
    logits = LOGITS + np.array([5, 0, 0, 0], np.float32)
    real = np.ones(12, bool)
    assert set(np.argmax(logits, axis=1)) == {0}
    routing = routers.sinkhorn_top_1(logits, real, 50)
    assert np.array_equal(routing.experts[:, 0], plan_by_scaling(logits, 50).argmax(axis=1))
    assert np.bincount(routing.experts[:, 0], minlength=4).max() <= 5
    expected = np.take_along_axis(softmax(logits.astype(np.float64), 1), routing.experts, 1)
    np.testing.assert_allclose(routing.gates, expected, rtol=RTOL)


def test_expert_choice_equals_a_sort_of_each_column():
    tokens, gates = routers.expert_choice(LOGITS, 3, REAL)
    scores = softmax(LOGITS[REAL].astype(np.float64), axis=1)
    expected = np.argsort(-scores, axis=0, kind="stable")[:3].T
    assert np.array_equal(tokens, expected)
    np.testing.assert_allclose(gates, np.take_along_axis(scores.T, expected, 1), rtol=RTOL)
    # Slots without a token have the gate 0.
    _, gates = routers.expert_choice(LOGITS, 12, REAL)
    assert ((gates > 0).sum(axis=1) == 10).all()


def test_soft_equals_its_definition_and_ignores_padding():
    rng = np.random.default_rng(1)
    x, phi = rng.normal(size=(12, 5)), rng.normal(size=(5, 8))
    dispatch, combine = routers.soft(x.astype(np.float32), phi.astype(np.float32), 3.0, REAL)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    logits = x @ (3 * phi / np.linalg.norm(phi, axis=0))
    np.testing.assert_allclose(dispatch[:10], softmax(logits[:10], axis=0), rtol=1e-4)
    np.testing.assert_allclose(combine, softmax(logits, axis=1), rtol=1e-4)
    assert (dispatch[10:] == 0).all()


@pytest.mark.parametrize("loss, balanced", [(routers.load_balance, 1), (routers.importance, 0)])
def test_losses_are_least_in_balance_and_ignore_padding(loss, balanced):
    even = Routing(np.arange(12)[:, None] % 4, np.ones((12, 1)), np.full((12, 4), 0.25))
    assert float(loss(even, np.ones(12, bool))) == pytest.approx(balanced, abs=1e-6)
    skewed = routers.top_k(LOGITS + np.array([2, 0, 0, 0], np.float32), 2)
    assert loss(skewed, REAL) > balanced + 0.1
    alone = Routing(*(array[:10] for array in skewed))
    assert float(loss(skewed, REAL)) == pytest.approx(float(loss(alone, REAL[:10])), rel=RTOL)


def test_losses_by_hand():
    # Of 4 choices of 2 tokens expert 0 has 2, 1 and 2 have 1; the mean probabilities follow.
    routing = Routing(
        np.array([[0, 1], [2, 0]]), None, np.array([[0.6, 0.3, 0.1], [0.3, 0.1, 0.6]])
    )
    real = np.ones(2, bool)
    by_hand = 3 * (0.5 * 0.45 + 0.25 * 0.2 + 0.25 * 0.35)
    assert float(routers.load_balance(routing, real)) == pytest.approx(by_hand, rel=RTOL)
    sums = np.array([0.9, 0.4, 0.7])
    by_hand = sums.var() / sums.mean() ** 2
    assert float(routers.importance(routing, real)) == pytest.approx(by_hand, rel=RTOL)


def test_the_gradient_of_the_balance_loss_lowers_the_crowded_expert():
    logits = LOGITS + np.array([2, 0, 0, 0], np.float32)
    loss = lambda x: routers.load_balance(routers.top_k(x, 1), REAL)
    gradient = np.asarray(jax.grad(loss)(logits))
    assert (gradient[:10, 0] > 0).all() and (gradient[10:] == 0).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: routers.top_k(LOGITS, 5), "k must be in 1..4 experts, got 5"),
        (lambda: routers.top_k(LOGITS, 2, "both"), "normalize must be 'vmoe' or 'mixtral'"),
        (lambda: routers.expert_choice(LOGITS, 13, REAL), "capacity must be in 1..12 tokens"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
