"""When to prune, and how far: frozen records, computed on the host in exact integers."""

from __future__ import annotations

import dataclasses

import numpy as np

from bitlaw.ops import schedule


@dataclasses.dataclass(frozen=True)
class Cubic:
    """The cubic ramp of gradual magnitude pruning (Zhu and Gupta, arXiv:1710.01878, equation 1).

        s(t) = final + (initial - final) (1 - p)^3,   p = (t - begin) / (end - begin)

    Updates at begin, begin + every, ... and always at `end`, where s is exactly `final`.

    Attributes:
        final, initial: sparsity, in [0, 1).
        begin, end: first and last update, as numbers of training steps.
        every: steps between updates.
    """

    final: float
    begin: int
    end: int
    every: int = 1
    initial: float = 0.0

    def __post_init__(self):
        self._table()

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        return schedule.cubic_schedule(**dataclasses.asdict(self))

    def steps(self) -> np.ndarray:
        """i64[updates]: the steps at which masks are updated."""
        return self._table()[0]

    def is_update(self, step: int) -> bool:
        """Whether masks are updated at this step."""
        return bool(np.isin(step, self.steps()))

    def sparsity(self, step: int) -> float:
        """The sparsity in force at this step: the last update's, 0 before the first."""
        steps, sparsity = self._table()
        done = np.searchsorted(steps, step, side="right")
        return float(sparsity[done - 1]) if done else 0.0

    def keep_counts(self, sizes) -> np.ndarray:
        """i64[updates, leaves], or i64[updates] for one size: weights kept after every update.

        keep = max(1, round_half_even(size (1 - s))); the oracle of every mask's count.
        """
        counts = schedule.keep_counts(self._table()[1], np.atleast_1d(np.asarray(sizes, np.int64)))
        return counts if np.ndim(sizes) else counts[:, 0]
