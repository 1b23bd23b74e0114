"""The cores of the machine: refits in threads, each with one thread of BLAS.

BLAS on two threads makes nothing quicker here, as no matrix has more than some hundred rows, and
where other processes want the cores it waits for them: L-BFGS-B on six coefficients took 25 s
instead of .1 s beside a busy neighbour.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

Arguments, Result = ParamSpec("Arguments"), TypeVar("Result")

PIECE = 500_000  # numbers in the largest array of one thread: it stays in the cache


def in_pieces(
    one: Callable[[NDArray[np.int64]], NDArray], count: int, per_element: int, most: int = PIECE
) -> NDArray:
    """``one(rows)`` over pieces of range(count) that fit in memory, joined; a thread per core.

    The pieces do not depend on the number of cores, so neither do the results.
    """
    pieces = min(max(1, count * per_element // most), max(count, 1))
    parts = np.array_split(np.arange(count), pieces)
    if len(parts) == 1:
        return one(parts[0])

    def quiet(rows: NDArray[np.int64]) -> NDArray:  # a thread starts with numpy's own settings
        with np.errstate(all="ignore"):
            return one(rows)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.concatenate(list(pool.map(quiet, parts)))


def steady(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, run with one thread of BLAS and without numpy's warnings.

    What is not finite is a vector that the search leaves again. Without threadpoolctl (extra: laws)
    BLAS keeps its threads.
    """

    @wraps(function)
    def limited(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        try:
            from threadpoolctl import threadpool_limits
        except ModuleNotFoundError:
            context = nullcontext()
        else:
            context = threadpool_limits(1, "blas")
        with context, np.errstate(all="ignore"):
            return function(*arguments, **options)

    return limited
