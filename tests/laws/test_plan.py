"""The planner against brute force over a grid, and what a scheme costs."""

import math

import numpy as np
import pytest

from bitlaw.laws import forms
from bitlaw.laws.plan import (
    Budget,
    Option,
    Trained,
    best_plans,
    cost_of,
    frontier,
    optimum,
    refuse_far,
)

LAW = {"a": 406.4, "b": 0.34, "c": 410.7, "d": 0.28, "e": 1.69}
SCHEMES = {  # eff, bits per weight, sparsity
    "dense": (1.0, 16.0, 0.0),
    "w=int4/block32": (0.92, 4.5, 0.0),
    "w=int2/block32": (0.45, 2.5, 0.0),
    "s=0.5": (0.80, 9.0, 0.5),
    "s=0.75": (0.60, 5.0, 0.75),
}
TRAINED = Trained((1e7, 1e10), (1e9, 1e12))
BUDGETS = [
    Budget(flops=1e21),
    Budget(flops=1e21, memory=4e8),
    Budget(flops=1e22, memory=1e9, tokens=2e11),
    Budget(flops=1e21, tokens=5e9),
    Budget(memory=1e9, tokens=1e11),
    Budget(inference=1e9, tokens=1e11),
    Budget(flops=1e25, memory=8e9, tokens=1e12),  # more FLOPs than the other two can use
    Budget(flops=1e21, memory=1e9, embedding=5e8),
]


def option(scheme, draws=0, **kwargs):
    eff, bits, sparsity = SCHEMES[scheme]
    rng = np.random.default_rng(0)  # the same for every scheme: paired
    noise = {name: np.r_[0, 0.03 * rng.standard_normal(draws)] for name in ("a", "b", "c", "d")}
    coefficients = {k: LAW[k] * np.exp(noise[k]) for k in noise}
    coefficients |= {"e": np.full(1 + draws, LAW["e"])}
    own = np.random.default_rng(len(scheme) + round(100 * eff)).standard_normal(draws)
    coefficients["eff"] = eff * np.exp(np.r_[0, 0.02 * own])
    return Option(scheme, forms.effective, coefficients, cost_of(sparsity, bits), **kwargs)


STEP = 1.03  # of the grid


def brute_force(option, budget):
    """The lowest loss on a grid of N and D within the budget, and its N and D."""
    n, d = (STEP ** np.arange(np.log(low) // np.log(STEP), np.log(high) // np.log(STEP))
            for low, high in ((1e6, 1e12), (1e8, 1e15)))  # fmt: skip
    n, d = np.meshgrid(n, d)
    cost = option.cost
    allowed = np.ones(n.shape, dtype=bool)
    if budget.flops:
        allowed &= cost.training * n * d <= budget.flops
    if budget.memory:
        allowed &= cost.bits * n / 8 + budget.embedding <= budget.memory
    if budget.inference:
        allowed &= cost.inference * n <= budget.inference
    if budget.tokens:
        allowed &= d <= budget.tokens
    coefficients = {k: float(v[0]) for k, v in option.coefficients.items()}
    loss = np.where(allowed, forms.effective(n, d, **coefficients), np.inf)
    best = np.argmin(loss)
    return loss.flat[best], n.flat[best], d.flat[best]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_optimum_equals_brute_force_over_a_grid(budget):
    found = {}
    for scheme in SCHEMES:
        (n, *_), (d, *_) = optimum(option(scheme), budget)
        loss, below = (float(option(scheme).loss(n / s, d / s)[0]) for s in (1, STEP))
        grid, grid_n, grid_d = brute_force(option(scheme), budget)
        assert loss <= grid <= below  # a point of the grid lies within a step below (n, d)
        assert abs(math.log(n / grid_n)) < 0.35 and abs(math.log(d / grid_d)) < 0.35
        found[scheme] = (loss, grid)
    best, *_ = plans = best_plans([option(s) for s in SCHEMES], budget, TRAINED)
    assert best.loss[0] == min(loss for loss, _ in found.values())
    assert best.loss[0] <= min(grid for _, grid in found.values())
    assert [plan.scheme for plan in plans] == sorted(found, key=found.get)


def test_optimum_equals_the_closed_form_of_chinchilla():
    # N_opt = G (C / 6)^(beta / (alpha + beta)), G = (alpha A / (beta B))^(1 / (alpha + beta))
    (n, *_), (d, *_) = optimum(option("dense"), Budget(flops=5.76e23))
    total = LAW["b"] + LAW["d"]
    g = (LAW["b"] * LAW["a"] / (LAW["d"] * LAW["c"])) ** (1 / total)
    assert n == pytest.approx(g * (5.76e23 / 6) ** (LAW["d"] / total), rel=1e-6)
    assert 6 * n * d == pytest.approx(5.76e23, rel=1e-12)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_no_plan_exceeds_its_budget(budget):
    for plan in best_plans([option(s) for s in SCHEMES], budget, TRAINED):
        assert plan.binding
        for name, spent in (
            ("flops", plan.flops),
            ("memory", plan.memory),
            ("inference", plan.inference),
            ("tokens", plan.d_tokens),
        ):
            limit = getattr(budget, name)
            assert limit is None or spent <= limit * (1 + 1e-9)
            assert (name in plan.binding) == (limit is not None and spent > limit * 0.999999)


def test_a_runner_up_with_the_budget_it_needs_matches_the_best():
    budget = Budget(flops=1e21, memory=4e8)
    best, *others = best_plans([option(s) for s in SCHEMES], budget, TRAINED)
    matched = 0
    for plan in others:
        if plan.to_match is None:
            continue
        more = {plan.matched_by: getattr(budget, plan.matched_by) * plan.to_match}
        bigger = Budget(**({"flops": budget.flops, "memory": budget.memory} | more))
        (again,) = best_plans([option(plan.scheme)], bigger, TRAINED)
        assert again.loss[0] == pytest.approx(best.loss[0], rel=1e-9)
        matched += 1
    assert matched


def test_intervals_hold_the_values_and_order_follows_the_fit():
    plans = best_plans([option(s, draws=300) for s in SCHEMES], BUDGETS[1], TRAINED)
    for plan in plans:
        loss, low, high = plan.loss
        assert low < loss < high
        assert plan.n_interval[0] <= plan.n_params <= plan.n_interval[1]
    assert plans[0].behind == (0.0, None, None)
    assert any(plan.separated for plan in plans[1:])
    again = best_plans([option(s) for s in SCHEMES], BUDGETS[1], TRAINED)
    assert [plan.scheme for plan in plans] == [plan.scheme for plan in again]
    assert all(plan.loss[1] is None for plan in again)  # no resamples, no interval


def test_differences_to_the_best_are_paired_by_resample():
    best, *others = best_plans([option(s, draws=200) for s in SCHEMES], BUDGETS[1], TRAINED)
    losses = {
        plan.scheme: option(plan.scheme, draws=200).loss(plan.n_params, plan.d_tokens)
        for plan in (best, *others)
    }
    for plan in others:
        difference = losses[plan.scheme] - losses[best.scheme]
        expected = (difference[0], *np.quantile(difference[1:], [0.05, 0.95]))
        assert plan.behind == pytest.approx(expected)
        # the coefficients that all schemes share cancel: far narrower than unpaired
        assert plan.behind[2] - plan.behind[1] < 0.5 * (plan.loss[2] - plan.loss[1])


def test_a_narrow_level_lies_within_a_wide_one():
    wide, narrow = (
        best_plans([option("dense", draws=300)], BUDGETS[0], TRAINED, level)[0].loss
        for level in (0.95, 0.5)
    )
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


def test_costs_count_zeros_once():
    # 25-75 % cubic ramp: mean density 1 - .625 S of the total weights
    assert cost_of(0.5, 9.0).training == pytest.approx(6 * (1 - 0.625 * 0.5))
    assert cost_of(0.5, 9.0).inference == 1.0
    assert cost_of(0.5, 9.0, zeros="computed").training == 6.0
    nonzero = cost_of(0.5, 9.0, counted="nonzero")
    assert nonzero.training == pytest.approx(2 * cost_of(0.5, 9.0).training)
    assert nonzero.inference == 2.0 and nonzero.bits == 18.0
    assert cost_of(bits_per_weight=4.5).bits == 4.5 and cost_of(bits_per_weight=4.5).training == 6


def test_frontier_falls_with_its_budget():
    memory = np.geomspace(1e8, 1e10, 15)
    losses = frontier(option("w=int4/block32"), BUDGETS[1], "memory", memory)
    assert (np.diff(losses) <= 1e-12).all() and losses[0] > losses[-1]
    assert losses[-1] == pytest.approx(losses[-2])  # there the FLOPs bind


def test_extrapolation_beyond_a_hundred_times_is_refused():
    small = Trained((1e4, 1e5), (1e6, 1e7))
    (plan,) = best_plans([option("dense")], Budget(flops=1e16), small)
    assert plan.extrapolation["N D"] == pytest.approx(1e16 / 6 / 1e12)
    with pytest.raises(ValueError, match=r"plan must stay within 100 times .* got 1.67e\+03 times"):
        refuse_far(plan, allowed=False)
    refuse_far(plan, allowed=True)
    (near,) = best_plans([option("dense")], Budget(flops=1e13), small)
    refuse_far(near, allowed=False)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"memory": 1e9}, "budget must have training flops, or tokens with memory or inference"),
        ({"tokens": 1e9}, "budget must have training flops"),
        ({}, "budget must have training flops"),
        ({"flops": -1.0}, "flops must be positive and finite, got -1"),
        ({"flops": math.nan}, "flops must be positive and finite, got nan"),
        ({"flops": 1e20, "memory": 1e6, "embedding": 2e6}, "memory must exceed the embedding's"),
    ],
)
def test_a_budget_that_bounds_nothing_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Budget(**kwargs)


def test_flops_for_less_than_one_token_are_refused():
    with pytest.raises(ValueError, match="flops must pay for one parameter and token, got 3"):
        optimum(option("dense"), Budget(flops=3.0))
