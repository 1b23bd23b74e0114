"""What a running study shows: rich bars on a terminal, plain lines anywhere else.

The executor keeps a `Board` up to date and calls `refresh(board)` a few times a second; `say(text)`
prints a line that stays. Everything goes to stderr: stdout is for results.
"""

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

REDRAW_SECONDS = 0.1
PLAIN_SECONDS = 30.0  # how often a plain display says how far the study is

# The estimate starts from the predicted costs and leans on measured speed after this much work.
PRIOR_SECONDS = 30.0


@dataclass
class Running:
    """A job that a worker is at."""

    name: str
    cost: float
    progress: Any = None  # its last Progress; none while it compiles
    started: float = field(default_factory=time.monotonic)

    @property
    def share(self) -> float:
        """Share of the job that is done, by tokens."""
        return self.progress.tokens_done / self.progress.tokens_total if self.progress else 0.0


@dataclass
class Board:
    """How far a study is. Costs are predicted seconds on one core."""

    runs: int  # of this study
    finished: int  # of those, now on disk
    cost: float  # of the jobs that were not finished at the start
    workers: int
    cost_done: float = 0.0
    busy: float = 0.0  # measured seconds that went into cost_done, over all workers
    started: float = field(default_factory=time.monotonic)
    running: dict[int, Running] = field(default_factory=dict)  # by worker; idle ones are absent

    def done(self) -> float:
        """Predicted seconds of work that are done."""
        return self.cost_done + sum(job.cost * job.share for job in self.running.values())

    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        return self.done() / self.cost if self.cost else 1.0

    def remaining(self) -> float:
        """Estimated seconds to the end."""
        now = time.monotonic()
        busy = self.busy + sum(now - job.started for job in self.running.values())
        slowness = (busy + PRIOR_SECONDS) / (self.done() + PRIOR_SECONDS)
        longest = max((job.cost * (1 - job.share) for job in self.running.values()), default=0.0)
        return slowness * max(longest, (self.cost - self.done()) / self.workers)


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def row_line(row: dict[str, Any]) -> str:
    """One finished run in one line."""
    result = f"loss {row['loss']:.4f}" if row["status"] == "ok" else row["status"]
    name = f"{row['scheme']} {row.get('experts', '')}"
    return (
        f"{name:<28}  N {row['n_params']:>7,}  D {row['d_tokens']:>10,}  "
        f"seed {row['seed']}  {result:<11}  {row['seconds']:6.1f} s"
    )


def now(job: Running) -> str:
    """What a worker is doing, in a few words."""
    p = job.progress
    if p is None:
        return f"{job.name}, compiling"
    return (
        f"{p.scheme} N {p.n_params:,} seed {p.seed} step {p.step}/{p.steps} "
        f"loss {p.loss:.3f} {p.tokens_per_second:,.0f} tokens/s"
    )


class Display(Protocol):
    """Where a study reports."""

    def say(self, text: str) -> None: ...
    def refresh(self, board: Board) -> None: ...
    def close(self) -> None: ...


class Plain:
    """Lines for logs and pipes."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def refresh(self, board: Board) -> None:
        if time.monotonic() - self.last < PLAIN_SECONDS:
            return
        self.last = time.monotonic()
        running = [f"worker {index}: {now(job)}" for index, job in sorted(board.running.items())]
        self.say(
            f"{board.finished}/{board.runs} runs, {100 * board.fraction():.0f} %, "
            f"about {clock(board.remaining())} left; {'; '.join(running)}"
        )

    def close(self) -> None:
        pass


class Bars:
    """One line per worker and an overall bar, redrawn in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # No refresh thread: the executor's loop redraws, so nothing else runs in its process.
        self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self.live.start()
        self.live.console.show_cursor(True)  # kill -9 must not leave a terminal without one
        self.drawn = 0.0

    def say(self, text: str) -> None:
        self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def refresh(self, board: Board) -> None:
        from rich.console import Group

        if time.monotonic() - self.drawn < REDRAW_SECONDS:
            return
        self.drawn = time.monotonic()
        self.live.update(Group(self._workers(board), self._overall(board)), refresh=True)

    def close(self) -> None:
        self.live.stop()

    def _workers(self, board: Board) -> Any:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("worker", justify="right")
        table.add_column("scheme", min_width=12)
        for name in ("size N", "seed", "step", "loss", "tokens/s"):
            table.add_column(name, justify="right", no_wrap=True)
        for index in range(board.workers):
            if index not in board.running:
                table.add_row(str(index), "[dim]idle[/dim]")
                continue
            progress = board.running[index].progress
            if progress is None:
                table.add_row(str(index), f"[dim]{now(board.running[index])}[/dim]")
                continue
            table.add_row(
                str(index),
                progress.scheme,
                f"{progress.n_params:,}",
                str(progress.seed),
                f"{progress.step:,}/{progress.steps:,}",
                f"{progress.loss:.3f}",
                f"{progress.tokens_per_second:,.0f}",
            )
        return table

    def _overall(self, board: Board) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        line = Table.grid(padding=(0, 1))
        line.add_row(
            f"{board.finished}/{board.runs} runs",
            ProgressBar(total=1.0, completed=board.fraction(), width=40),
            f"{100 * board.fraction():.0f} %",
            f"{clock(time.monotonic() - board.started)} elapsed",
            f"about {clock(board.remaining())} left",
        )
        return line


def choose_display() -> Display:
    """Bars when stderr is a terminal, plain lines otherwise."""
    return Bars() if sys.stderr.isatty() else Plain()
