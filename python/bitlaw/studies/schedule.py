"""Which job a free worker takes."""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Task:
    """A job and what the executor needs to know about it."""

    job: Any
    labels: dict[str, str]  # run_id -> name
    cost: float
    program: Hashable
    failures: int = 0

    @property
    def name(self) -> str:
        """The name of its first run."""
        return next(iter(self.labels.values()))


def choose(
    pending: Sequence[Task], mine: Collection[Hashable], others: Collection[Hashable], workers: int
) -> Task:
    """The task a free worker should take: one it has compiled for, unless that unbalances the end.

    Longest first keeps the last minutes short, the same program keeps compiles few. So take the
    longest task of a program this worker has; but where the longest of all would then no longer fit
    into an even share of what is left, take that one. A worker without such tasks takes the longest
    task of a program nobody has compiled, and else helps out with the longest there is.
    """
    longest = max(pending, key=lambda task: task.cost)
    own = [task for task in pending if task.program in mine]
    if own:
        best = max(own, key=lambda task: task.cost)
        even = sum(task.cost for task in pending) / workers
        return best if best.cost + longest.cost <= even else longest
    new = [task for task in pending if task.program not in others]
    return max(new, key=lambda task: task.cost) if new else longest
