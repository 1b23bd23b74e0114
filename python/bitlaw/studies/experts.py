"""What experts are worth in parameters: a grid over sizes, routers and numbers of experts.

    bitlaw study experts --preset quick

trains small language models whose MLPs are replaced by X experts, of which each token meets one,
with the same text, seeds and steps as the dense model of the same width, and fits the routed law
(`routed`) for each router. N is the block weights of the dense model, which a token of a routed one
meets too. What the law says in one number is the effective parameter count: the N of the dense
model with the same loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitlaw.models.count import n_dense
from bitlaw.models.lm import ModelConfig
from bitlaw.studies import experts_page, presets, reproduce, rows, run
from bitlaw.studies.experts_page import experts_of, router_of
from bitlaw.studies.routed import RoutedFit, fit
from bitlaw.studies.rows import StudyError


@dataclass(frozen=True)
class Preset:
    """Sizes (width, depth) x routers x numbers of experts, and each size dense; one budget."""

    sizes: tuple[tuple[int, int], ...]
    routers: tuple[str, ...]
    experts: tuple[int, ...]
    tokens: int
    seeds: int = 1

    def runs(self) -> list[run.Run]:
        """Every run of the preset."""
        routed = [router.format(x) for router in self.routers for x in self.experts]
        models = [
            ModelConfig(width, depth, experts=experts)
            for width, depth in self.sizes
            for experts in ("", *routed)
        ]
        return [
            presets.point("dense", model, self.tokens, seed)
            for model in models
            for seed in range(self.seeds)
        ]


# A capacity of 1.25 is what V-MoE trains with; a hash cannot be balanced, and gets more.
PRESETS = {
    "smoke": Preset(((8, 1), (12, 1)), ("{}/top1/capacity1.25",), (4,), 2**14),
    "quick": Preset(
        sizes=((16, 2), (24, 2), (32, 3)),
        routers=("{}/sbase/capacity1.25", "{}/top1/capacity1.25", "{}/hash/capacity2"),
        experts=(2, 4, 8, 16, 32),
        tokens=2**20,
    ),
}


def columns(one: run.Run) -> dict[str, Any]:
    """What a row of the run must say."""
    return reproduce.columns(one) | {"experts": one.model.experts, "n_dense": n_dense(one.model)}


STUDY = dataclasses.replace(reproduce.STUDY, columns=columns)


def study(preset: str, out: Path, jobs: int) -> str:
    """Runs a preset, writes runs.csv and report.html in `out`, returns the table.

    Args:
        preset: a name in PRESETS.
        out: made if missing; runs of the same build finished there are kept.
        jobs: worker processes; 0 is one per core.
    Raises:
        StudyError: the folder cannot be used; a job failed twice.
    """
    plan = reproduce.plan_runs(PRESETS[preset].runs())
    with rows.opened(out):
        outcome = reproduce.execute(plan, out, jobs, STUDY)
        rows.write_runs(out, outcome.rows.values())
        if outcome.failures:
            raise StudyError(f"{len(outcome.failures)} jobs failed twice: {outcome.failures[0]}")
        found = list(outcome.rows.values())
        fits = fit_routers(found)
        rows.write_atomic(out / "report.html", experts_page.page(found, fits))
    return experts_page.text(found, fits)


def fit_routers(found: Sequence[dict[str, Any]]) -> list[RoutedFit]:
    """One fit per router, each with the dense runs, of the rows that converged."""
    done = [row for row in found if row["status"] == "ok"]
    routers = sorted({router_of(row["experts"]) for row in done} - {"dense"})
    fits = []
    for router in routers:
        used = [row for row in done if router_of(row["experts"]) in ("dense", router)]
        n, x = ([of(row) for row in used] for of in (lambda row: row["n_dense"], experts_of))
        fits.append(fit(router, n, x, [row["loss"] for row in used]))
    return fits
