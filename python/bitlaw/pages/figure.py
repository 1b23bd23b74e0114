"""How every figure looks, and how it becomes a file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bitlaw.laws import SchemeFit

# Okabe and Ito's colours, then matplotlib's, dense apart: distinct also to the colour-blind.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F",
    "#9467BD", "#BCBD22", "#17BECF", "#2CA02C",
)  # fmt: skip
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "bitlaw",
}


styled = matplotlib.rc_context(STYLE)  # as a decorator: rcParams count while a figure is drawn


def panels(width: float, height: float, columns: int = 1, **kwargs) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False, **kwargs)[0])


def bar(
    axes: Axes,
    at: float,
    ends: tuple[float | None, float | None],
    edges: tuple[float, float],
    upright: bool = False,
    **style,
) -> None:
    """An interval as a line at ``at``; up to the edge, with an arrow, where it is open or goes on.

    Args:
        ends: low and high; None is open.
        edges: of the panel along the line, which it must be given.
        upright: the line is vertical.
    """
    least, most = edges
    low, high = ends
    beyond = low is None or low < least, high is None or high > most
    line = [edge if out else end for edge, out, end in zip(edges, beyond, ends, strict=True)]
    x, y = [at, at], line
    axes.plot(*((x, y) if upright else (y, x)), **style)
    for edge, out, marker in zip(edges, beyond, "v^" if upright else "<>", strict=True):
        if out:
            place = (at, edge) if upright else (edge, at)
            axes.plot(*place, marker, ms=6, color=style.get("color"), clip_on=False, zorder=4)


def reach(entries: Sequence[SchemeFit]) -> float:
    """Where an axis of multipliers ends: beyond every one, and every end of an interval below 2."""
    ends = [entry.ends[1] for entry in entries if entry.low is not None]
    known = [2.0 if end is None else min(end, 2.0) for end in ends]
    return 1.05 * max([1.0, *known, *(entry.eff for entry in entries)])


def log_axis(axes: Axes, subs: tuple[float, ...] = ()) -> None:
    """A logarithmic x axis with plain numbers, once all is drawn: 5k, 10k, 20k.

    ``subs`` are the ticks of a decade; without, fewer the more decades there are.
    """
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    wide = (1, 2, 5) if decades < 2.7 else (1, 3) if decades < 4.5 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs or wide))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: plain(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def plain(x: float) -> str:
    """5000 as 5k, 2e6 as 2M, 1.6384e10 as 16.4G, below a thousand as it is, in three digits."""
    for unit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= 0.9995 * unit:
            return f"{x / unit:.3g}{suffix}"
    return f"{x:.3g}"


def color(k: int) -> str:
    """The k-th colour of a list: COLORS, then darker, then lighter ones; 36 that differ."""
    shade, mix = ((0, 0.0), (0, 0.45), (255, 0.5))[k // len(COLORS) % 3]
    parts = (int(COLORS[k % len(COLORS)][at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round((1 - mix) * part + mix * shade):02X}" for part in parts)


@styled
def svg(figure: Figure) -> bytes:
    """The figure as SVG; the same bytes for the same figure."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


@styled
def png(figure: Figure) -> bytes:
    """The figure as PNG, 160 dots per inch."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160)
    return file.getvalue()
