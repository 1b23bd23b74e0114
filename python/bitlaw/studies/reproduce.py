"""The main study: what each compression is worth in parameters, measured on this machine.

    bitlaw reproduce --preset quick

trains a grid of small language models, dense, quantized and sparse, on the same text with the same
seeds, fits  L = a / (N * eff(C))^b + c / D^d + e  to their losses and prints eff(C) for every
compression C: the share of the parameters that is left in effect (arXiv:2502.16440). At this scale
these are measurements, not reproductions of the published numbers.

Every size meets every budget, with about 15 tokens per parameter or more: below that the loss is
limited by the data and says nothing about N. Seeds and data order are shared by all schemes.
"""

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
from bitlaw.models.lm import ModelConfig
from bitlaw.studies import report, rows, run
from bitlaw.studies.build import build_id
from bitlaw.studies.display import choose_display, clock
from bitlaw.studies.executor import Interrupted, Outcome, Study, run_jobs
from bitlaw.studies.process import available_cores
from bitlaw.train.data import load

BATCH = 8
TOKENS_PER_PARAMETER = 14  # at least; a model of 36,864 meets 2^19 at 14.2

QUICK_SCHEMES = (
    "dense",
    "w=quest4/channel",
    "w=quest2/channel",
    "w=quest4/channel a=quest4/row",
    "s=0.5",
    "s=0.75",
)
CPU_SCHEMES = (
    "dense",
    *(f"w=quest{bits}/channel" for bits in (1, 2, 3, 4, 8)),
    *(f"w=quest{bits}/channel a=quest{bits}/row" for bits in (2, 4, 8)),
    *(f"s={level}" for level in (0.25, 0.5, 0.75)),
)
SPARSE_SCHEMES = (
    "dense",
    *(f"s={level}" for level in (0.25, 0.5, 0.75, 0.875)),
    *("s=2:4", "s=4:8", "s=1:4"),
    *("s=0.5/ste", "s=0.75/rigl", "s=0.75/global"),
    "w=quest4/channel s=2:4",
)
FORMAT_SCHEMES = (
    "dense",
    *("w=quest1/channel", "w=ternary/channel"),
    *(f"w=quest{bits}/channel" for bits in (2, 3, 4, 8)),
    *(f"w=quest{bits}/channel a=quest{bits}/row" for bits in (2, 3, 4, 8)),
    *("w=mxfp4 a=mxfp4", "w=nvfp4 a=nvfp4"),
)


@dataclass(frozen=True)
class Size:
    """A model of `12 * width^2 * depth` block weights, and how many seeds it is trained with."""

    width: int
    depth: int
    seeds: int = 1
    dense_seeds: int = 1

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(width=self.width, depth=self.depth)


@dataclass(frozen=True)
class Preset:
    """Sizes x budgets x schemes; budgets with too few tokens per parameter are left out."""

    sizes: tuple[Size, ...]
    budgets: tuple[int, ...]  # training tokens (bytes), ascending
    schemes: tuple[str, ...]

    def runs(self, schemes: Sequence[str] = ()) -> list[run.Run]:
        """Every run of the preset, with these schemes instead of its own if any are given."""
        return [
            point(scheme, size.model, budget, seed)
            for scheme in schemes or self.schemes
            for size in self.sizes
            for seed in range(size.dense_seeds if scheme == "dense" else size.seeds)
            for budget in self.budgets
            if budget >= TOKENS_PER_PARAMETER * n_params(size.model)
        ]


# Narrower intervals than the quick study's, in hours.
CPU_SIZES = (
    Size(16, 2, seeds=3, dense_seeds=3),
    Size(24, 2, seeds=3, dense_seeds=3),
    Size(32, 3),
    Size(48, 4),
)
CPU_BUDGETS = (2**20, 2**21, 2**22, 2**23)

PRESETS = {
    # 12 runs, under a minute: does everything work here?
    "smoke": Preset(
        sizes=(Size(8, 1), Size(16, 1)),
        budgets=(2**16, 2**18),
        schemes=("dense", "w=quest4/channel", "s=0.5"),
    ),
    # 120 runs, about 7 minutes on 2 cores: first multipliers. Every scheme has every seed: one that
    # dense has alone is not paired, and its luck moved all multipliers by 7 % (docs/log.md).
    "quick": Preset(
        sizes=(
            Size(16, 2, seeds=2, dense_seeds=2),
            Size(24, 2, seeds=2, dense_seeds=2),
            Size(32, 3, seeds=2, dense_seeds=2),
            Size(40, 3),
        ),
        budgets=(2**19, 2**20, 2**21),
        schemes=QUICK_SCHEMES,
    ),
    # About 2 hours on 2 cores: twelve schemes.
    "cpu": Preset(CPU_SIZES, CPU_BUDGETS, CPU_SCHEMES),
    # About 3 hours: patterns and methods of sparsity.
    "cpu-sparse": Preset(CPU_SIZES, CPU_BUDGETS, SPARSE_SCHEMES),
    # About 2 hours: every width of weights and activations, MX and NV.
    "cpu-formats": Preset(CPU_SIZES, CPU_BUDGETS, FORMAT_SCHEMES),
}


def learning_rate(width: int) -> float:
    """The peak learning rate for a width, the same for every scheme.

        0.01 * (16 / width)^(2/3)

    Within 5 % of the best found at widths 16, 24, 32 and 64: 1e-2, 8e-3, 6e-3 and 4e-3.
    """
    return 0.01 * (16 / width) ** (2 / 3)


def point(
    scheme: str, model: ModelConfig, d_tokens: int, seed: int, init: str = "", save: str = ""
) -> run.Run:
    """One run of the study: all else is the same, or follows from the width."""
    return run.Run(
        scheme=scheme,
        model=model,
        d_tokens=d_tokens,
        seed=seed,
        batch=BATCH,
        learning_rate=learning_rate(model.width),
        init=init,
        save=save,
    )


def program(job: run.Job) -> Hashable:
    """What decides the compiled program: the model, the structures of a scheme, not its grids."""
    first = job.runs[0]
    scheme = Scheme.parse(first.scheme)
    specs = (scheme.w, scheme.a, scheme.g, scheme.s)
    return first.model, tuple(spec and spec.structure for spec in specs)


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
    preset: str, schemes: Sequence[str] = (), data: str | Sequence[str] = "stdlib"
) -> Plan:
    """The plan of a preset.

    Args:
        preset: a name in PRESETS.
        schemes: instead of the preset's; "dense", the baseline of every multiplier, is always in.
        data: "stdlib", or files and folders of text.
    Raises:
        ValueError: an unknown preset or scheme; data that `plan_runs` refuses.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    if schemes:
        schemes = tuple(dict.fromkeys(["dense", *(str(Scheme.parse(text)) for text in schemes)]))
    return plan_runs(PRESETS[preset].runs(schemes), data)


def execute(plan: Plan, out: Path, workers: int = 0, study: Study = STUDY) -> Outcome:
    """Every row of a plan, from an opened folder or computed now; see `executor.run_jobs`."""
    workers = workers or len(available_cores())
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
        )
    finally:
        display.close()


def reproduce(plan: Plan, out: Path, workers: int = 0) -> Outcome:
    """Runs a plan in a folder, writes runs.csv, fit.json and report.html there, prints the table.

    Args:
        out: made if missing; runs of the same build and data finished there are kept.
        workers: processes; 0 is one per core.
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
