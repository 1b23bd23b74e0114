"""Figures of any fit, drawn from its record alone."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bitlaw.pages.figure import log_axis, panels, plain, styled
from bitlaw.pages.view import LABELS, SEPARABLE, View

FLOPS_LEVELS = 6
MOST_PANELS = 4


def label(view: View, column: str) -> str:
    return LABELS.get(column, column)


def legend(figure: Figure, view: View, extra: tuple[Line2D, ...] = ()) -> None:
    """One line for each kind, to the right of the panels."""
    handles = [
        Line2D([], [], color=view.color(kind), marker="o", ms=4, mfc="none", label=view.name(kind))
        for kind in view.kinds
    ]
    if len(handles) > 1 or extra:
        figure.legend(handles=[*handles, *extra], loc="outside right center")


def reach(values: np.ndarray, margin: float = 1.25) -> np.ndarray:
    """Where a curve through these values is drawn."""
    return np.geomspace(values.min() / margin, values.max() * margin, 80)


@styled
def curves(view: View) -> Figure | None:
    """Loss against size: one panel per budget, one curve per kind. None if budgets are many."""
    budgets = [None] if view.data is None else sorted(np.unique(np.round(view.d, -3)))
    if len(budgets) > MOST_PANELS:
        return None
    figure, axes = panels(2.2 + 2.6 * len(budgets), 3.4, len(budgets), sharey=True)
    for k, (panel, budget) in enumerate(zip(axes, budgets, strict=True)):
        for kind in view.kinds:
            rows = view.rows(kind)
            if budget is not None:
                rows = rows & (np.round(view.d, -3) == budget)
            if not rows.any():
                continue
            n = reach(view.n[rows])
            panel.plot(n, view.predict(n, budget, kind), color=view.color(kind), lw=1)
            panel.plot(view.n[rows], view.loss[rows], "o", ms=4, mfc="white", mew=0.9,
                       color=view.color(kind))  # fmt: skip
        log_axis(panel, (1, 3))
        panel.set_xlabel(label(view, view.size))
        if budget is not None:
            panel.set_title(f"({'abcd'[k]}) D = {plain(budget)}")
    axes[0].set_ylabel("loss, nats")
    legend(figure, view)
    return figure


@styled
def collapse(view: View) -> Figure | None:
    """Loss less its data term against N, and against the dense size of equal loss."""
    if (view.data and view.fit.law not in SEPARABLE) or len(view.kinds) < 2:
        return None
    figure, (left, right) = panels(9.2, 3.6, 2, sharey=True)
    ends = []
    for kind in view.kinds:
        rows = view.rows(kind)
        n, height = view.n[rows], view.less_data(rows)
        dense = view.dense_size(n, kind)
        ends += [dense.min(), dense.max()]
        style = {"ls": "", "marker": "o", "ms": 4, "mfc": "none", "mew": 0.9}
        left.plot(n, height, color=view.color(kind), **style)
        right.plot(dense, height, color=view.color(kind), **style)
        line = reach(n)
        left.plot(line, _size_term(view, line, kind), color=view.color(kind), lw=1)
    line = reach(np.array(ends))
    right.plot(line, _size_term(view, line, view.base), color="black", lw=1.1, zorder=0)
    for panel in (left, right):
        log_axis(panel)
    left.set_title("(a) as trained")
    right.set_title("(b) collapsed")
    left.set_xlabel(label(view, view.size))
    right.set_xlabel("dense size of equal loss")
    left.set_ylabel("loss less its data term, nats" if view.data else "loss, nats")
    legend(figure, view)
    return figure


def _size_term(view: View, n: np.ndarray, kind: tuple) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return view.predict(n, np.inf if view.data else None, kind)


@styled
def isoflop(view: View) -> Figure | None:
    """Loss against size at equal training FLOPs, with the best size of each.

    Runs of the base only, if there are enough of them; the levels are quantiles of their FLOPs.
    """
    if view.data is None:
        return None
    rows = view.rows(view.base) if view.base in view.kinds else view.rows(view.kinds[0])
    kind = view.base if view.base in view.kinds else view.kinds[0]
    compute = 6 * view.n[rows] * view.d[rows]
    levels = np.unique([float(f"{flops:.2e}") for flops in compute])
    if len(levels) > FLOPS_LEVELS:
        levels = np.geomspace(compute.min() * 1.3, compute.max() / 1.3, FLOPS_LEVELS)
    norm = LogNorm(levels[0] / 2, levels[-1] * 2)
    shade = matplotlib.colormaps["viridis_r"]
    figure, (panel,) = panels(6.4, 4.0)
    n = np.geomspace(view.n[rows].min() / 4, view.n[rows].max() * 4, 400)
    top, low = view.loss[rows].max(), view.loss[rows].min()
    bottom = low - 0.12 * (top - low)
    best = []
    for level in levels:
        loss = view.predict(n, level / (6 * n), kind)
        panel.plot(n, loss, color=shade(norm(level)), lw=1.2,
                   label=f"{level:.0e} FLOPs".replace("e+", "e"))  # fmt: skip
        lowest = int(np.argmin(loss))
        if 0 < lowest < len(n) - 1 and loss[lowest] > bottom:
            best.append((n[lowest], loss[lowest]))
    panel.scatter(view.n[rows], view.loss[rows], c=compute, cmap=shade, norm=norm, s=16,
                  edgecolors="white", linewidths=0.4, zorder=3)  # fmt: skip
    if best:
        panel.plot(*zip(*best, strict=True), "k+--", ms=7, lw=0.8, label="best size")
    panel.set_ylim(bottom, top + 0.08 * (top - low))
    log_axis(panel)
    panel.set_xlabel(label(view, view.size))
    panel.set_ylabel("loss, nats")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right center")
    return figure


@styled
def residuals(view: View) -> Figure:
    """Residuals against size, and against tokens per parameter where the law has tokens."""
    second = view.d / view.n if view.data else view.loss
    columns = (
        (view.n, label(view, view.size)),
        (second, "D / N, tokens per parameter" if view.data else "loss, nats"),
    )
    relative = view.fit.minimised.residual == "log"
    figure, axes = panels(9.2, 2.9, 2, sharey=True)
    for panel, (x, name) in zip(axes, columns, strict=True):
        for k, kind in enumerate(view.kinds):
            rows = view.rows(kind)
            aside = 1 + 0.02 * (k - len(view.kinds) / 2)  # side by side, not one over the other
            y = view.residual[rows] * (100 if relative else 1)
            panel.plot(x[rows] * aside, y, "o", ms=3.5, alpha=0.8, color=view.color(kind))
        panel.axhline(0, color="black", lw=0.8)
        log_axis(panel)
        panel.set_xlabel(name)
    what = {"log": "log(L̂ / L), %", "log10": "log10(L̂ / L)", "loss": "L̂ - L, nats"}
    axes[0].set_ylabel(what[view.fit.minimised.residual])
    legend(figure, view)
    return figure


@styled
def held_out(view: View) -> Figure | None:
    """Predicted against measured loss of the runs held out, with their predictive intervals."""
    if not view.hold_outs:
        return None
    kinds = dict(zip(view.fit.table["run_id"], _kinds(view), strict=True))
    count = len(view.hold_outs)
    figure, axes = panels(2.2 + 3.5 * count, 3.5, count)
    for k, (panel, entry) in enumerate(zip(axes, view.hold_outs, strict=True)):
        for run_id, measured, predicted, low, high in entry.rows:
            color = view.color(kinds[run_id])
            panel.plot([measured, measured], [low, high], color=color, lw=1, alpha=0.6)
            panel.plot(measured, predicted, "o", ms=4, mfc="white", mew=0.9, color=color)
        ends = [row[1] for row in entry.rows]
        panel.axline((min(ends), min(ends)), slope=1, color="black", lw=0.8)
        name = label(view, entry.column).partition(",")[0]
        panel.set_title(f"({'ab'[k]}) {name} ≥ {plain(entry.value)}, {entry.rms:.2%} rms")
        panel.set_xlabel("measured loss, nats")
    axes[0].set_ylabel("predicted from smaller runs")
    legend(figure, view)
    return figure


def _kinds(view: View) -> list[tuple]:
    columns = [view.fit.table[name] for name in view.others]
    return list(zip(*columns, strict=True)) if columns else [()] * len(view.loss)


@styled
def profiles(view: View) -> Figure | None:
    """Profile likelihoods, each against its coefficient as a multiple of the fitted one."""
    found = [profile for profile in view.fit.profiles if len(set(profile.values)) > 2]
    if not found:
        return None
    columns = min(4, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(9.2, 0.4 + 1.9 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for panel, profile in zip(grid, found, strict=False):
        draw_profile(panel, profile, view.fit.level)
    for panel in grid[len(found) :]:
        panel.set_visible(False)
    for panel in grid[::columns]:
        panel.set_ylabel("excess of χ²")
    return figure


def draw_profile(panel: Axes, profile, level: float) -> None:
    """One panel of `profiles`."""
    from scipy import stats

    bound = float(stats.chi2.ppf(level, 1))
    panel.plot(profile.values, profile.excess, color="#0072B2", lw=1.3)
    panel.axhline(bound, color="#999999", lw=0.8, ls="--")
    best = profile.values[int(np.argmin(profile.excess))]
    panel.axvline(best, color="black", lw=0.8)
    panel.set_ylim(0, 4 * bound)
    inside = [v for v, x in zip(profile.values, profile.excess, strict=True) if x < 4 * bound]
    if len(inside) > 1:
        panel.set_xlim(min(inside), max(inside))
    ends = zip((profile.low, profile.high), panel.get_xlim(), strict=True)
    known = [edge if end is None else end for end, edge in ends]  # an open end is beyond the edge
    panel.axvspan(*known, color="#0072B2", alpha=0.10, lw=0)
    panel.locator_params(axis="x", nbins=4)
    panel.ticklabel_format(axis="x", scilimits=(-3, 4))
    panel.set_title(profile.name)


@styled
def starts(view: View) -> Figure | None:
    """The objective that each start ended on, as a multiple of the best; None if all agree."""
    values = np.array(view.fit.starts)
    if len(values) < 2 or not values[0] > 0 or values[-1] < 1.001 * values[0]:
        return None
    figure, (panel,) = panels(4.6, 2.8)
    panel.plot(np.arange(1, len(values) + 1), values / values[0], "o-", ms=3.5, lw=0.8,
               color="#0072B2")  # fmt: skip
    panel.set_xlabel("start, from the best")
    panel.set_ylabel("objective / best")
    if values[-1] / values[0] > 20:
        panel.set_yscale("log")
    return figure
