"""A study without training: jobs that sleep, crash and raise on request, for the executor's tests.

`main(OUT, SECONDS)` runs `jobs(SECONDS)` into OUT and writes runs.csv, as a user's command would.
"""

import hashlib
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

from bitlaw.studies import rows
from bitlaw.studies.display import Display, Plain, choose_display
from bitlaw.studies.executor import Interrupted, Outcome, Study, run_jobs

SHA = "ab" * 32
BUILD = "stub-build"


@dataclass(frozen=True)
class Run:
    scheme: str
    d_tokens: int
    seed: int = 0

    def id(self, data_sha256: str, build: str) -> str:
        return hashlib.sha256(repr((self, data_sha256, build)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    runs: tuple[Run, ...]
    seconds: float = 0.02  # per run
    fault: str = ""  # "", "raise", "kill", "segfault", "forget"
    marker: str = (
        ""  # a file: the fault happens while it is absent, and creates it; "" is every time
    )


@dataclass(frozen=True)
class Progress:
    scheme: str
    n_params: int
    seed: int
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    tokens_done: int
    tokens_total: int


def build_id() -> str:
    return BUILD


def load(corpus: str) -> SimpleNamespace:
    if corpus == "unreadable":
        raise ValueError("corpus must be readable, got unreadable")
    return SimpleNamespace(sha256=SHA)


def execute(job, corpus, *, build, on_progress, on_row, skip=frozenset()):
    if job.fault and not (job.marker and os.path.exists(job.marker)):
        if job.marker:
            Path(job.marker).touch()
        if job.fault == "raise":
            raise RuntimeError("as requested")
        if job.fault == "forget":
            return
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV}[job.fault])
    trunk = 0
    for number, run in enumerate(job.runs):
        trunk = (trunk * 31 + run.d_tokens) % 1_000_003  # what a branch inherits from the trunk
        time.sleep(job.seconds)
        on_progress(Progress(run.scheme, 100, run.seed, 1, 2, 2.5, 1e4, number, len(job.runs)))
        run_id = run.id(corpus.sha256, build)
        if run_id not in skip:
            on_row(row(run, run_id, trunk, job.seconds))


def row(run: Run, run_id: str, trunk: int, seconds: float) -> dict:
    return {
        **dict.fromkeys(rows.COLUMNS, 0),
        "run_id": run_id,
        "scheme": run.scheme,
        "n_params": 100,
        "d_tokens": run.d_tokens,
        "seed": run.seed,
        "loss": 1 + trunk / 7,
        "seconds": seconds + time.perf_counter() % 1e-3,
        "version": "0",
        "data_sha256": SHA,
        "status": "ok",
    }


STUDY = Study(
    execute="stub_study:execute",
    load="stub_study:load",
    identify="stub_study:build_id",
    cost=lambda job: job.seconds * len(job.runs),
    program=lambda job: job.runs[0].scheme,
    label=lambda run: f"{run.scheme} D={run.d_tokens} seed={run.seed}",
    columns=lambda run: {**asdict(run), "n_params": 100},
)


def jobs(seconds: float = 0.02) -> list[Job]:
    """Eight jobs of three runs each: two schemes, four seeds."""
    return [
        Job(tuple(Run(scheme, budget, seed) for budget in (10, 20, 40)), seconds)
        for scheme in ("dense", "w=quest4/channel")
        for seed in range(4)
    ]


def study(
    out: Path,
    jobs: list[Job],
    *,
    workers: int = 2,
    corpus: str = "stub",
    sha256: str = SHA,
    build: str = BUILD,
    display: Display | None = None,
) -> Outcome:
    """Runs the jobs in `out` and writes runs.csv."""
    with rows.opened(out):
        outcome = run_jobs(
            jobs,
            corpus,
            out,
            study=STUDY,
            data_sha256=sha256,
            build=build,
            workers=workers,
            display=display or Plain(),
        )
        rows.write_runs(out, outcome.rows.values())
    return outcome


def main(out: str, seconds: float) -> None:
    """A command: exit code 0, 1 or 128 + signal, with one line on stderr."""
    display = choose_display()
    try:
        study(Path(out), jobs(seconds), display=display)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signum)
    except rows.StudyError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    finally:
        display.close()
