"""Pruning schedules, computed on the host in doubles and exact integers."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.op import Shape, op


def updates(begin: int, end: int, every: int) -> int:
    """How many updates a schedule has: every `every` steps from `begin`, and one at `end`."""
    return -(-(end - begin) // every) + 1


def _cubic_out(*, initial, final, begin, end, every):
    for name, value in [("initial", initial), ("final", final)]:
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")
    if not 0 <= begin < end:
        raise ValueError(f"begin and end must satisfy 0 <= begin < end, got {begin} and {end}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    n = updates(begin, end, every)
    return Shape((n,), np.int64), Shape((n,), np.float64)


def _cubic_examples(rng):
    for begin, end, every in [(250, 750, 100), (0, 1, 1), (3, 100, 7), (10, 20, 50)]:
        attributes = {"initial": 0.0, "final": float(rng.uniform()), "begin": begin, "end": end}
        yield (), {**attributes, "every": every}


@op(out=_cubic_out, examples=_cubic_examples, host=True)
def cubic_schedule(*, initial: float, final: float, begin: int, end: int, every: int):
    """Steps of the mask updates, and the sparsity at each.

        t = begin, begin + every, ..., end          (the last update is always at `end`)
        s(t) = final + (initial - final) (1 - p)^3,  p = (t - begin) / (end - begin)

    Zhu and Gupta, arXiv:1710.01878, equation 1; the recipe of arXiv:2309.08520.

    Returns:
        steps: i64[updates], sparsity: f64[updates]; the last sparsity is exactly `final`
    """
    n = updates(begin, end, every)
    steps = np.minimum(begin + np.arange(n, dtype=np.int64) * every, end)
    left = 1.0 - (steps - begin) / np.float64(end - begin)
    sparsity = final + (initial - final) * (left * left * left)
    sparsity[-1] = final
    return steps, sparsity


def _keep_out(sparsity, sizes):
    if sparsity.ndim != 1 or str(sparsity.dtype) != "float64":
        raise ValueError(f"sparsity must be f64[updates], got {sparsity.dtype}{sparsity.shape}")
    if sizes.ndim != 1 or str(sizes.dtype) != "int64":
        raise ValueError(f"sizes must be i64[leaves], got {sizes.dtype}{sizes.shape}")
    return (Shape((sparsity.shape[0], sizes.shape[0]), np.int64),)


def _keep_examples(rng):
    sizes = np.array([0, 1, 2, 10, 1000, 100_000_000, 2**31 - 1])
    yield (np.linspace(0, 0.999, 101), sizes), {}
    yield (rng.uniform(size=50), rng.integers(0, 2**31, 40)), {}


@op(out=_keep_out, examples=_keep_examples, host=True)
def keep_counts(sparsity, sizes):
    """How many weights each leaf keeps at each update.

        keep[u, l] = max(1, round_half_even(sizes[l] (1 - sparsity[u])))      0 for an empty leaf

    Args:
        sparsity: f64[updates]
        sizes: i64[leaves]

    Returns:
        i64[updates, leaves]
    """
    keep = np.rint(sizes * (1.0 - sparsity[:, None])).astype(np.int64)
    return np.where(sizes == 0, 0, np.maximum(keep, 1))
