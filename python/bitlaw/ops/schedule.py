"""Pruning schedules, computed on the host in doubles and exact integers."""

from __future__ import annotations

import numpy as np

from bitlaw.ops.op import Shape, op


def _check_span(begin, end, every) -> None:
    if not 0 <= begin < end:
        raise ValueError(f"begin and end must satisfy 0 <= begin < end, got {begin} and {end}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")


def _check_level(name, value) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def _tables(n: int) -> tuple[Shape, Shape]:
    return Shape((n,), np.int64), Shape((n,), np.float64)


def _closed(begin: int, end: int, every: int) -> int:
    """How many updates there are every `every` steps from `begin`, with one at `end`."""
    return -(-(end - begin) // every) + 1


def _polynomial_out(*, initial, final, first, begin, end, every, power, ahead, closing):
    _check_level("initial", initial)
    _check_level("final", final)
    _check_span(begin, end, every)
    if power < 1:
        raise ValueError(f"power must be at least 1, got {power}")
    if first < begin or (closing and first != begin):
        raise ValueError(f"first must be begin, or later where not closing, got {first}")
    if closing:
        return _tables(_closed(begin, end, every))
    return _tables(max(0, (end - first) // every + 1))


def _polynomial_examples(rng):
    for begin, end, every in [(250, 750, 100), (0, 1, 1), (3, 100, 7), (10, 20, 50)]:
        span = {"first": begin, "begin": begin, "end": end, "every": every}
        levels = {"initial": 0.0, "final": float(rng.uniform())}
        yield (), {**levels, **span, "power": 3, "ahead": 0, "closing": True}
        span["first"] = begin + 1
        yield (), {**levels, **span, "power": 1, "ahead": 1, "closing": False}


@op(out=_polynomial_out, examples=_polynomial_examples, host=True)
def polynomial_schedule(
    *,
    initial: float,
    final: float,
    first: int,
    begin: int,
    end: int,
    every: int,
    power: int,
    ahead: int,
    closing: bool,
):
    """Steps of the mask updates, and the sparsity at each.

        t = first, first + every, ... <= end        (and the last at `end` where closing)
        s(t) = final + (initial - final) (1 - p)^power
        p = (t + ahead - begin) / (end - begin), in [0, 1]

    Power 3: Zhu and Gupta, arXiv:1710.01878, equation 1; the recipe of arXiv:2309.08520.

    Returns:
        steps: i64[updates], sparsity: f64[updates]; where closing the last is exactly `final`
    """
    (shape, _) = _polynomial_out(
        initial=initial, final=final, first=first, begin=begin, end=end, every=every, power=power,
        ahead=ahead, closing=closing,
    )  # fmt: skip
    steps = first + np.arange(shape.shape[0], dtype=np.int64) * every
    steps = np.minimum(steps, end) if closing else steps
    left = 1.0 - np.clip((steps + ahead - begin) / np.float64(end - begin), 0.0, 1.0)
    product = np.ones_like(left)
    for _ in range(power):
        product = product * left
    sparsity = final + (initial - final) * product
    if closing:
        sparsity[-1] = final
    return steps, sparsity


def _alternating_out(*, final, begin, end, every):
    _check_level("final", final)
    _check_span(begin, end, every)
    return _tables(_closed(begin, end, every))


def _alternating_examples(rng):
    for begin, end, every in [(100, 900, 100), (0, 1, 1), (3, 100, 7), (10, 20, 50)]:
        yield (), {"final": float(rng.uniform()), "begin": begin, "end": end, "every": every}


@op(out=_alternating_out, examples=_alternating_examples, host=True)
def alternating_schedule(*, final: float, begin: int, end: int, every: int):
    """Sparse and dense phases by turns (AC/DC, arXiv:2106.12379), sparse from `end` on.

        t = begin, begin + every, ..., end;   s = final, 0, final, 0, ..., final

    Returns:
        steps: i64[updates], sparsity: f64[updates]
    """
    n = _closed(begin, end, every)
    steps = np.minimum(begin + np.arange(n, dtype=np.int64) * every, end)
    sparsity = np.where(np.arange(n) % 2 == 0, np.float64(final), 0.0)
    sparsity[-1] = final
    return steps, sparsity


def _cosine_out(*, initial, begin, end, every):
    if not 0 <= initial <= 1:
        raise ValueError(f"initial must be in [0, 1], got {initial}")
    _check_span(begin, end, every)
    return _tables(-(-(end - begin) // every))


def _cosine_examples(rng):
    for begin, end, every in [(0, 750, 100), (0, 1, 1), (3, 1000, 7), (10, 20, 50)]:
        yield (), {"initial": float(rng.uniform()), "begin": begin, "end": end, "every": every}


@op(out=_cosine_out, examples=_cosine_examples, host=True)
def cosine_schedule(*, initial: float, begin: int, end: int, every: int):
    """Steps of the updates, and the fraction of weights that each exchanges (RigL).

        t = begin, begin + every, ... < end
        fraction(t) = initial / 2 (1 + cos(pi p)),  p = (t - begin) / (end - begin)

    Evci et al., arXiv:1911.11134, section 3. By 1 + cos(2 y) = 2 - 2 sin(y)^2 and the power series
    of sin to y^27: libraries differ in the last bit of a cosine.

    Returns:
        steps: i64[updates], fraction: f64[updates]
    """
    steps = np.arange(begin, end, every, dtype=np.int64)
    y = (steps - begin) / np.float64(end - begin) * 1.5707963267948966
    term = sine = y
    for k in range(1, 14):
        term = term * (-(y * y) / np.float64(2 * k * (2 * k + 1)))
        sine = sine + term
    return steps, initial * (1.0 - sine * sine)


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
