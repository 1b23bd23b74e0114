"""What packing is worth: padded against packed training of the same model on the same examples.

    bitlaw study packing --preset quick

On two data sets, functions of the standard library's sources and glyphs of matplotlib's fonts at
their native sizes, every training step takes the same examples once with a row for each and once
packed (`train.layouts`). Losses are equal but for rounding, so what differs is the time.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitlaw import packing
from bitlaw.models.count import n_params
from bitlaw.models.lm import ModelConfig
from bitlaw.models.vit import ViTConfig
from bitlaw.studies import packing_page, rows
from bitlaw.studies.build import build_id
from bitlaw.studies.display import choose_display
from bitlaw.studies.executor import Study, run_jobs
from bitlaw.studies.presets import learning_rate
from bitlaw.studies.process import available_cores
from bitlaw.studies.rows import StudyError
from bitlaw.studies.run import Progress
from bitlaw.train import data, glyphs, layouts

PATCH = 4  # pixels, the side of a patch of a glyph
CURVE = 60  # points of a training curve that are kept


@dataclass(frozen=True)
class Run:
    """One layout's training. capacity is tokens per row, batch examples per step."""

    data: str  # "functions" or "glyphs"
    layout: str  # of layouts.LAYOUTS
    model: ModelConfig | ViTConfig
    capacity: int
    batch: int
    steps: int
    seed: int

    def id(self, data_sha256: str, build: str) -> str:
        """The run_id: of the run, the data and the build."""
        return rows.id_of([dataclasses.asdict(self), data_sha256, build])


@dataclass(frozen=True)
class Job:
    """Both layouts of one training: they take turns in one process."""

    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Preset:
    """Both data sets with the model, examples per step and steps of each."""

    text: ModelConfig
    text_batch: int
    text_steps: int
    image: ViTConfig
    image_capacity: int
    image_batch: int
    image_steps: int
    seeds: int = 1
    glyph_sizes: tuple[int, ...] = glyphs.SIZES

    @property
    def source(self) -> tuple[int, tuple[int, ...]]:
        """What `load` is told."""
        return self.text.context + 1, self.glyph_sizes

    @property
    def jobs(self) -> list[Job]:
        sets = (
            ("functions", self.text, self.text.context + 1, self.text_batch, self.text_steps),
            ("glyphs", self.image, self.image_capacity, self.image_batch, self.image_steps),
        )
        return [
            Job(tuple(Run(name, layout, *shape, seed) for layout in layouts.LAYOUTS))
            for name, *shape in sets
            for seed in range(self.seeds)
        ]


def vit(width: int, depth: int, heads: int) -> ViTConfig:
    """The image model for glyphs."""
    return ViTConfig(width, depth, PATCH**2, len(glyphs.CHARACTERS), heads=heads)


PRESETS = {
    "smoke": Preset(
        ModelConfig(8, 1, context=128), 8, 6, vit(8, 1, 1), 32, 16, 6, glyph_sizes=(10, 20)
    ),
    # The more examples a step takes, the less its rows vary in number, and the fuller they are.
    "quick": Preset(ModelConfig(32, 2, context=256), 64, 240, vit(32, 2, 2), 64, 128, 600, seeds=2),
}


@dataclass(frozen=True)
class Data:
    """Both data sets, the functions cut to what a row holds."""

    functions: tuple[list[bytes], list[bytes]]
    glyphs: glyphs.Glyphs
    sha256: str

    def examples(self, one: Run) -> layouts.Examples:
        """What a run trains on."""
        if one.data == "functions":
            return layouts.text(*self.functions, one.model)
        return layouts.pictures(self.glyphs, one.model, PATCH, one.capacity)


@functools.lru_cache(maxsize=1)
def load(source: tuple[int, tuple[int, ...]]) -> Data:
    """The functions of at most so many bytes, and the glyphs of these sizes."""
    longest, sizes = source
    functions, images = data.functions(longest), glyphs.load(sizes)
    digest = hashlib.sha256(images.sha256.encode())
    for part in functions:
        digest.update(b"\0".join(hashlib.sha256(text).digest() for text in part))
    return Data(functions, images, digest.hexdigest())


def identify() -> str:
    """The build, and this file, which computes rows too."""
    return f"{build_id()}.{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"


def execute(
    job: Job,
    corpus: Data,
    *,
    build: str,
    on_progress: Callable[[Progress], None],
    on_row: Callable[[dict[str, Any]], None],
    skip: frozenset[str] | set[str] = frozenset(),
) -> None:
    """Trains both layouts of a job in turn and hands over a row for each."""
    first = job.runs[0]
    examples = corpus.examples(first)
    chosen = [examples.chosen(first.seed, step, first.batch) for step in range(first.steps)]
    total = int(examples.lengths[np.concatenate(chosen)].sum())
    steps: dict[str, list[layouts.Step]] = {layout: [] for layout in layouts.LAYOUTS}
    results = {}
    seen, began = 0, time.perf_counter()
    for step in layouts.alternate(
        examples, chosen, seed=first.seed, learning_rate=learning_rate(first.model.width)
    ):
        if isinstance(step, dict):
            results = step
            continue
        steps[step.layout].append(step)
        seen += step.tokens
        on_progress(
            Progress(
                scheme=f"{first.data} {step.layout}",
                n_params=n_params(first.model),
                seed=first.seed,
                step=len(steps[step.layout]),
                steps=first.steps,
                loss=step.loss,
                tokens_per_second=seen / (time.perf_counter() - began),
                tokens_done=seen,
                tokens_total=2 * total,
            )
        )
    for one in job.runs:  # both were trained, for the time; those not yet kept are handed over
        run_id = one.id(corpus.sha256, build)
        row = _row(one, steps[one.layout], results[one.layout])
        if run_id not in skip:
            on_row({"run_id": run_id} | row | {"data_sha256": corpus.sha256, "version": build})


def _row(one: Run, steps: list[layouts.Step], result: layouts.Result) -> dict[str, Any]:
    """The columns of one layout's training; flops count padding, which is computed too."""
    tokens, positions = sum(s.tokens for s in steps), sum(s.positions for s in steps)
    step_seconds = float(np.median([s.seconds for s in steps]))
    losses = np.array([s.loss for s in steps])
    bins = np.array_split(losses, min(CURVE, len(losses)))
    size = n_params(one.model)
    done = bool(np.isfinite(losses).all() and np.isfinite(result.loss))
    return {
        "scheme": f"{one.data} {one.layout}",
        "n_params": size,
        "n_total": sum(leaf.size for leaf in jax.tree.leaves(result.params)),
        "n_nonzero": size,
        "d_tokens": tokens,
        "seed": one.seed,
        "loss": result.loss if done else None,
        "flops": 6 * size * positions,
        "seconds": sum(s.seconds for s in steps),
        "status": "ok" if done else "diverged",
        "data": one.data,
        "layout": one.layout,
        "steps": one.steps,
        "examples": one.steps * one.batch,
        "positions": positions,
        "fill": tokens / positions,
        "step_seconds": step_seconds,
        "host_seconds": float(np.median([s.host_seconds for s in steps])),
        "tokens_per_second": tokens / one.steps / step_seconds,
        "examples_per_second": one.batch / step_seconds,
        "first_losses": losses[:10].tolist(),
        "curve": [float(np.mean(part)) for part in bins],
    }


def cost(job: Job) -> float:
    """Estimated seconds on one core: the positions of both layouts at the speed of `run.cost`."""
    one = job.runs[0]
    positions = one.steps * one.batch * one.capacity * 1.5
    return 3 + positions * (0.8e-6 + 0.0625e-6 * one.model.depth * one.model.width)


def program(job: Job) -> Hashable:
    """What decides the compiled programs; shapes depend on the examples, so on the seed."""
    return job


def label(one: Run) -> str:
    """A run's name in messages."""
    return f"{one.data} {one.layout} seed={one.seed}"


def columns(one: Run) -> dict[str, Any]:
    """What a row of the run must say."""
    return {"scheme": f"{one.data} {one.layout}", "n_params": n_params(one.model), "seed": one.seed}


STUDY = Study(
    execute="bitlaw.studies.packing:execute",
    load="bitlaw.studies.packing:load",
    identify="bitlaw.studies.packing:identify",
    cost=cost,
    program=program,
    label=label,
    columns=columns,
)


def study(preset: str, out: Path, jobs: int) -> str:
    """Runs a preset, writes runs.csv and report.html in `out`, returns the table.

    Args:
        preset: a name in PRESETS.
        out: made if missing; runs of the same build finished there are kept.
        jobs: worker processes; 0 is one per core.
    Raises:
        StudyError: the folder cannot be used; a job failed twice.
    """
    chosen = PRESETS[preset]
    corpus, display = load(chosen.source), choose_display()
    with rows.opened(out):
        try:
            outcome = run_jobs(
                chosen.jobs,
                chosen.source,
                out,
                study=STUDY,
                data_sha256=corpus.sha256,
                build=identify(),
                workers=jobs or len(available_cores()),
                display=display,
            )
        finally:
            display.close()
        found = sorted(outcome.rows.values(), key=lambda row: (row["data"], row["seed"]))
        rows.write_runs(out, found)
        if outcome.failures:
            raise StudyError(f"{len(outcome.failures)} jobs failed twice: {outcome.failures[0]}")
        firsts = [job.runs[0] for job in chosen.jobs if job.runs[0].seed == 0]
        fills = [fill(corpus.examples(one), one) for one in firsts]
        rows.write_atomic(out / "report.html", packing_page.page(found, fills))
    return packing_page.text(found, fills)


def fill(examples: layouts.Examples, one: Run) -> packing_page.Fill:
    """How full rows are when the whole data set is planned at once, at several capacities."""
    least = int(examples.lengths.max())
    plans = {
        capacity: [packing.plan(examples.lengths, capacity, **layouts.planning(layout)).fill
                   for layout in layouts.LAYOUTS]
        for capacity in (least, 2 * least, 4 * least)
    }  # fmt: skip
    return packing_page.Fill(one.data, examples.lengths, plans)
