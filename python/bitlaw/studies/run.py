"""One run of a study: a pure function from a configuration to a row of the table.

Runs that differ only in their budget share a training trunk (see `train.loop`) and form one job,
the unit of work. A row depends on its run, the corpus and the build of the package, and on nothing
else (but for its `seconds`).
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitlaw.formats import Scheme
from bitlaw.models import count
from bitlaw.models.lm import ModelConfig
from bitlaw.studies import rows
from bitlaw.train import checkpoint, optimizer
from bitlaw.train.data import VALIDATION_BYTES, Corpus
from bitlaw.train.loop import Branch, Recipe, train

DEVICES = ("cpu", "cuda")
HISTORY = ("d_tokens", "init_tokens", "avg_params", "flops")  # of a checkpoint's row, in ours
COMPILE_SECONDS = 1.0  # 3 or 4 for the first job of a model and structure, 0 for the others

# Guesses until a GPU has been measured; only the order of work and the time left hang on them.
GPU_FLOPS = 990e12  # bf16, dense, of an H100 or H200 (NVIDIA's data sheets)
GPU_SHARES = (0.1, 0.25)  # of them that a model of 1M, and of 16M weights or more, may reach
GPU_COMPILE_SECONDS = 15.0
GPU_WORKERS = 4  # that share a GPU: while one compiles or waits for data, others use it


@dataclass(frozen=True)
class Run:
    """Everything that determines a row but the corpus and the build.

    scheme is kept in its canonical form; d_tokens are training positions, batch counts rows; init
    is the folder of a checkpoint to start from, save one to write the parameters to at the end.
    With members, the seeds 0 .. members - 1 are trained as one ensemble, which may change the last
    bits of a row, as the device does: so both are part of the run.

    Raises:
        ValueError: the scheme or the device is unknown, the seed is out of range, or d_tokens is no
            whole number of batches.
    """

    scheme: str
    model: ModelConfig
    d_tokens: int
    seed: int
    batch: int
    learning_rate: float
    warmup: int = optimizer.WARMUP
    cooldown: float = optimizer.COOLDOWN
    init: str = ""
    save: str = ""
    device: str = "cpu"
    members: int = 1

    def __post_init__(self):
        object.__setattr__(self, "scheme", str(Scheme.parse(self.scheme)))
        if self.device not in DEVICES:
            raise ValueError(f"device must be {' or '.join(DEVICES)}, got {self.device}")
        if self.members != 1 and not self.seed < self.members:
            raise ValueError(f"seed must be less than members = {self.members}, got {self.seed}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0..2^32-1, got {self.seed}")
        tokens = self.batch * self.model.context
        if self.d_tokens < tokens or self.d_tokens % tokens:
            raise ValueError(
                f"d_tokens must be a multiple of batch * context = {tokens}, got {self.d_tokens}"
            )

    @property
    def name(self) -> str:
        """The scheme, and the experts if there are any: what messages call the run."""
        return f"{self.scheme} {self.model.experts}".rstrip()

    @property
    def steps(self) -> int:
        return self.d_tokens // (self.batch * self.model.context)

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            Scheme.parse(self.scheme),
            self.model,
            self.seed,
            self.batch,
            self.learning_rate,
            self.warmup,
            self.cooldown,
            self.init,
        )

    @property
    def ensemble(self) -> Recipe:
        """The recipe of the run and its fellow members; its own if it has none."""
        if self.members == 1:
            return self.recipe
        return dataclasses.replace(self.recipe, seed=0, members=self.members)

    def id(self, data_sha256: str, build: str) -> str:
        """The run_id: of the run, the corpus, the build and a user's code.

        A checkpoint to start from counts by its weights and their history, not by its folder.
        """
        run = dataclasses.asdict(self) | {"save": ""}  # where it is kept decides nothing
        if self.init:
            row = row_of(Path(self.init))
            digest = checkpoint.read_digest(Path(self.init))
            run["init"] = [digest, *(row[name] for name in HISTORY)]
        what = [run, data_sha256, build, *Scheme.parse(self.scheme).digests]
        return rows.id_of(what)


@dataclass(frozen=True)
class Job:
    """Runs that share one trunk, by ascending d_tokens; all seeds of an ensemble."""

    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Progress:
    """Where a job stands. step and steps are of the present run, tokens of the whole job."""

    scheme: str
    n_params: int
    seed: int
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    tokens_done: int
    tokens_total: int


def group(runs: Sequence[Run]) -> list[Job]:
    """The jobs of some runs: those equal but for d_tokens together, each pruned run alone.

    Members of an ensemble are together too; all of them must be among the runs. Jobs keep the order
    of their first runs; a run given twice is done once.
    """
    trunks: dict[Run, set[Run]] = {}
    for run in runs:
        pruned = Scheme.parse(run.scheme).s is not None
        trunk = run if pruned else dataclasses.replace(run, d_tokens=run.batch * run.model.context)
        trunk = dataclasses.replace(trunk, seed=0) if run.members > 1 else trunk
        trunks.setdefault(trunk, set()).add(run)
    return [
        Job(tuple(sorted(runs, key=lambda run: (run.d_tokens, run.seed))))
        for runs in trunks.values()
    ]


def trained_tokens(runs: Sequence[Run]) -> int:
    """Tokens that these runs of one trunk train: to the last cool-down, and every cool-down.

    Of every member of an ensemble.
    """
    first = runs[0]
    budgets = sorted({run.steps for run in runs})
    begins = [optimizer.cooldown_begin(steps, first.cooldown) for steps in budgets]
    steps = begins[-1] + sum(end - begin for end, begin in zip(budgets, begins, strict=True))
    return steps * first.batch * first.model.context * first.members


def execute(
    job: Job,
    corpus: Corpus,
    *,
    build: str,
    on_progress: Callable[[Progress], None],
    on_row: Callable[[dict[str, Any]], None],
    skip: frozenset[str] | set[str] = frozenset(),
) -> None:
    """Trains the runs of a job and hands over a row for each, as each is done.

    Args:
        skip: run ids that are done already; the other rows do not depend on it.
    Raises:
        ValueError: the corpus does not suit a run.
    """
    runs = [run for run in job.runs if run.id(corpus.sha256, build) not in skip]
    if not runs:
        return
    corpus.check_budget(max(run.d_tokens for run in runs))
    first = job.runs[0]
    tokens_per_step = first.batch * first.model.context * first.members
    tokens_total = trained_tokens(runs)
    tokens_done = 0
    row_began = chunk_began = time.perf_counter()

    def on_chunk(steps: int, step: int, end: int, loss: float) -> None:
        nonlocal tokens_done, chunk_began
        now = time.perf_counter()
        rate = steps * tokens_per_step / (now - chunk_began)
        tokens_done, chunk_began = tokens_done + steps * tokens_per_step, now
        on_progress(
            Progress(
                scheme=first.name,
                n_params=count.n_params(first.model),
                seed=first.seed,
                step=step,
                steps=end,
                loss=loss,
                tokens_per_second=rate,
                tokens_done=tokens_done,
                tokens_total=tokens_total,
            )
        )

    wanted = {(run.steps, run.seed): run for run in runs}
    for branch in train(first.ensemble, corpus, sorted({run.steps for run in runs}), on_chunk):
        run, now = wanted.get((branch.steps, branch.seed)), time.perf_counter()
        if run is None:  # a member that had its row when its fellows were lost
            continue
        row = {"run_id": run.id(corpus.sha256, build)} | _row(run, branch)
        row |= {"epochs": round(run.d_tokens / corpus.n_train_tokens, 3)}
        row |= {"seconds": now - row_began, "data_sha256": corpus.sha256, "version": build}
        if run.save and branch.params is not None:
            meta = {"model": dataclasses.asdict(run.model), "row": row}
            checkpoint.save(Path(run.save), branch.params, meta)
        on_row(row)
        row_began = now


def row_of(init: Path) -> dict[str, Any]:
    """The row of the run that wrote a checkpoint.

    Raises:
        ValueError: there is no checkpoint, or one that does not say how it was trained.
    """
    row = checkpoint.read_meta(init).get("row") or {}
    missing = [name for name in HISTORY if name not in row]
    if missing:
        raise ValueError(
            "init must be a checkpoint with the row of its run, as `bitlaw train --save` writes, "
            f"got {init} without {', '.join(missing)}"
        )
    return row


def _row(run: Run, branch: Branch) -> dict[str, Any]:
    """The columns that a run determines. A diverged run has no loss and no count of its weights."""
    done = branch.loss is not None
    before = row_of(Path(run.init)) if run.init else None
    tokens = 0 if before is None else before["d_tokens"] + before["init_tokens"]
    average, flops = average_params(run), count.flops_per_token(run.model) * run.d_tokens
    if before is not None:  # of the whole training, the checkpoint's included
        earlier = tokens / (tokens + run.d_tokens)
        average = earlier * before["avg_params"] + (1 - earlier) * average
        flops += before["flops"]
    return {
        "scheme": run.scheme,
        "n_params": count.n_params(run.model),
        "n_total": count.n_total(run.model),
        "n_nonzero": count.n_nonzero(branch.params) if done else None,
        "d_tokens": run.d_tokens,
        "seed": run.seed,
        "loss": branch.loss,
        "flops": flops,
        "status": "ok" if done else "diverged",
        "avg_params": average,
        "init_tokens": tokens,
        "width": run.model.width,
        "depth": run.model.depth,
        "learning_rate": run.learning_rate,
        "n_dense": count.n_dense(run.model),
        "n_active": count.n_active(run.model),
        "experts": run.model.experts,
        "compute": run.model.compute,
        "device": run.device,
    }


def average_params(run: Run) -> float:
    """Mean over the steps of the block weights in use, those not pruned (arXiv:2501.12486)."""
    sparse = Scheme.parse(run.scheme).s
    n = count.n_params(run.model)
    if sparse is None:
        return float(n)
    schedule, pattern = optimizer.sparsity_of(sparse, run.steps), optimizer.pattern_of(sparse)
    steps = np.minimum(schedule.steps(), run.steps)
    lasting = np.diff([0, *steps, run.steps])  # steps with each count of weights
    if sparse.scope == "global":
        kept = pattern.keep_counts(schedule, (n,), sparse.level)
        return float(np.dot(lasting, [n, *kept]) / run.steps)
    kept = [
        np.dot(lasting, [math.prod(shape), *pattern.keep_counts(schedule, shape, sparse.level)])
        for shape in run.model.matrices.values()
    ]
    return float(run.model.depth * sum(kept) / run.steps)


def cost(job: Job) -> float:
    """Estimated seconds on one core, or on the GPU, for the order of work and the time left.

    Seconds per token, measured on one core of an AMD EPYC with 2 to 4 blocks of width 16 to 48:
    0.8e-6 + 0.0625e-6 * depth * width, and more where something is quantized.
    """
    first = job.runs[0]
    if first.device == "cuda":
        return _gpu_cost(job)
    scheme = Scheme.parse(first.scheme)
    seconds = 0.8e-6 + 0.0625e-6 * first.model.depth * first.model.width
    seconds *= 1 + 0.05 * (scheme.w is not None) + 0.2 * (scheme.a is not None)
    seconds *= 1 + 0.2 * (scheme.g is not None)
    tokens = trained_tokens(job.runs) + len(job.runs) * VALIDATION_BYTES / 3  # forward only
    return seconds * tokens + COMPILE_SECONDS


def _gpu_cost(job: Job) -> float:
    """Seconds on a GPU shared by GPU_WORKERS: operations at a share of its peak that grows with N.

    share = GPU_SHARES[0] * (N / 1M)^(1/3), at most GPU_SHARES[1]
    """
    model = job.runs[0].model
    low, high = GPU_SHARES
    share = min(high, low * (count.n_params(model) / 1e6) ** (1 / 3))
    flops = count.flops_per_token(model) * trained_tokens(job.runs)
    return GPU_WORKERS * flops / (GPU_FLOPS * share) + GPU_COMPILE_SECONDS
