"""Figures of the effective law: one colour per scheme, the same in every figure; dense is black."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bitlaw import laws
from bitlaw.laws.diagnose import FLAT
from bitlaw.laws.runs import ordered
from bitlaw.laws.solve import LARGEST_EFF
from bitlaw.pages.figure import bar, color, log_axis, panels, reach, styled
from bitlaw.pages.view import View

BUDGET_MARKERS = "osD^vPX*"
MOST = LARGEST_EFF * (1 - 1e-9)  # effs were exponentials
SOURCE_MARKERS = "DsX^vP*"


def colors(schemes: Sequence[str]) -> dict[str, str]:
    """The colour of each scheme, the same in whatever order they come."""
    others = [name for name in ordered(schemes) if name != "dense"]
    return {"dense": "black"} | {name: color(k) for k, name in enumerate(others)}


def identified(fit: laws.Fit) -> list[laws.SchemeFit]:
    """The schemes with an eff that is no bound, dense first, then from the best to the worst."""
    return [entry for entry in fit.schemes if entry.eff is not None and not entry.bound]


@styled
def collapse(view: View) -> Figure:
    """Loss less its data term: against N, one line per scheme; against N * eff(C), one for all."""
    figure, (left, right) = panels(9.6, 3.7, 2, sharey=True)
    draw_collapse(left, view, collapsed=False)
    draw_collapse(right, view, collapsed=True)
    left.set_title("(a) as trained")
    right.set_title("(b) collapsed")
    right.set_ylabel("")
    figure.legend(handles=_collapse_legend(view), loc="outside right center")
    return figure


def draw_collapse(axes: Axes, view: View, collapsed: bool) -> None:
    """One panel of `collapse`."""
    fit, scheme = view.fit, view.table["scheme"]
    color = colors([entry.scheme for entry in fit.schemes])
    p = fit.params
    height = view.loss - p["c"] * view.d ** -p["d"]
    budgets = np.unique(view.d)
    for entry in identified(fit):
        factor = entry.eff if collapsed else 1.0
        for k, budget in enumerate(budgets):
            rows = (scheme == entry.scheme) & (view.d == budget)
            axes.plot(
                view.n[rows] * factor, height[rows], ls="", ms=4.5, mew=0.8,
                marker=BUDGET_MARKERS[k % len(BUDGET_MARKERS)], mfc="none",
                color=color[entry.scheme],
            )  # fmt: skip
        if not collapsed:
            n = np.geomspace(view.n.min(), view.n.max(), 60)
            law = p["a"] / (n * entry.eff) ** p["b"] + p["e"]
            axes.plot(n, law, color=color[entry.scheme], lw=1, alpha=0.8)
    if collapsed:
        effs = [entry.eff for entry in identified(fit)]
        n = np.geomspace(view.n.min() * min(effs), view.n.max() * max(effs), 100)
        axes.plot(n, p["a"] / n ** p["b"] + p["e"], color="black", lw=1.2, zorder=0)
    log_axis(axes)
    axes.set_xlabel("N · eff(C)" if collapsed else "N, weights of the block matrices")
    axes.set_ylabel("loss - c / D$^d$  (nats per token)")


def _collapse_legend(view: View) -> list[Line2D]:
    fit = view.fit
    color = colors([entry.scheme for entry in fit.schemes])
    handles = [
        Line2D([], [], color=color[entry.scheme], lw=2, label=entry.scheme)
        for entry in identified(fit)
    ]
    return handles + [
        Line2D([], [], ls="", marker=BUDGET_MARKERS[k % len(BUDGET_MARKERS)], mfc="none",
               color="#555555", ms=4.5, label=f"D = {_tokens(budget)}")
        for k, budget in enumerate(np.unique(view.d))
    ]  # fmt: skip


def _tokens(count: float) -> str:
    """A token count in words, in powers of two where it is one."""
    power = np.log2(count)
    return f"$2^{{{power:.0f}}}$" if power == int(power) else f"{count:.3g}"


@styled
def effs(fit: laws.Fit) -> Figure:
    """eff with its interval beside published values."""
    rows = len(identified(fit))
    figure, (axes,) = panels(8.6, 0.9 + 0.42 * rows)
    draw_effs(axes, fit)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7)
    return figure


def draw_effs(axes: Axes, fit: laws.Fit) -> None:
    """The panel of `effs`: one line per scheme, the best on top."""
    entries = identified(fit)[1:]
    color = colors([entry.scheme for entry in fit.schemes])
    sources = laws.published.sources(entry.scheme for entry in fit.schemes)
    edges = 0.0, reach(entries)
    for row, entry in enumerate(entries):
        y = -row
        bar(axes, y, entry.ends, edges, color=color[entry.scheme], lw=2.2)
        axes.plot(entry.eff, y, "o", color=color[entry.scheme], ms=6)
        for published in laws.published.effective(entry.scheme):
            k = sources.index(published.source)
            marker = SOURCE_MARKERS[k % len(SOURCE_MARKERS)]
            axes.plot(published.value, y - 0.22, marker, mfc="none", color="#666666", ms=4.5)
    for k, source in enumerate(sources):
        marker = SOURCE_MARKERS[k % len(SOURCE_MARKERS)]
        label = f"[{k + 1}] {source.split(' (')[0]}"
        axes.plot([], [], marker, mfc="none", color="#666666", ms=4.5, label=label)
    axes.plot([], [], "o-", color="#333333", lw=2.2, label=f"measured, {fit.level:.0%} interval")
    axes.axvline(1, color="black", lw=0.8)
    axes.set_yticks([-row for row in range(len(entries))], [entry.scheme for entry in entries])
    axes.set_ylim(-len(entries) + 0.4, 0.5)
    axes.set_xlim(*edges)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("effective parameter multiplier, eff(C)")


@styled
def against_b(fit: laws.Fit) -> Figure:
    """eff with b held at each value; solid where that fits as well as the best b."""
    figure, (axes,) = panels(4.6, 3.6)
    color = colors([entry.scheme for entry in fit.schemes])
    b = np.array([row.b for row in fit.eff_against_b])
    as_good = np.array([row.excess < FLAT for row in fit.eff_against_b])
    entries = identified(fit)[1:]
    top = reach(entries)
    for entry in entries:
        eff = np.array([row.effs[entry.scheme] for row in fit.eff_against_b])
        beyond, below = eff >= MOST, eff * MOST <= 1  # bounds of the search, no numbers
        known = np.where(beyond | below, np.nan, eff)
        style = {"color": color[entry.scheme], "clip_on": False}
        axes.plot(b, known, color=color[entry.scheme], lw=1, alpha=0.35)
        axes.plot(b[as_good], known[as_good], color=color[entry.scheme], lw=2)
        axes.plot(b[beyond], np.full(beyond.sum(), top), "^", ms=4, **style)
        axes.plot(b[below], np.zeros(below.sum()), "v", ms=4, **style)
        axes.plot(fit.params["b"], entry.eff, "o", color=color[entry.scheme], ms=5)
    log_axis(axes)
    axes.set_ylim(0, top)
    axes.set_xlabel("b, exponent of N (dot: fitted)")
    axes.set_ylabel("eff(C)")
    return figure


@styled
def headline(view: View) -> Figure:
    """The collapse and the effs side by side, for a README."""
    figure, (left, right) = panels(11, 4.4, 2)
    draw_collapse(left, view, collapsed=True)
    left.set_title("All compressions on one curve")
    draw_effs(right, view.fit)
    right.set_title("Effective parameter multipliers")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
