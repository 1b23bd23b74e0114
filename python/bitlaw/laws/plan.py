"""Which compression to train, at which size and on how many tokens, under given budgets.

    options = [Option("dense", loss, cost_of(0, 16)), Option("s=0.5", ...), ...]
    plan = best_plans(options, Budget(flops=1e21, memory=8e9), trained)

A law says the loss of N parameters and D tokens under a scheme; a scheme says what a parameter
costs; the budgets bound N and D. Every law here falls in N and in D and is convex in log N along
6 N D = const (or a monotone function of such a one), so the best N is found by a search in one
dimension, for every resample of the fit at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from bitlaw.laws.optimum import golden, ramp_cost

Array = NDArray[np.float64]

FARTHEST = 100.0  # extrapolation beyond which a plan is refused unless asked for
LARGEST_FACTOR = 1e4  # of a budget, when asking what a runner-up would need
COUNTED = ("total", "nonzero")
ZEROS = ("skipped", "computed")


@dataclass(frozen=True)
class Cost:
    """What one parameter of a scheme costs; a parameter is one of the law's N.

    training   FLOPs per parameter and training token
    inference  FLOPs per parameter and generated token
    bits       stored per parameter
    """

    training: float = 6.0
    inference: float = 2.0
    bits: float = 16.0


def cost_of(
    sparsity: float = 0.0,
    bits_per_weight: float = 16.0,
    counted: str = "total",
    zeros: str = "skipped",
) -> Cost:
    """The cost of a scheme.

        training   6 N D; pruned gradually: 6 N_nonzero D c_mul(S), zeros skipped
        inference  2 N per token; pruned: 2 N_nonzero, zeros skipped
        memory     bits_per_weight N_total / 8 bytes, at inference; no optimizer state

    Quantization saves memory, not FLOPs.

    Args:
        sparsity: S, reached by the gradual ramp of `optimum.ramp_cost`.
        bits_per_weight: of all weights, with scales and the mask of a sparse one.
        counted: what the law's N counts, "total" weights or "nonzero" ones at the end.
        zeros: "skipped", or "computed": a multiplication by zero costs what any costs.
    """
    for name, value, known in (("counted", counted, COUNTED), ("zeros", zeros, ZEROS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if not (math.isfinite(bits_per_weight) and bits_per_weight > 0):
        raise ValueError(f"bits_per_weight must be positive and finite, got {bits_per_weight}")
    total = 1.0 if counted == "total" else 1 / (1 - sparsity)
    nonzero = total * (1 - sparsity)
    skipped = zeros == "skipped"
    return Cost(
        training=6 * (nonzero * float(ramp_cost(sparsity)) if skipped else total),
        inference=2 * (nonzero if skipped else total),
        bits=bits_per_weight * total,
    )


@dataclass(frozen=True)
class Option:
    """A scheme that may be trained.

    form          the law: form(n_params, d_tokens, **coefficients), elementwise
    coefficients  by name, f64[1 + draws] each: the fit's, then its resamples'; f64[1] without
    predicted     how its multiplier was predicted; empty if the scheme was measured
    """

    scheme: str
    form: Callable[..., Array]
    coefficients: Mapping[str, Array]
    cost: Cost
    predicted: str = ""

    @property
    def rows(self) -> int:
        """1 + the number of resamples."""
        return max((np.size(value) for value in self.coefficients.values()), default=1)

    @property
    def fitted(self) -> Option:
        """The option without the resamples."""
        first = {name: np.ravel(value)[:1] for name, value in self.coefficients.items()}
        return replace(self, coefficients=first)

    def loss(self, n_params: ArrayLike, d_tokens: ArrayLike) -> Array:
        """f64[1 + draws]; sizes and budgets are numbers or one for each row."""
        return np.asarray(self.form(n_params, d_tokens, **self.coefficients))


@dataclass(frozen=True)
class Budget:
    """What may be spent; None is no limit.

    flops      training FLOPs
    memory     bytes of weights at inference, embeddings included
    inference  FLOPs per generated token
    tokens     training tokens at hand
    embedding  bytes of embeddings and head, a part of memory
    """

    flops: float | None = None
    memory: float | None = None
    inference: float | None = None
    tokens: float | None = None
    embedding: float = 0.0

    def __post_init__(self):
        for name in ("flops", "memory", "inference", "tokens"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not (math.isfinite(self.embedding) and self.embedding >= 0):
            raise ValueError(f"embedding must be at least 0 and finite, got {self.embedding}")
        if self.memory is not None and self.memory <= self.embedding:
            raise ValueError(
                f"memory must exceed the embedding's {self.embedding:g} bytes, got {self.memory:g}"
            )
        sized = self.memory is not None or self.inference is not None
        if self.flops is None and not (sized and self.tokens is not None):
            raise ValueError(
                "budget must have training flops, or tokens with memory or inference flops: "
                "without these the loss falls for ever"
            )

    def largest(self, cost: Cost) -> float:
        """The largest N that memory and inference allow; inf if they are not limited."""
        by_memory = math.inf if self.memory is None else 8 * (self.memory - self.embedding)
        by_inference = math.inf if self.inference is None else self.inference
        return min(by_memory / cost.bits, by_inference / cost.inference)


@dataclass(frozen=True)
class Trained:
    """What the fit has seen: the ranges of N and D."""

    n_params: tuple[float, float]
    d_tokens: tuple[float, float]

    def extrapolation(self, n_params: float, d_tokens: float) -> dict[str, float]:
        """How far outside the ranges, as factors of at least 1: in N, in D and in N D."""
        n = _outside(n_params, *self.n_params)
        d = _outside(d_tokens, *self.d_tokens)
        smallest, largest = (n * d for n, d in zip(self.n_params, self.d_tokens, strict=True))
        return {"N": n, "D": d, "N D": _outside(n_params * d_tokens, smallest, largest)}


def _outside(value: float, low: float, high: float) -> float:
    return max(1.0, value / high, low / value)


@dataclass(frozen=True)
class Plan:
    """A scheme at its best N and D under a budget.

    loss           (value, low, high) there; low and high None without resamples
    n_interval     where the best N lies by the resamples; equal ends where a budget fixes it
    d_interval     the same of D
    binding        the budgets that are spent in full
    behind         (difference, low, high) of the loss to the best plan's, paired by resample
    to_match       how many times the first binding budget it needs for the best plan's loss, the
                   others as they are; None if that is over LARGEST_FACTOR
    matched_by     which budget that is
    extrapolation  factors outside the range of the fit, in N, D and N D
    """

    scheme: str
    n_params: float
    d_tokens: float
    loss: tuple[float, float | None, float | None]
    n_interval: tuple[float, float] | None
    d_interval: tuple[float, float] | None
    flops: float
    memory: float
    inference: float
    extrapolation: dict[str, float]
    binding: tuple[str, ...] = ()
    predicted: str = ""
    behind: tuple[float, float | None, float | None] = (0.0, None, None)
    to_match: float | None = None
    matched_by: str = ""

    @property
    def separated(self) -> bool:
        """Whether the resamples tell this plan from the best one."""
        return self.behind[1] is not None and self.behind[1] > 0


def optimum(option: Option, budget: Budget) -> tuple[Array, Array]:
    """The best (N, D) of an option, f64[1 + draws] each: the fit's, then the resamples'.

    Along the training FLOPs, D = F / (cost N), with N between F / (cost D_max) and what memory and
    inference allow; where the FLOPs buy more than both limits, at the limits.
    """
    rows = option.rows
    n_largest = budget.largest(option.cost)
    d_largest = math.inf if budget.tokens is None else budget.tokens
    if budget.flops is None:
        return np.full(rows, n_largest), np.full(rows, d_largest)
    nd = budget.flops / option.cost.training
    if nd < 1:
        raise ValueError(f"flops must pay for one parameter and token, got {budget.flops:g}")
    high = min(n_largest, nd)  # one token at least
    low = min(max(nd / d_largest, 1.0), high)

    def loss(log_n: Array) -> Array:
        n = np.exp(log_n)
        return option.loss(n, np.minimum(nd / n, d_largest))

    ends = np.full(rows, math.log(low)), np.full(rows, math.log(high))
    n = np.clip(np.exp(golden(loss, *ends)), low, high)
    return n, np.minimum(nd / n, d_largest)


def interval(values: Array, level: float) -> tuple[float, float] | None:
    """Percentiles of the resamples in f64[1 + draws], None where there are none."""
    if len(values) < 2:
        return None
    low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def best_plans(
    options: Sequence[Option], budget: Budget, trained: Trained, level: float = 0.9
) -> list[Plan]:
    """Every option at its best under the budget, the lowest loss first.

    Raises:
        ValueError: no option.
    """
    if not options:
        raise ValueError("options must hold at least one scheme, got none")
    plans = []
    for option in options:
        n, d = optimum(option, budget)
        plans.append((option, n, d, option.loss(n[0], d[0])))
    plans.sort(key=lambda entry: float(entry[3][0]))
    best = plans[0]
    return [_plan(entry, best, budget, trained, level) for entry in plans]


def _plan(entry: tuple, best: tuple, budget: Budget, trained: Trained, level: float) -> Plan:
    option, n, d, loss = entry
    n_params, d_tokens = float(n[0]), float(d[0])
    plan = Plan(
        scheme=option.scheme,
        n_params=n_params,
        d_tokens=d_tokens,
        loss=_with_interval(loss, level),
        n_interval=interval(n, level),
        d_interval=interval(d, level),
        flops=option.cost.training * n_params * d_tokens,
        memory=option.cost.bits * n_params / 8 + budget.embedding,
        inference=option.cost.inference * n_params,
        extrapolation=trained.extrapolation(n_params, d_tokens),
        predicted=option.predicted,
    )
    plan = replace(plan, binding=_binding(plan, budget))
    if entry is best:
        return plan
    by = plan.binding[0]
    return replace(
        plan,
        behind=_with_interval(loss - best[3], level),
        to_match=_factor_to_match(option, budget, by, float(best[3][0])),
        matched_by=by,
    )


def _with_interval(values: Array, level: float) -> tuple[float, float | None, float | None]:
    return float(values[0]), *(interval(values, level) or (None, None))


def _binding(plan: Plan, budget: Budget) -> tuple[str, ...]:
    spent = {
        "flops": plan.flops,
        "memory": plan.memory,
        "inference": plan.inference,
        "tokens": plan.d_tokens,
    }
    limits = {name: getattr(budget, name) for name in spent}
    return tuple(
        name for name, limit in limits.items() if limit and spent[name] >= limit * (1 - 1e-6)
    )


def _factor_to_match(option: Option, budget: Budget, by: str, loss: float) -> float | None:
    """The factor on one budget that brings an option's best loss down to this one."""
    option = option.fitted

    def excess(log_factor: float) -> float:
        more = replace(budget, **{by: getattr(budget, by) * math.exp(log_factor)})
        n, d = optimum(option, more)
        return float(option.loss(n, d)[0]) - loss

    largest = math.log(LARGEST_FACTOR)
    if excess(0.0) <= 0:
        return 1.0
    return math.exp(optimize.brentq(excess, 0.0, largest)) if excess(largest) < 0 else None


def frontier(option: Option, budget: Budget, of: str, values: Sequence[float]) -> Array:
    """The best loss f64[values] of an option as one budget (``of``) takes these values."""
    option, losses = option.fitted, []
    for value in values:
        n, d = optimum(option, replace(budget, **{of: float(value)}))
        losses.append(float(option.loss(n, d)[0]))
    return np.array(losses)


def refuse_far(plan: Plan, allowed: bool) -> None:
    """Raises ValueError for a plan more than FARTHEST times outside the fit, unless allowed."""
    what, factor = max(plan.extrapolation.items(), key=lambda item: item[1])
    if factor > FARTHEST and not allowed:
        raise ValueError(
            f"plan must stay within {FARTHEST:g} times the runs of the fit, got {factor:.3g} times "
            f"in {what} ({plan.scheme}: N = {plan.n_params:.3g}, D = {plan.d_tokens:.3g}); "
            "give --extrapolate to see it all the same"
        )
