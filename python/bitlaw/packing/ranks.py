"""Rows dealt to the ranks of data parallelism."""

from __future__ import annotations

import numpy as np

BALANCE = ("tokens", "l2")


def by_rank(
    row, length, rows: int, ranks: int, balance: str, rng: np.random.Generator | None
) -> tuple[np.ndarray, int]:
    """New numbers of the rows, so that row r is step r // ranks of rank r % ranks.

    The rows are sorted by cost and cut into steps, so those of a step cost alike: every rank waits
    for the slowest at each. Within a step the dearest row goes to the rank that has had least.

    Args:
        row, length: i64[pieces]
        rows: how many rows.
        balance: "tokens", the sum of a row's lengths, or "l2", that of their squares.
        rng: shuffles the steps, which else go from the dearest to the cheapest.

    Returns:
        i64[rows], the new number of each; and how many there are, a multiple of `ranks` (the last
        few may be empty)
    """
    each = length.astype(np.float64)
    cost = np.bincount(row, each**2 if balance == "l2" else each, minlength=rows)
    steps = -(-rows // ranks)
    cost = np.append(cost, np.zeros(steps * ranks - rows))
    dearest = np.argsort(-cost, kind="stable").reshape(steps, ranks)
    had = np.zeros(ranks)
    number = np.zeros(steps * ranks, np.int64)
    at = np.arange(steps) if rng is None else rng.permutation(steps)
    for step, chosen in zip(at, dearest, strict=True):
        least = np.argsort(had, kind="stable")
        number[chosen] = step * ranks + least
        had[least] += cost[chosen]
    return number, steps * ranks
