"""The page of the study of quantization-aware training: one table, one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bitlaw.pages import page
from bitlaw.pages.figure import COLORS, panels, styled
from bitlaw.studies import rows

METHODS = ("rounded", "fine-tuned", "scratch")
HEADER = ("scheme", "bits/weight", *METHODS, "recovered")
NAMES = {"w=bitlaw.formats.switched:switched_fp8": "switched fp8"}
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """One scheme and method: losses over the dense model's of the same seed, less one."""

    excess: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.excess)) if self.excess else math.nan

    @property
    def error(self) -> float:
        """Standard error over seeds; NaN of one."""
        n = len(self.excess)
        return float(np.std(self.excess, ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    def __str__(self) -> str:
        if not self.excess:
            return "diverged"
        error = "" if math.isnan(self.error) else f" ± {self.error:.2%}"
        return f"{self.mean:+.2%}{error}"


def cells(found: Sequence[dict[str, Any]]) -> dict[tuple[str, str], Cell]:
    """By scheme and method, in the order of the rows; seeds are paired with the dense model's."""
    dense = {row["seed"]: row["loss"] for row in found if row["method"] == "dense"}
    excess: dict[tuple[str, str], list[float]] = {}
    for row in found:
        if row["method"] not in METHODS:
            continue
        losses = excess.setdefault((row["scheme"], row["method"]), [])
        if row["loss"] is not None and dense.get(row["seed"]) is not None:
            losses.append(row["loss"] / dense[row["seed"]] - 1)
    return {key: Cell(tuple(losses)) for key, losses in excess.items()}


def table(found: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One row per scheme, as text."""
    grid = cells(found)
    bits = {row["scheme"]: row["bits_per_weight"] for row in found if row["bits_per_weight"]}
    lines = []
    for scheme in _schemes(grid):
        losses = [grid.get((scheme, method), Cell(())) for method in METHODS]
        lines.append(
            (
                NAMES.get(scheme, scheme),
                f"{bits[scheme]:.2f}" if scheme in bits else NOTHING,
                *map(str, losses),
                _recovered(found, scheme),
            )
        )
    return lines


def findings(found: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence per scheme: the fine-tuned model against the two alternatives, seed by seed."""
    grid, sentences = cells(found), []
    for scheme in _schemes(grid):
        tuned = _losses(found, scheme, "fine-tuned")
        against = []
        for method, name in (("rounded", "rounding"), ("scratch", "training from scratch")):
            other = _losses(found, scheme, method)
            seeds = sorted(tuned.keys() & other.keys())
            against.append(_verdict(Cell(tuple(tuned[k] / other[k] - 1 for k in seeds)), name))
        sentences.append(f"{NAMES.get(scheme, scheme)}: fine-tuning ended {' and '.join(against)}.")
    return sentences


def _losses(found: Sequence[dict[str, Any]], scheme: str, method: str) -> dict[int, float]:
    """By seed, of the runs that did not diverge."""
    rows = [row for row in found if (row["scheme"], row["method"]) == (scheme, method)]
    return {row["seed"]: row["loss"] for row in rows if row["loss"] is not None}


def _verdict(difference: Cell, other: str) -> str:
    """One seed, or less than two standard errors, tells nothing."""
    if math.isnan(difference.error) or abs(difference.mean) < 2 * difference.error:
        return f"not told apart from {other} ({difference})"
    return f"{'lower' if difference.mean < 0 else 'higher'} than {other} ({difference})"


def _behind(found: Sequence[dict[str, Any]]) -> Cell:
    """The loss of the dense checkpoint over that of the dense model, less one."""
    ends, begins = (_losses(found, "dense", method) for method in ("dense", "checkpoint"))
    return Cell(
        tuple(begins[seed] / ends[seed] - 1 for seed in sorted(begins.keys() & ends.keys()))
    )


def _schemes(grid: dict[tuple[str, str], Cell]) -> list[str]:
    """By name; those with a name of their own last."""
    return sorted({scheme for scheme, _ in grid}, key=lambda scheme: (scheme in NAMES, scheme))


def _recovered(found: Sequence[dict[str, Any]], scheme: str) -> str:
    """The share of what rounding costs the checkpoint that fine-tuning it wins back."""
    loss = {(row["scheme"], row["method"], row["seed"]): row["loss"] for row in found}
    cost, left = [], []
    for seed in sorted({row["seed"] for row in found}):
        dense, rounded = (loss.get((name, "checkpoint", seed)) for name in ("dense", scheme))
        tuned = loss.get((scheme, "fine-tuned", seed))
        if None not in (dense, rounded, tuned):
            cost.append(rounded - dense)
            left.append(tuned - dense)
    error = np.std(cost, ddof=1) / math.sqrt(len(cost)) if len(cost) > 1 else math.inf
    if not cost or not np.mean(cost) > 2 * error:
        return NOTHING
    return f"{1 - np.mean(left) / np.mean(cost):.0%}"


@styled
def drawn(found: Sequence[dict[str, Any]]) -> Figure:
    """The excess of every scheme and method; dots are seeds."""
    grid = cells(found)
    schemes = _schemes(grid)
    figure, (axes,) = panels(7.2, 3.4)
    for k, method in enumerate(METHODS):
        at = np.arange(len(schemes)) + 0.2 * (k - 1)
        each = [grid.get((scheme, method), Cell(())) for scheme in schemes]
        for x, cell in zip(at, each, strict=True):
            axes.plot([x] * len(cell.excess), 100 * np.array(cell.excess), ".", color=COLORS[k],
                      ms=4, alpha=0.5)  # fmt: skip
        error = [0 if math.isnan(cell.error) else 100 * cell.error for cell in each]
        axes.errorbar(at, [100 * cell.mean for cell in each], error, fmt="o", color=COLORS[k],
                      ms=5, capsize=3, label=method)  # fmt: skip
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xticks(range(len(schemes)), [NAMES.get(s, s) for s in schemes])
    axes.set_ylabel("loss over dense, %")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


def text(found: Sequence[dict[str, Any]]) -> str:
    """The table for a terminal."""
    lines = [HEADER, *table(found)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            value.ljust(width) if k == 0 else value.rjust(width)
            for k, (value, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def write(out: Path, found: Sequence[dict[str, Any]], share: float, tried: str) -> str:
    """Writes OUT/report.html; returns the table for a terminal, and below it what was found.

    Args:
        share: of the steps of a run that are fine-tuning.
        tried: how that and the learning rate were chosen.
    """
    seeds = sorted({row["seed"] for row in found})
    first = found[0]
    dense = [row["loss"] for row in found if row["method"] == "dense" and row["loss"]]
    level = f"{np.mean(dense):.4f} nats per byte" if dense else "unknown: it diverged"
    opening = f"""<h1>Quantization-aware training by fine-tuning</h1>
<p class="soft">{len(found)} runs: N = {first["n_params"]:,} block weights, D =
{first["d_tokens"]:,} tokens for every run, {len(seeds)} {"seed" if len(seeds) == 1 else "seeds"}.
Validation loss of the dense model: {level}.</p>
<p>Gemma 3 (arXiv:2503.19786, section 2.3) is trained dense and then, for about 5,000 steps, with
quantized weights towards the probabilities of its own dense checkpoint. Here the last
{share:.0%} of the tokens go into that, against two alternatives with as many tokens in all:
rounding the dense model's weights, and training with quantized weights from the first step.</p>"""
    notes = [
        "Losses are relative to the dense model of the same seed, order of data and tokens; "
        "± is the standard error over seeds.",
        "recovered: the share of what rounding costs the checkpoint that fine-tuning it wins back; "
        "above 100% where the checkpoint was not trained to its end. "
        f"{NOTHING} where rounding costs less than two standard errors, or with one seed.",
        "bits/weight: as stored, codes and f32 scales, of the block matrices. Switched fp8 has no "
        "scales.",
        f"The checkpoint that is fine-tuned has seen {share:.0%} fewer tokens than the dense model "
        f"that is rounded, and its own loss, before any quantization, is {_behind(found)} over "
        "that model's: where rounding costs less than that, fine-tuning starts behind.",
        tried,
        "At this scale these are measurements of the recipe, not reproductions of Gemma 3.",
    ]
    caption = (
        "Loss of each quantized model over that of the dense model of its seed. Small dots are "
        "seeds, bars standard errors."
    )
    sections = [
        opening,
        "<h2>What was found</h2>",
        f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in findings(found))}</ul>",
        page.table(HEADER, table(found)),
        *(f'<p class="notes">{escape(note)}</p>' for note in notes),
        page.figure(1, drawn(found), caption),
    ]
    html = page.document("bitlaw: quantization-aware training", sections)
    rows.write_atomic(out / "report.html", html)
    return "\n".join([text(found), *findings(found)])
