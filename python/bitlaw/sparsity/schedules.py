"""When to prune, and how far: frozen records, computed on the host in exact integers."""

from __future__ import annotations

import dataclasses

import numpy as np

from bitlaw.ops import schedule

PRESETS = ("exact", "jaxpruner", "tfmot", "torch_ao")


class Schedule:
    """Steps at which masks are updated, and the sparsity from each on; 0 before the first.

    Step k is the k-th update of the optimizer; step 0 is before the first.
    """

    final: float  # the last sparsity

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """(i64[updates] steps, f64[updates] sparsity)."""
        raise NotImplementedError

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

    def keep_counts(self, sizes, final: float | None = None) -> np.ndarray:
        """i64[updates, leaves], or i64[updates] for one size: weights kept after every update.

        keep = max(1, round_half_even(size (1 - s))); the oracle of every mask's count.

        Args:
            final: another final sparsity, reached in proportion: s(t) final / self.final.
        """
        sparsity = self._table()[1]
        if final is not None and final != self.final:
            if not 0 <= final < 1 or not self.final:
                raise ValueError(f"final must be in [0, 1), and ours above 0, got {final}")
            sparsity = np.where(sparsity == self.final, final, sparsity * (final / self.final))
        counts = schedule.keep_counts(sparsity, np.atleast_1d(np.asarray(sizes, np.int64)))
        return counts if np.ndim(sizes) else counts[:, 0]


@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
    """The ramp of gradual magnitude pruning, cubic by default (arXiv:1710.01878, equation 1).

        s(t) = final + (initial - final) (1 - p)^power,   p = (t - begin) / (end - begin)

    Updates at begin, begin + every, ... and always at `end`, where s is exactly `final`. The
    presets do what other libraries do, off by one where they are:

        jaxpruner   updates at multiples of `every`; p is a step ahead; starts from 0
        tfmot       updates at begin + i every, the last where that ends, not at `end`
        torch_ao    CubicSL(init_t=begin, delta_t * total_t = end - begin): a new level every step

    Attributes:
        final, initial: sparsity, in [0, 1).
        begin, end: first and last update, as numbers of training steps.
        every: steps between updates.
        power: of the ramp, at least 1.
        preset: "exact", "jaxpruner", "tfmot" or "torch_ao".
    """

    final: float
    begin: int
    end: int
    every: int = 1
    initial: float = 0.0
    power: int = 3
    preset: str = "exact"

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.preset == "jaxpruner" and self.initial:
            raise ValueError(f"initial must be 0 with preset jaxpruner, got {self.initial}")
        if self.preset == "torch_ao" and (self.every != 1 or self.power != 3):
            raise ValueError(
                f"every and power must be 1 and 3 with preset torch_ao, got {self.every} "
                f"and {self.power}"
            )
        self._table()

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        multiple = -(-self.begin // max(self.every, 1)) * self.every
        ahead = self.preset == "jaxpruner"
        return schedule.polynomial_schedule(
            initial=self.initial,
            final=self.final,
            first=multiple if ahead else self.begin,
            begin=self.begin,
            end=self.end,
            every=self.every,
            power=self.power,
            ahead=int(ahead),
            closing=self.preset == "exact",
        )


Cubic = Polynomial  # by its default power


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """One sparsity from `begin` on; masks are made again every `every` steps up to `end`."""

    final: float
    begin: int
    end: int
    every: int = 1

    def __post_init__(self):
        self._table()

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        return Polynomial(self.final, self.begin, self.end, self.every, self.final)._table()


@dataclasses.dataclass(frozen=True)
class OneShot(Schedule):
    """One update, at `step`."""

    final: float
    step: int

    def __post_init__(self):
        Listed((self.step,), (self.final,))

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array([self.step], np.int64), np.array([self.final])


@dataclasses.dataclass(frozen=True)
class Listed(Schedule):
    """Updates at `at`, ascending, to `levels`, each in [0, 1)."""

    at: tuple[int, ...]
    levels: tuple[float, ...]

    def __post_init__(self):
        object.__setattr__(self, "at", tuple(self.at))
        object.__setattr__(self, "levels", tuple(self.levels))
        if not self.at or len(self.at) != len(self.levels):
            raise ValueError(f"levels must be one per step, got {self.levels} and {self.at}")
        if self.at[0] < 0 or list(self.at) != sorted(set(self.at)):
            raise ValueError(f"steps must ascend from 0 or more, got {self.at}")
        for level in self.levels:
            if not 0 <= level < 1:
                raise ValueError(f"levels must be in [0, 1), got {level}")

    @property
    def final(self) -> float:
        return self.levels[-1]

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.at, np.int64), np.array(self.levels, np.float64)


@dataclasses.dataclass(frozen=True)
class ACDC(Schedule):
    """Sparse and dense phases of `every` steps by turns (arXiv:2106.12379), sparse from `end`."""

    final: float
    begin: int
    end: int
    every: int

    def __post_init__(self):
        self._table()

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        return schedule.alternating_schedule(**dataclasses.asdict(self))
