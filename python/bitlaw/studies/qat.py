"""Quantization-aware training as Gemma 3 does it, against its alternatives, at equal tokens.

    bitlaw study qat --preset quick --out qat

For int4 with a scale per channel, int4 with a scale per block of 32 and switched fp8
(arXiv:2503.19786, section 2.3), and D tokens for everybody:

    rounded      the dense model of D tokens, its weights rounded
    fine-tuned   a dense checkpoint of (1 - SHARE) D tokens, then SHARE D tokens of training with
                 quantized weights towards the checkpoint's probabilities
    scratch      D tokens of training with quantized weights

Every seed is one dense trunk, which the first two share. Losses are compared with the dense model
of the same seed and D tokens. What fine-tuning recovers is a matter of the checkpoint that it
started from: its loss, and its loss with rounded weights, are rows too ("checkpoint").
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitlaw.formats import QuantSpec, Scheme, quantize
from bitlaw.formats.padding import padded
from bitlaw.models import count
from bitlaw.models.lm import ModelConfig
from bitlaw.studies import qat_report, rows, run
from bitlaw.studies.build import build_id
from bitlaw.studies.display import choose_display
from bitlaw.studies.executor import Study, run_jobs
from bitlaw.studies.presets import BATCH, learning_rate
from bitlaw.studies.process import available_cores
from bitlaw.train import loop
from bitlaw.train.data import VALIDATION_BYTES, Corpus, load

SCHEMES = ("w=int4/channel", "w=int4/block32", "w=bitlaw.formats.switched:switched_fp8")
METHODS = ("rounded", "fine-tuned", "scratch")
BEFORE = "checkpoint"  # a method: what fine-tuning starts from, dense or rounded
SHARE = 0.02  # of the steps are fine-tuning
PEAK = 0.1  # of the learning rate of training, when fine-tuning
TRIED = (
    f"{SHARE:.0%} of the steps and a learning rate that falls to 0 from {PEAK} of that of training "
    "were chosen on two or three seeds that this study does not use, at its quick size, among 2, "
    "3, 5 and 10% of the steps and 0.03 to 1 of the learning rate. Fine-tuning longer lost more, "
    "by the shorter training of the checkpoint, than it won."
)


@dataclass(frozen=True)
class QatRun:
    """One row: a scheme and how its weights came about; "dense" is the model to compare with."""

    scheme: str
    method: str
    model: ModelConfig
    d_tokens: int
    seed: int

    @property
    def steps(self) -> int:
        return self.d_tokens // (BATCH * self.model.context)

    @property
    def finetune_steps(self) -> int:
        return max(1, round(SHARE * self.steps))

    @property
    def recipe(self) -> loop.Recipe:
        peak = learning_rate(self.model.width) * (PEAK if self.method == "fine-tuned" else 1)
        return loop.Recipe(Scheme.parse(self.scheme), self.model, self.seed, BATCH, peak)

    def id(self, data_sha256: str, build: str) -> str:
        """The run_id: of the run, the constants, the corpus and the build."""
        return rows.id_of([dataclasses.asdict(self), SHARE, PEAK, data_sha256, build])


@dataclass(frozen=True)
class QatJob:
    """The runs of one seed that share a dense trunk, or one run from scratch."""

    runs: tuple[QatRun, ...]


@dataclass(frozen=True)
class Preset:
    """One model, one budget, some seeds."""

    model: ModelConfig
    d_tokens: int
    seeds: int

    def jobs(self) -> list[QatJob]:
        """Longest first: the trunks."""

        def of(scheme: str, method: str, seed: int) -> QatRun:
            return QatRun(str(Scheme.parse(scheme)), method, self.model, self.d_tokens, seed)

        pairs = [(scheme, method) for scheme in SCHEMES for method in (*METHODS[:2], BEFORE)]
        pairs.insert(0, ("dense", BEFORE))
        trunks = [
            QatJob((of("dense", "dense", seed), *(of(*pair, seed) for pair in pairs)))
            for seed in range(self.seeds)
        ]
        scratch = [
            QatJob((of(scheme, "scratch", seed),))
            for scheme in SCHEMES
            for seed in range(self.seeds)
        ]
        return trunks + scratch


PRESETS = {
    "smoke": Preset(ModelConfig(width=8, depth=1), 2**16, seeds=1),
    "quick": Preset(ModelConfig(width=32, depth=3), 2**21, seeds=4),
}


def execute(
    job: QatJob,
    corpus: Corpus,
    *,
    build: str,
    on_progress: Callable[[run.Progress], None],
    on_row: Callable[[dict[str, Any]], None],
    skip: frozenset[str] | set[str] = frozenset(),
) -> None:
    """Trains the runs of a job and hands over a row for each, as each is done."""
    first = job.runs[0]
    progress = _Progress(job, on_progress)
    began = time.perf_counter()

    def done(one: QatRun, branch: loop.Branch) -> None:
        nonlocal began
        now = time.perf_counter()
        run_id = one.id(corpus.sha256, build)
        if run_id not in skip:
            row = columns(one) | _measurements(one, branch) | {"seconds": now - began}
            on_row({"run_id": run_id} | row | {"data_sha256": corpus.sha256, "version": build})
        began = now

    if first.method == "scratch":
        (branch,) = loop.train(first.recipe, corpus, [first.steps], progress)
        done(first, branch)
        return
    end = first.steps
    begin = end - first.finetune_steps
    checkpoint, dense = loop.train(first.recipe, corpus, [begin, end], progress)
    for one in job.runs:
        if one.method == "dense":
            done(one, dense)
        elif one.method == BEFORE:
            done(one, loop.measured(one.recipe, corpus, checkpoint.params, begin))
        elif one.method == "rounded":
            done(one, loop.measured(one.recipe, corpus, dense.params, end))
        elif checkpoint.params is None:
            done(one, loop.Branch(end, None, None))
        else:
            done(one, loop.finetune(one.recipe, corpus, checkpoint.params, begin, end, progress))


class _Progress:
    """Counts the tokens of a job as its chunks are done."""

    def __init__(self, job: QatJob, on_progress: Callable[[run.Progress], None]) -> None:
        self.job, self.report = job, on_progress
        self.total, self.done = trained_tokens(job), 0
        self.chunk_began = time.perf_counter()

    def __call__(self, steps: int, step: int, end: int, loss: float) -> None:
        first, now = self.job.runs[0], time.perf_counter()
        tokens = steps * BATCH * first.model.context
        self.done += tokens
        rate, self.chunk_began = tokens / (now - self.chunk_began), now
        self.report(
            run.Progress(
                scheme=first.scheme,
                n_params=count.n_params(first.model),
                seed=first.seed,
                step=step,
                steps=end,
                loss=loss,
                tokens_per_second=rate,
                tokens_done=self.done,
                tokens_total=self.total,
            )
        )


def columns(one: QatRun) -> dict[str, Any]:
    """What a row of the run must say."""
    return {
        "scheme": one.scheme,
        "method": one.method,
        "n_params": count.n_params(one.model),
        "n_total": count.n_total(one.model),
        "d_tokens": one.d_tokens,
        "seed": one.seed,
    }


def _measurements(one: QatRun, branch: loop.Branch) -> dict[str, Any]:
    done = branch.loss is not None
    return {
        "n_nonzero": count.n_nonzero(branch.params) if done else None,
        "loss": branch.loss,
        "flops": count.flops_per_token(one.model) * one.d_tokens,
        "status": "ok" if done else "diverged",
        "bits_per_weight": stored_bits(one) if one.scheme != "dense" else None,
        "width": one.model.width,
        "depth": one.model.depth,
    }


def stored_bits(one: QatRun) -> float:
    """Bits per weight of the block matrices, as stored: codes and scales."""
    spec = Scheme.parse(one.scheme).w
    if not isinstance(spec, QuantSpec):
        return spec.bits
    matrices = [np.zeros(shape, np.float32) for shape in one.model.matrices.values()]
    stored = sum(quantize(padded(m, spec.structure), spec).nbytes for m in matrices)
    return 8 * stored / sum(m.size for m in matrices)


def trained_tokens(job: QatJob) -> int:
    """Tokens that a job trains: a trunk with its two cool-downs, and each fine-tuning."""
    first = job.runs[0]
    if first.method == "scratch":
        return first.d_tokens
    cooldown = run.optimizer.cooldown_begin(first.steps)
    begin = first.steps - first.finetune_steps
    twice = begin - run.optimizer.cooldown_begin(begin)
    finetunings = sum(one.method == "fine-tuned" for one in job.runs)
    steps = cooldown + twice + first.steps - cooldown + 1.4 * finetunings * first.finetune_steps
    return round(steps) * BATCH * first.model.context


def cost(job: QatJob) -> float:
    """Estimated seconds on one core, as `run.cost` estimates them."""
    model = job.runs[0].model
    seconds = 0.8e-6 + 0.0625e-6 * model.depth * model.width
    tokens = trained_tokens(job) + len(job.runs) * VALIDATION_BYTES / 3
    return seconds * tokens + len(job.runs) * run.COMPILE_SECONDS


STUDY = Study(
    execute="bitlaw.studies.qat:execute",
    load="bitlaw.train.data:load",
    identify="bitlaw.studies.build:build_id",
    cost=cost,
    program=lambda job: job.runs[0].scheme,
    label=lambda one: f"{one.scheme} {one.method} seed={one.seed}",
    columns=columns,
)


def study(preset: str, out: Path, workers: int = 0, data: str | Sequence[str] = "stdlib") -> str:
    """Runs the study in a folder, writes runs.csv and report.html there, returns the table.

    Args:
        preset: "smoke" or "quick".
        out: made if missing; finished runs of the same build and data found there are kept.
        workers: processes; 0 is one per core.
    """
    corpus = load(data)
    with rows.opened(out):
        display = choose_display()
        try:
            outcome = run_jobs(
                PRESETS[preset].jobs(),
                data,
                out,
                study=STUDY,
                data_sha256=corpus.sha256,
                build=build_id(),
                workers=workers or len(available_cores()),
                display=display,
            )
        finally:
            display.close()
        rows.write_runs(out, outcome.rows.values())
        if outcome.failures:
            raise rows.StudyError(
                f"{len(outcome.failures)} jobs failed twice: {outcome.failures[0]}; run the same "
                f"command again to try only those"
            )
        return qat_report.write(out, list(outcome.rows.values()), SHARE, TRIED)
