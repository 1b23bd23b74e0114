"""The main study: what each compression is worth in parameters, measured on this machine.

    bitlaw reproduce --preset quick

trains a grid of small language models, dense, quantized and sparse, on the same text with the same
seeds, fits  L = a / (N * eff(C))^b + c / D^d + e  to their losses and prints eff(C) for every
compression C: the share of the parameters that is left in effect (arXiv:2502.16440). At this scale
these are measurements, not reproductions of the published numbers. The grids are in `presets`.
"""

import dataclasses
import shutil
import signal
import tempfile
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitlaw.formats import Scheme
from bitlaw.models.count import n_params, n_total
from bitlaw.studies import report, rows, run
from bitlaw.studies.build import build_id
from bitlaw.studies.display import choose_display, clock
from bitlaw.studies.executor import Interrupted, Outcome, Study, run_jobs
from bitlaw.studies.presets import PRESETS
from bitlaw.studies.process import available_cores, check_device
from bitlaw.train.data import load


def program(job: run.Job) -> Hashable:
    """What decides the compiled program: the model, the structures of a scheme, not its grids."""
    first = job.runs[0]
    scheme = Scheme.parse(first.scheme)
    specs = (scheme.w, scheme.a, scheme.g, scheme.s)
    return first.model, first.members > 1, tuple(spec and spec.structure for spec in specs)


def label(one: run.Run) -> str:
    """A run's name in messages."""
    return f"{one.name} N={n_params(one.model)} D={one.d_tokens} seed={one.seed}"


def columns(one: run.Run) -> dict[str, Any]:
    """What a row of the run must say."""
    return {
        "scheme": one.scheme,
        "n_params": n_params(one.model),
        "n_total": n_total(one.model),
        "d_tokens": one.d_tokens,
        "seed": one.seed,
    }


def counted(n: int, noun: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


STUDY = Study(
    execute="bitlaw.studies.run:execute",
    load="bitlaw.train.data:load",
    identify="bitlaw.studies.build:build_id",
    cost=run.cost,
    program=program,
    label=label,
    columns=columns,
)


@dataclass(frozen=True)
class Plan:
    """What a study will do, checked: the runs, and the text they are trained on."""

    runs: tuple[run.Run, ...]
    data: str | tuple[str, ...]
    data_sha256: str
    build: str
    warnings: tuple[str, ...]


def plan_runs(runs: Sequence[run.Run], data: str | Sequence[str] = "stdlib") -> Plan:
    """Loads the text and checks that it suits every run.

    Raises:
        ValueError: the data cannot be read, or is too small for a budget.
    """
    data = data if isinstance(data, str) else tuple(data)
    corpus = load(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        corpus.check_budget(max(one.d_tokens for one in runs))
    return Plan(tuple(runs), data, corpus.sha256, build_id(), tuple(str(w.message) for w in caught))


def plan_preset(
    preset: str, schemes: Sequence[str] = (), data: str | Sequence[str] = (), device: str = ""
) -> Plan:
    """The plan of a preset.

    Args:
        preset: a name in PRESETS.
        schemes: instead of the preset's; "dense", the baseline of every multiplier, is always in.
        data: "stdlib", "installed", or files and folders of text; empty: the preset's own.
        device: "cpu" or "cuda" instead of the preset's.
    Raises:
        ValueError: an unknown preset or scheme; data that `plan_runs` refuses; no such device.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    if schemes:
        schemes = tuple(dict.fromkeys(["dense", *(str(Scheme.parse(text)) for text in schemes)]))
    chosen = dataclasses.replace(PRESETS[preset], device=device or PRESETS[preset].device)
    check_device(chosen.device, f"preset {preset}")
    return plan_runs(chosen.runs(schemes), data or chosen.data)


def execute(plan: Plan, out: Path, workers: int = 0, study: Study = STUDY) -> Outcome:
    """Every row of a plan, from an opened folder or computed now; see `executor.run_jobs`."""
    device = plan.runs[0].device
    workers = workers or (run.GPU_WORKERS if device == "cuda" else len(available_cores()))
    jobs = run.group(plan.runs)
    display = choose_display()
    try:
        for warning in plan.warnings:
            display.say(f"warning: {warning}")
        display.say(
            f"{counted(len(plan.runs), 'run')} in {counted(len(jobs), 'job')}, "
            f"{counted(min(workers, len(jobs)), 'worker')}, "
            f"about {clock(sum(map(run.cost, jobs)) / workers)} if none is finished yet"
        )
        return run_jobs(
            jobs,
            plan.data,
            out,
            study=study,
            data_sha256=plan.data_sha256,
            build=plan.build,
            workers=workers,
            display=display,
            device=device,
        )
    finally:
        display.close()


def reproduce(plan: Plan, out: Path, workers: int = 0) -> Outcome:
    """Runs a plan in a folder, writes runs.csv, fit.json and report.html there, prints the table.

    Args:
        out: made if missing; runs of the same build and data finished there are kept.
        workers: processes; 0 is one per core, or as many as share a GPU.
    Raises:
        StudyError: the folder cannot be written or is in use; workers do not start; the law cannot
            be fitted to these runs.
        Interrupted: a stop signal arrived.
    """
    with rows.opened(out):
        outcome = execute(plan, out, workers)
        table = rows.write_runs(out, outcome.rows.values())
        print(f"rows     {table}")
        try:
            print(report.write(out))
        except ValueError as error:
            if not outcome.failures:
                raise rows.StudyError(f"no fit: {error}; the runs are kept in {table}") from error
            print(f"no fit, because of the failed runs: {error}")  # all of dense, for example
        else:
            print(f"fit      {out / 'fit.json'}\nreport   {out / 'report.html'}")
    return outcome


def train(plan: Plan) -> dict[str, Any]:
    """The row of a plan's only run, computed by a worker like any study's, in a temporary folder.

    Raises:
        StudyError: the run failed; the folder stays for its log.
        Interrupted: a stop signal arrived.
    """
    out = Path(tempfile.mkdtemp(prefix="bitlaw-train-"))
    try:
        with rows.opened(out):
            outcome = execute(plan, out, workers=1)
    except Interrupted as error:
        shutil.rmtree(out)
        name = signal.Signals(error.signum).name
        raise Interrupted(f"stopped by {name}; the run is lost", error.signum) from None
    if outcome.failures:
        raise rows.StudyError(outcome.failures[0])
    shutil.rmtree(out)
    (row,) = outcome.rows.values()
    return row
