"""The figures of a report, drawn from a fit and its runs with matplotlib.

Each function returns a Figure; `report` embeds them. Colours are one per scheme, the same in every
figure; dense is black.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bitlaw import laws
from bitlaw.laws.diagnose import FLAT
from bitlaw.laws.runs import ordered
from bitlaw.pages.figure import COLORS, log_axis, panels, styled

BUDGET_MARKERS = "osD^vPX*"
SOURCE_MARKERS = "DsX^vP*"


def colors(schemes: Sequence[str]) -> dict[str, str]:
    """The colour of each scheme, the same in whatever order they come."""
    others = [name for name in ordered(schemes) if name != "dense"]
    return {"dense": "black"} | {name: COLORS[k % len(COLORS)] for k, name in enumerate(others)}


def identified(fit: laws.Fit) -> list[laws.SchemeFit]:
    """The schemes with an eff, dense first, then from the best to the worst."""
    return [entry for entry in fit.schemes if entry.eff is not None]


def fitted_runs(fit: laws.Fit, runs: laws.Runs) -> tuple[laws.Runs, np.ndarray]:
    """The runs that entered the fit, and their log(L_hat / L)."""
    residual = dict(fit.residuals)
    used = runs[np.array([run_id in residual for run_id in runs.run_id], dtype=bool)]
    return used, np.array([residual[run_id] for run_id in used.run_id])


@styled
def collapse(fit: laws.Fit, runs: laws.Runs) -> Figure:
    """Loss less its data term: against N, one line per scheme; against N * eff(C), one for all."""
    figure, (left, right) = panels(9.6, 3.7, 2, sharey=True)
    draw_collapse(left, fit, runs, collapsed=False)
    draw_collapse(right, fit, runs, collapsed=True)
    left.set_title("(a) as trained")
    right.set_title("(b) collapsed")
    right.set_ylabel("")
    figure.legend(handles=_collapse_legend(fit, runs), loc="outside right center")
    return figure


def draw_collapse(axes: Axes, fit: laws.Fit, runs: laws.Runs, collapsed: bool) -> None:
    """One panel of `collapse`."""
    used, _ = fitted_runs(fit, runs)
    color = colors([entry.scheme for entry in fit.schemes])
    p = fit.params
    height = used.loss - p["c"] * used.d_tokens ** -p["d"]
    budgets = np.unique(used.d_tokens)
    for entry in identified(fit):
        factor = entry.eff if collapsed else 1.0
        for k, budget in enumerate(budgets):
            rows = (used.scheme == entry.scheme) & (used.d_tokens == budget)
            axes.plot(
                used.n_params[rows] * factor, height[rows], ls="", ms=4.5, mew=0.8,
                marker=BUDGET_MARKERS[k % len(BUDGET_MARKERS)], mfc="none",
                color=color[entry.scheme],
            )  # fmt: skip
        if not collapsed:
            n = np.geomspace(used.n_params.min(), used.n_params.max(), 60)
            law = p["a"] / (n * entry.eff) ** p["b"] + p["e"]
            axes.plot(n, law, color=color[entry.scheme], lw=1, alpha=0.8)
    if collapsed:
        effs = [entry.eff for entry in identified(fit)]
        n = np.geomspace(used.n_params.min() * min(effs), used.n_params.max() * max(effs), 100)
        axes.plot(n, p["a"] / n ** p["b"] + p["e"], color="black", lw=1.2, zorder=0)
    log_axis(axes)
    axes.set_xlabel("N · eff(C)" if collapsed else "N, weights of the block matrices")
    axes.set_ylabel("loss - c / D$^d$  (nats per token)")


def _collapse_legend(fit: laws.Fit, runs: laws.Runs) -> list[Line2D]:
    used, _ = fitted_runs(fit, runs)
    color = colors([entry.scheme for entry in fit.schemes])
    handles = [
        Line2D([], [], color=color[entry.scheme], lw=2, label=entry.scheme)
        for entry in identified(fit)
    ]
    return handles + [
        Line2D([], [], ls="", marker=BUDGET_MARKERS[k % len(BUDGET_MARKERS)], mfc="none",
               color="#555555", ms=4.5, label=f"D = {_tokens(budget)}")
        for k, budget in enumerate(np.unique(used.d_tokens))
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
    for row, entry in enumerate(entries):
        y = -row
        axes.plot([entry.low, entry.high], [y, y], color=color[entry.scheme], lw=2.2)
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
    reach = [entry.high for entry in entries]
    axes.set_xlim(0, min(2.0, 1.05 * max([1.0, *reach])))  # an interval may end anywhere
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("effective parameter multiplier, eff(C)")


@styled
def residuals(fit: laws.Fit, runs: laws.Runs) -> Figure:
    """log(L_hat / L) in percent against size and against tokens per parameter."""
    used, residual = fitted_runs(fit, runs)
    figure, (left, right) = panels(8.6, 3.0, 2, sharey=True)
    color = colors([entry.scheme for entry in fit.schemes])
    entries = identified(fit)
    for axes, x, label in (
        (left, used.n_params, "N"),
        (right, used.d_tokens / used.n_params, "D / N, tokens per parameter"),
    ):
        for k, entry in enumerate(entries):
            rows = used.scheme == entry.scheme
            aside = 1.0 + 0.03 * (k - len(entries) / 2)  # side by side, not on top of each other
            axes.plot(x[rows] * aside, 100 * residual[rows], "o", ms=3.5, alpha=0.8,
                      color=color[entry.scheme])  # fmt: skip
        axes.axhline(0, color="black", lw=0.8)
        log_axis(axes)
        axes.set_xlabel(label)
    left.set_ylabel("log(L̂ / L), %")
    return figure


@styled
def held_out(fit: laws.Fit, runs: laws.Runs) -> Figure:
    """Predicted against measured loss at the largest size, which the fit had not seen."""
    figure, (axes,) = panels(4.6, 3.6)
    color = colors([entry.scheme for entry in fit.schemes])
    scheme = dict(zip(runs.run_id, runs.scheme, strict=True))
    for run_id, measured, predicted in fit.held_out.rows:
        axes.plot(measured, predicted, "o", ms=4.5, mfc="none", color=color[scheme[run_id]])
    ends = [value for row in fit.held_out.rows for value in row[1:]]
    axes.axline((min(ends), min(ends)), slope=1, color="black", lw=0.8)
    axes.set_xlabel(f"measured loss at N = {fit.held_out.n_params:,.0f}")
    axes.set_ylabel("predicted from smaller sizes")
    return figure


@styled
def against_b(fit: laws.Fit) -> Figure:
    """eff with b held at each value; solid where that fits as well as the best b."""
    figure, (axes,) = panels(4.6, 3.6)
    color = colors([entry.scheme for entry in fit.schemes])
    b = np.array([row.b for row in fit.eff_against_b])
    as_good = np.array([row.excess < FLAT for row in fit.eff_against_b])
    top = 1.0
    for entry in identified(fit)[1:]:
        eff = np.array([row.effs[entry.scheme] for row in fit.eff_against_b])
        top = max(top, *eff)
        axes.plot(b, eff, color=color[entry.scheme], lw=1, alpha=0.35)
        axes.plot(b[as_good], eff[as_good], color=color[entry.scheme], lw=2)
        axes.plot(fit.params["b"], entry.eff, "o", color=color[entry.scheme], ms=5)
    log_axis(axes)
    axes.set_ylim(0, 1.05 * top)
    axes.set_xlabel("b, exponent of N (dot: fitted)")
    axes.set_ylabel("eff(C)")
    return figure


@styled
def headline(fit: laws.Fit, runs: laws.Runs) -> Figure:
    """The collapse and the effs side by side, for a README."""
    figure, (left, right) = panels(11, 4.4, 2)
    draw_collapse(left, fit, runs, collapsed=True)
    left.set_title("All compressions on one curve")
    draw_effs(right, fit)
    right.set_title("Effective parameter multipliers")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
