"""Runs the jobs of a study on every core, and loses nothing but the runs in flight.

One long-lived worker process per core (worker.py) executes jobs; this process hands them out,
writes every row the moment it arrives (rows.py) and shows how far it is (display.py). What can go
wrong:

- Ctrl-C, SIGTERM, SIGHUP: the workers are stopped, the runs in flight are named, `Interrupted` is
  raised.
- kill -9 of this process: the workers see their pipe close and end; the next study in the same
  folder names the runs that were lost and does only what is missing.
- a worker dies or its job raises: the job is named and tried once more in a fresh worker; if that
  fails too it is listed in `Outcome.failures`, and the study goes on.
- the disk is full: `StudyError`; what is finished stays.

A row depends on its run, the corpus and the installed build only, so it makes no difference which
worker computed it, or how often the study was interrupted.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from bitlaw.studies import rows
from bitlaw.studies.display import Board, Display, Running, row_line
from bitlaw.studies.process import STOP_SIGNALS, Worker, start
from bitlaw.studies.schedule import Task, choose
from bitlaw.studies.worker import Setup

POLL_SECONDS = 0.2
FAILED_STARTS = 3  # in a row, before the study gives up: the next worker would not start either


@dataclass(frozen=True)
class Study:
    """The functions a study is made of; adding a study means writing one of these.

    Three run in the workers and are named as "module:function"; the others run here.
    """

    execute: str  # (job, corpus, *, build, on_progress, on_row, skip) -> None
    load: str  # argument of the user's choice -> corpus, with its fingerprint as `.sha256`
    identify: str  # () -> the build, a string that changes when the code does
    cost: Callable[[Any], float]  # job -> predicted seconds on one core
    program: Callable[[Any], Hashable]  # jobs with equal programs compile once per worker
    label: Callable[[Any], str]  # run -> its name in messages
    columns: Callable[[Any], dict[str, Any]]  # run -> what its row must say, known beforehand


@dataclass(frozen=True)
class Outcome:
    """What there is now: every row of the study (also those finished earlier), and what failed."""

    rows: dict[str, dict[str, Any]]
    failures: tuple[str, ...]


class Interrupted(KeyboardInterrupt):
    """A signal ended the study; the message names the runs that were in flight."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collects the stop signals that arrive inside, instead of acting on them at a random place."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # Python delivers signals to the main thread only
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup and background shells ignore on purpose
            signal.signal(number, lambda number, frame: caught.append(number))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python


class Executor:
    """Hands out tasks until none is left. `run_jobs` is the way in."""

    def __init__(
        self, study: Study, setup: Setup, out: Path, workers: int, display: Display
    ) -> None:
        self.study, self.setup, self.out, self.display = study, setup, out, display
        cores = sorted(os.sched_getaffinity(0))
        # Pinned when every core has its worker. Fewer are not (also when a quota of CPU time made
        # them fewer): two such studies would share a core. Nor are those that feed a GPU.
        pinned = setup.device == "cpu" and workers == len(cores)
        self.cores = cores if pinned else [None] * workers
        self.workers: dict[int, Worker] = {}
        self.pending: list[Task] = []
        self.rows: dict[str, dict[str, Any]] = {}
        self.failures: list[str] = []
        self.failed_starts = 0

    def run(self, tasks: Sequence[Task], finished: dict[str, dict[str, Any]]) -> None:
        """Executes the tasks; `self.rows` and `self.failures` hold what came of it."""
        self.rows = dict(finished)
        self.pending = list(tasks)
        count = min(len(self.cores), len(tasks))
        self.board = Board(
            runs=len(finished) + sum(len(self.unfinished(task)) for task in tasks),
            finished=len(finished),
            cost=sum(task.cost for task in tasks),
            workers=max(count, 1),
        )
        with caught_signals() as caught:
            try:
                for index in range(count):
                    self.assign(self.start(index))
                while any(worker.task for worker in self.workers.values()):
                    self.poll()
                    self.display.refresh(self.board)
                    if caught:
                        raise Interrupted(self.lost(signal.Signals(caught[0]).name), caught[0])
            finally:
                for worker in self.workers.values():
                    worker.stop()

    def unfinished(self, task: Task) -> list[str]:
        """The run ids of a task that have no row yet."""
        return [run_id for run_id in task.labels if run_id not in self.rows]

    def lost(self, cause: str) -> str:
        """The line that says what an interrupt cost."""
        labels = self.in_flight()
        rows.clear_in_flight(self.out)
        return (
            f"stopped by {cause}; "
            f"{len(self.rows)} of {self.board.runs} runs are kept in {self.out}, "
            f"lost in flight: {'; '.join(labels) or 'none'}; run the same command again to go on"
        )

    def in_flight(self) -> list[str]:
        """The names of the runs that workers have not finished."""
        return [
            worker.task.labels[run_id]
            for worker in self.workers.values()
            if worker.task
            for run_id in self.unfinished(worker.task)
        ]

    def start(self, index: int) -> Worker:
        """Starts worker `index`, the first or a fresh one."""
        log = self.out / "logs" / f"worker-{index}.log"
        self.workers[index] = start(index, self.cores[index], self.setup, log)
        return self.workers[index]

    def assign(self, worker: Worker, task: Task | None = None) -> None:
        """Gives a free worker a task: this one, or the best of those pending, if any."""
        worker.task = None
        self.board.running.pop(worker.index, None)
        if task is None and self.pending:
            others = [w.programs for w in self.workers.values() if w is not worker]
            taken = set().union(*others)
            task = choose(self.pending, worker.programs, taken, self.board.workers)
            self.pending.remove(task)
        if task is not None:
            worker.task = task
            worker.programs.add(task.program)
            self.board.running[worker.index] = Running(task.name, task.cost)
            worker.tell((task.job, frozenset(self.rows)))
        rows.write_in_flight(self.out, self.in_flight())

    def poll(self) -> None:
        """Handles what the workers have sent within POLL_SECONDS."""
        by_connection = {worker.connection: worker for worker in self.workers.values()}
        for connection in wait(list(by_connection), POLL_SECONDS):
            worker = by_connection[connection]
            try:
                message = connection.recv()
            except (EOFError, OSError):
                self.replace(worker)
                continue
            match message:
                case ("ready",):
                    worker.ready, self.failed_starts = True, 0
                case ("progress", progress):
                    self.board.running[worker.index].progress = progress
                case ("row", run_id, text):
                    self.keep(run_id, text)
                case ("done",):
                    self.finish(worker)
                case ("error", summary):
                    worker.error = summary  # it ends by itself: its pipe closing is the event

    def keep(self, run_id: str, text: str) -> None:
        """Writes the row of a finished run."""
        rows.write_atomic(rows.path_of(self.out, run_id), text)
        self.rows[run_id] = json.loads(text)
        self.board.finished += 1
        self.display.say(f"{self.board.finished}/{self.board.runs}  {row_line(self.rows[run_id])}")
        rows.write_in_flight(self.out, self.in_flight())

    def finish(self, worker: Worker) -> None:
        """Gives a worker that has done its job the next one."""
        if self.unfinished(worker.task):
            worker.error = "execute ended without all of the job's rows"
            self.replace(worker)
        else:
            self.retire(worker)
            self.assign(worker)

    def retire(self, worker: Worker) -> None:
        """Counts the task of a worker as over, finished or given up."""
        running = self.board.running[worker.index]
        self.board.cost_done += running.cost
        self.board.busy += time.monotonic() - running.started

    def replace(self, worker: Worker) -> None:
        """Puts a fresh worker in the place of one that failed; it tries the task once more."""
        reason = worker.ending()
        worker.stop()
        task = worker.task
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts == FAILED_STARTS:
                raise rows.StudyError(f"workers do not start: {reason}; see {worker.log}")
        elif task is not None:
            task.failures += 1
            names = "; ".join(task.labels[run_id] for run_id in self.unfinished(task))
            if task.failures == 1:
                what = "once more in a fresh worker"
            else:
                what = "given up"
                self.failures.append(f"{names}: {reason}; see {worker.log}")
                self.retire(worker)
                task = None
            self.display.say(f"worker {worker.index} failed ({reason}); {what}: {names}")
        self.assign(self.start(worker.index), task)


def run_jobs(
    jobs: Sequence[Any],
    corpus: Any,
    out: Path,
    *,
    study: Study,
    data_sha256: str,
    build: str,
    workers: int,
    display: Display,
    device: str = "cpu",
) -> Outcome:
    """Every row of the jobs: those finished earlier in `out`, and the rest computed now.

    Args:
        jobs: each with `.runs`, each run with `.id(data_sha256, build)`.
        corpus: the argument of the study's `load`, picklable.
        out: a folder opened with `rows.opened`.
        workers: how many processes; pinned to a core each when that is the number of cores
            in the affinity mask and they compute on the CPU.
        device: "cpu" or "cuda", which the workers then share.

    Raises:
        Interrupted: a stop signal arrived.
        StudyError: the folder cannot be written, or workers do not start.
    """
    tasks = [
        Task(
            job,
            {run.id(data_sha256, build): study.label(run) for run in job.runs},
            study.cost(job),
            study.program(job),
        )
        for job in jobs
    ]
    lost = rows.read_in_flight(out)
    if lost:
        display.say(f"the last study here ended early; lost in flight: {'; '.join(lost)}")
    expected = {run.id(data_sha256, build): study.columns(run) for job in jobs for run in job.runs}
    finished, warnings = rows.read_finished(out, expected)
    for warning in warnings:
        display.say(f"warning: {warning}")
    if finished:
        display.say(f"{len(finished)} of {len(expected)} runs were finished earlier and are kept")
    if others := rows.count(out) - len(finished):
        display.say(f"{others} rows of other studies, data or builds are left alone in {out}")
    setup = Setup(study.execute, study.load, study.identify, corpus, data_sha256, build, device)
    executor = Executor(study, setup, out, workers, display)
    executor.run([task for task in tasks if task.labels.keys() - finished.keys()], finished)
    rows.clear_in_flight(out)
    return Outcome(executor.rows, tuple(executor.failures))
