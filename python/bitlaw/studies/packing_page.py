"""The table and the page of the study of packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bitlaw.pages import page as pages
from bitlaw.pages.figure import COLORS, panels, styled

HEADER = (
    "examples", "layout", "seed", "fill", "ms/step", "planning ms", "examples/s", "tokens/s",
    "validation loss", "times faster",
)  # fmt: skip
FILL_HEADER = ("examples", "tokens, mean", "capacity", "padded", "packed")

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Fill:
    """How full rows are when a whole data set is planned: {capacity: (padded, packed)}."""

    data: str
    lengths: np.ndarray
    by_capacity: dict[int, Sequence[float]]


@dataclass(frozen=True)
class Pair:
    """The rows of one training in both layouts."""

    padded: dict[str, Any]
    packed: dict[str, Any]

    @property
    def faster(self) -> float:
        """How many times as fast packed steps are: the ratio of the medians."""
        return self.padded["step_seconds"] / self.packed["step_seconds"]

    @property
    def first_difference(self) -> float:
        """The largest relative difference of the losses of the first ten steps."""
        one, other = (np.array(row["first_losses"]) for row in (self.padded, self.packed))
        return float(np.max(np.abs(one - other) / one))

    @property
    def last_difference(self) -> float:
        """The relative difference of the validation losses, packed less padded."""
        return self.packed["loss"] / self.padded["loss"] - 1


def pairs(rows: Rows) -> list[Pair]:
    """The pairs that both converged, by data set and seed."""
    found = {(r["data"], r["seed"], r["layout"]): r for r in rows if r["status"] == "ok"}
    keys = sorted({key[:2] for key in found})
    both = [[found.get((*key, layout)) for layout in ("padded", "packed")] for key in keys]
    return [Pair(*pair) for pair in both if all(pair)]


def table(rows: Rows) -> list[tuple[str, ...]]:
    """Two rows per pair under HEADER."""
    return [
        (
            row["data"],
            row["layout"],
            f"{row['seed']}",
            f"{row['fill']:.1%}",
            f"{1e3 * row['step_seconds']:.1f}",
            f"{1e3 * row['host_seconds']:.1f}",
            f"{row['examples_per_second']:,.0f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['loss']:.5f}",
            f"{pair.faster:.2f}" if row is pair.packed else "1",
        )
        for pair in pairs(rows)
        for row in (pair.padded, pair.packed)
    ]


def fill_table(fills: Sequence[Fill]) -> list[tuple[str, ...]]:
    """One row per data set and capacity under FILL_HEADER."""
    return [
        (fill.data, f"{fill.lengths.mean():.1f}", f"{capacity}", *(f"{x:.2%}" for x in both))
        for fill in fills
        for capacity, both in fill.by_capacity.items()
    ]


def text(rows: Rows, fills: Sequence[Fill]) -> str:
    """The tables for a terminal."""
    lines = [aligned(HEADER, table(rows), 2), "", aligned(FILL_HEADER, fill_table(fills), 1), ""]
    return "\n".join([*lines, *notes(rows)])


def aligned(header: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """A table in columns, the first `left` of them to the left."""
    widths = [max(len(line[k]) for line in (header, *lines)) for k in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k < left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (header, *lines)
    )


def notes(rows: Rows) -> list[str]:
    """What must be said with the tables."""
    lines = []
    for data in dict.fromkeys(pair.packed["data"] for pair in pairs(rows)):
        of = [pair for pair in pairs(rows) if pair.packed["data"] == data]
        last = [abs(pair.last_difference) for pair in of]
        line = (
            f"{data}: the losses of the first ten steps differ by at most "
            f"{max(pair.first_difference for pair in of):.1e} of themselves, the validation losses "
            f"at the end by {max(last):.2%}"
        )
        seeds = [pair.padded["loss"] for pair in of]
        if len(seeds) > 1:
            line += f"; seeds of the padded layout differ by {max(seeds) / min(seeds) - 1:.2%}"
        lines.append(line + ".")
    lines.append(
        "Both layouts take the same examples in the same order and divide by the same number of "
        "targets. Rounding differs, and training amplifies it, as it would any other."
    )
    lines.append(
        "ms/step is the median of the compiled updates; planning, the time to plan and fill the "
        "rows of a step, is not in it. Packed rows are as many as the step that needs most of them."
    )
    if lost := sum(row["status"] != "ok" for row in rows):
        lines.append(f"{lost} runs diverged and are left out, each with its pair.")
    return lines


@styled
def curves(rows: Rows) -> Figure:
    """Training loss against the time in updates, one panel per data set, two lines per seed."""
    found = pairs(rows)
    names = list(dict.fromkeys(pair.packed["data"] for pair in found))
    figure, axes_of = panels(4.3 * len(names), 3.2, len(names))
    for axes, data in zip(axes_of, names, strict=True):
        for pair in (pair for pair in found if pair.packed["data"] == data):
            for row, color in ((pair.padded, COLORS[1]), (pair.packed, COLORS[0])):
                seconds = row["step_seconds"] * row["steps"]
                at = seconds * (np.arange(len(row["curve"])) + 0.5) / len(row["curve"])
                label = row["layout"] if row["seed"] == 0 else None
                axes.plot(at, row["curve"], color=color, lw=1.3, label=label)
        axes.set_title(data)
        axes.set_xlabel("seconds in updates")
    axes_of[0].set_ylabel("training loss, nats")
    axes_of[0].legend()
    return figure


def page(rows: Rows, fills: Sequence[Fill]) -> str:
    """The report as one self-contained HTML page."""
    found = pairs(rows)
    names = dict.fromkeys(pair.packed["data"] for pair in found)
    speeds = {n: np.median([p.faster for p in found if p.packed["data"] == n]) for n in names}
    speed = " and ".join(f"<b>{speeds[n]:.2f} times</b> as fast on {escape(n)}" for n in names)
    last = max((abs(pair.last_difference) for pair in found), default=None)
    same = "" if last is None else f", and its validation losses differ by at most {last:.2%}"
    sections = [
        "<h1>What packing is worth</h1>",
        "<p>The same small models, trained on the same examples in the same order, with a row for "
        f"each example and with rows that hold as many as fit. Packed training is {speed}{same}."
        "</p>",
        "<p>Functions are those of the standard library's sources that fit a row. Glyphs are "
        "letters and digits of the fonts that matplotlib ships, each at its native size and aspect "
        "ratio, classified by a transformer over their patches.</p>",
    ]
    if found:
        caption = (
            "The same training, padded and packed. Points are means over parts of the run; the "
            "time is the median step times the number of steps, without planning and compilation."
        )
        sections.append(pages.figure(1, curves(rows), caption))
    labels = ("examples", "layout")
    sections += [
        "<h2>Every training</h2>",
        pages.table(HEADER, table(rows), text=labels),
        "<h2>Fill of whole data sets</h2>",
        "<p>Planned at once from all lengths, as for a data set that is packed before training: "
        "the share of the positions that are no padding.</p>",
        pages.table(FILL_HEADER, fill_table(fills), text=labels),
        "<h2>Notes</h2>",
        *(f'<p class="notes">{escape(line)}</p>' for line in notes(rows)),
    ]
    return pages.document("bitlaw: what packing is worth", sections)
