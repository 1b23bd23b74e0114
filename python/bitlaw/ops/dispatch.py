"""Which slot of which expert every token goes to."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.op import Shape, op

PRIORITIES = ("token", "choice", "gate")


def _check_expert(expert, experts):
    if expert.ndim != 3 or str(expert.dtype) != "int32":
        raise ValueError(
            f"expert must be i32[items, tokens, k], got {expert.dtype}{list(expert.shape)}"
        )
    if expert.shape[2] < 1:
        raise ValueError(f"expert must have at least one choice per token, got {expert.shape}")
    if experts < 1:
        raise ValueError(f"experts must be at least 1, got {experts}")


def _plan_out(expert, gate, *, experts, capacity, priority):
    _check_expert(expert, experts)
    if tuple(gate.shape) != tuple(expert.shape) or str(gate.dtype) != "float32":
        raise ValueError(
            f"gate must be f32{list(expert.shape)}, got {gate.dtype}{list(gate.shape)}"
        )
    if capacity < 1:
        raise ValueError(f"capacity must be at least 1 slot per expert, got {capacity}")
    if priority not in PRIORITIES:
        raise ValueError(f"priority must be token, choice or gate, got {priority!r}")
    items, tokens, k = expert.shape
    if experts * capacity + tokens * k >= 2**31:
        raise ValueError(
            f"experts * capacity + tokens * k must be below 2^31, got "
            f"{experts} * {capacity} + {tokens} * {k}"
        )
    return (
        Shape(expert.shape, np.int32),
        Shape((items, experts * capacity), np.int32),
        Shape((items, experts), np.int32),
    )


def _expert_examples(rng):
    """(expert, experts): all to one, none at all, uneven, and enough for several chunks."""
    for items, tokens, k, experts in [
        (0, 4, 2, 3), (2, 0, 2, 3), (1, 1, 1, 1), (2, 7, 1, 4), (3, 50, 2, 8), (2, 64, 4, 5),
        (1, 70_000, 2, 64), (2, 30_000, 1, 700),
    ]:  # fmt: skip
        expert = rng.geometric(4 / (3 + experts), (items, tokens, k)) - 2
        yield expert.clip(-1, experts - 1).astype(np.int32), experts
    yield np.full((2, 9, 2), 1, np.int32), 3
    yield np.full((1, 9, 2), -1, np.int32), 3


def _plan_examples(rng):
    cases = [(priority, share) for priority in PRIORITIES for share in (0.3, 1.5)]
    for i, (expert, experts) in enumerate(_expert_examples(rng)):
        gate = np.round(rng.normal(size=expert.shape) * 8) / 8  # ties, both zeros
        gate[rng.random(gate.shape) < 0.05] = np.nan
        gate[rng.random(gate.shape) < 0.02] = -np.inf
        # One example under all, the large ones by gate, the others in turn.
        of = cases if expert.size == 300 else cases[4:5] if expert.size > 10_000 else [cases[i % 6]]
        for priority, share in of:
            capacity = max(1, round(share * expert[0].size / experts)) if len(expert) else 2
            attributes = {"experts": experts, "capacity": capacity, "priority": priority}
            yield (expert, gate.astype(np.float32)), attributes


def _places(expert, experts: int):
    """Where each assignment would lie if each expert took all of its own, in the given order.

    Args:
        expert: i32[items, n], -1 for nowhere.

    Returns:
        nth: i32[items, n], its number among its expert's; order: i32[items, n], assignments sorted
        by expert, nowhere last; first, count: i32[items, experts]
    """
    xp = expert.__array_namespace__()
    e = xp.where(expert < 0, np.int32(experts), expert)
    order = xp.argsort(e, axis=-1, stable=True)
    rank = xp.argsort(order, axis=-1, stable=True).astype(np.int32)
    ends = (e[:, :, None] < xp.arange(experts + 1)).sum(1, dtype=np.int32)
    first, count = ends[:, :-1], ends[:, 1:] - ends[:, :-1]
    return rank - xp.take_along_axis(ends, e, axis=-1), order.astype(np.int32), first, count


def _taken(order, place):
    """order[place], and -1 where the place is -1 (which is every place where order is empty)."""
    xp = order.__array_namespace__()
    none = xp.full((order.shape[0], 1), -1, dtype=np.int32)
    padded = xp.concatenate([order, none], axis=-1)
    return xp.take_along_axis(padded, xp.where(place < 0, order.shape[1], place), axis=-1)


def check_range(expert, experts):
    """An expert that does not exist is an error where values can be seen: under numpy."""
    if isinstance(expert, np.ndarray) and ((expert < -1) | (expert >= experts)).any():
        raise ValueError(f"expert must be in [-1, {experts}), got {expert.min()} to {expert.max()}")


@op(out=_plan_out, examples=_plan_examples)
def dispatch_plan(expert, gate, *, experts: int, capacity: int, priority: str):
    """Slots of experts with a fixed capacity: assignments in order of priority, while room lasts.

        slot[t, j] = e capacity + n   where e = expert[t, j] has n < capacity assignments before
                   = -1               where e is full, or is -1
        source[slot[t, j]] = t k + j, and -1 in slots that stay empty

    The priority orders the assignments (t, j):
        token: by token, then choice.
        choice: all first choices before any second; by token among them (GShard,
            arXiv:2006.16668).
        gate: as choice, but tokens in the order of their largest gate, earlier first among equals
            (batch prioritized routing, arXiv:2106.05974, algorithm 2). A token with a NaN among its
            gates goes last. The two zeros are equal.

    Args:
        expert: i32[items, tokens, k] in [-1, experts); -1 asks for no slot, as padding should.
            Anything else is an error in the kernels.
        gate: f32[items, tokens, k], read under priority gate only.
        experts: number of experts.
        capacity: slots of each expert, at least 1.

    Returns:
        slot: i32[items, tokens, k]
        source: i32[items, experts * capacity]
        count: i32[items, experts], what each expert was assigned, before the cut at capacity
    """
    check_range(expert, experts)
    xp = expert.__array_namespace__()
    items, tokens, k = expert.shape
    # at[m] is the assignment that comes m-th.
    at = xp.broadcast_to(xp.arange(tokens, dtype=np.int32), (items, tokens))
    if priority == "gate":
        score = xp.where(xp.isnan(gate).any(-1), np.float32(np.nan), gate.max(-1))
        score = score + np.float32(0)  # -0 as +0
        at = xp.argsort(-score, axis=-1, stable=True).astype(np.int32)
    choice = xp.arange(k, dtype=np.int32)
    if priority == "token":
        at = at[:, :, None] * np.int32(k) + choice
    else:
        at = at[:, None, :] * np.int32(k) + choice[:, None]
    at = at.reshape(items, tokens * k)

    ordered = xp.take_along_axis(expert.reshape(items, tokens * k), at, axis=-1)
    nth, order, first, count = _places(ordered, experts)
    slot = xp.where((ordered >= 0) & (nth < capacity), ordered * capacity + nth, -1)
    inverse = xp.argsort(at, axis=-1, stable=True)
    slot = xp.take_along_axis(slot, inverse, axis=-1).reshape(expert.shape)

    n = xp.arange(capacity, dtype=np.int32)
    place = xp.where(n < count[..., None], first[..., None] + n, -1)
    place = place.reshape(items, experts * capacity)
    source = _taken(at, _taken(order, place))
    return slot.astype(np.int32), source.astype(np.int32), count


def _sort_out(expert, *, experts):
    _check_expert(expert, experts)
    items, tokens, k = expert.shape
    if tokens * k >= 2**31:
        raise ValueError(f"tokens * k must be below 2^31, got {tokens} * {k}")
    return (
        Shape(expert.shape, np.int32),
        Shape((items, tokens * k), np.int32),
        Shape((items, experts), np.int32),
    )


def _sort_examples(rng):
    for expert, experts in _expert_examples(rng):
        yield (expert,), {"experts": experts}


@op(out=_sort_out, examples=_sort_examples)
def dispatch_sort(expert, *, experts: int):
    """Assignments sorted by expert, stably, for ragged products: nothing is dropped.

        source = argsort(expert), stable, of the assignments t k + j that ask for an expert
        slot[source[s]] = s

    Args:
        expert: i32[items, tokens, k] in [-1, experts); -1 asks for no slot.
        experts: number of experts.

    Returns:
        slot: i32[items, tokens, k], -1 where the expert is -1
        source: i32[items, tokens * k]; -1 after the last
        count: i32[items, experts], the sizes of the groups
    """
    check_range(expert, experts)
    xp = expert.__array_namespace__()
    flat = expert.reshape(expert.shape[0], expert.shape[1] * expert.shape[2])
    nth, order, first, count = _places(flat, experts)
    base = xp.take_along_axis(first, xp.maximum(flat, 0), axis=-1)
    slot = xp.where(flat < 0, -1, base + nth).astype(np.int32).reshape(expert.shape)
    n = xp.arange(flat.shape[1], dtype=np.int32)
    source = xp.where(n < count.sum(-1, dtype=np.int32)[:, None], order, -1)
    return slot, source.astype(np.int32), count
