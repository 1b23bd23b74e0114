"""Figures of a plan: loss against memory and against FLOPs, and the optimal sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitlaw.laws import Fit
from bitlaw.laws.optimum import exact_optimal_sparsity, optimal_sparsity
from bitlaw.laws.plan import FARTHEST, Budget, Option, Plan, Trained, optimum
from bitlaw.pages.figure import log_axis, panels, plain, styled
from bitlaw.pages.multiplier_figures import colors

POINTS = 41
REACH = 30.0  # the axes go so many times below and above the budget


@styled
def frontiers(
    options: Sequence[Option], plans: Sequence[Plan], budget: Budget, trained: Trained
) -> Figure:
    """The lowest loss of every option as memory, and as training FLOPs, is varied."""
    figure, (left, right) = panels(10.4, 4.0, 2, sharey=True)
    color = colors([option.scheme for option in options])
    memory = budget.memory or float(np.median([plan.memory for plan in plans]))
    flops = budget.flops or float(np.median([plan.flops for plan in plans]))
    low = 1.2 * budget.embedding
    values = np.geomspace(max(memory / REACH, low), max(memory * REACH, 2 * low), POINTS)
    draw_frontier(left, options, budget, trained, "memory", values, color)
    values = np.geomspace(flops / REACH, flops * REACH, POINTS)
    draw_frontier(right, options, budget, trained, "flops", values, color)
    for panel, limit in ((left, budget.memory), (right, budget.flops)):
        if limit:
            panel.axvline(limit, color="black", lw=0.9, ls=":")
    for plan in plans:
        left.plot(plan.memory, plan.loss[0], "o", ms=4, color=color[plan.scheme])
        right.plot(plan.flops, plan.loss[0], "o", ms=4, color=color[plan.scheme])
    log_axis(left, (1, 3))
    left.xaxis.set_major_formatter(lambda x, _: f"{plain(x)}B")
    right.set_xscale("log")
    left.set_xlabel("memory of the weights")
    right.set_xlabel("training FLOPs")
    left.set_ylabel("loss, nats")
    left.set_title("(a)")
    right.set_title("(b)")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7)
    return figure


def draw_frontier(
    panel: Axes,
    options: Sequence[Option],
    budget: Budget,
    trained: Trained,
    of: str,
    values: np.ndarray,
    color: dict[str, str],
) -> None:
    """One panel of `frontiers`."""
    every = []
    for option in options:
        loss, near = trace(option, budget, trained, of, values)
        every.append(loss)
        style = {"color": color[option.scheme], "lw": 1.3, "ls": "--" if option.predicted else "-"}
        panel.plot(values, np.where(near, loss, np.nan), label=option.scheme, **style)
        panel.plot(values, loss, alpha=0.25, **style)
    panel.plot(values, np.min(every, axis=0), color="#bbbbbb", lw=5, alpha=0.6, zorder=0)


def trace(
    option: Option, budget: Budget, trained: Trained, of: str, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best loss of an option as one budget varies, and whether it is near the runs."""
    option, found, near = option.fitted, [], []
    for value in values:
        n, d = optimum(option, replace(budget, **{of: float(value)}))
        found.append(float(option.loss(n, d)[0]))
        near.append(max(trained.extrapolation(float(n[0]), float(d[0])).values()) <= FARTHEST)
    return np.array(found), np.array(near)


@styled
def sparsity_contours(fit: Fit, trained: Trained, best: Plan) -> Figure:
    """Optimal sparsity over training FLOPs and non-zeros: exact ramp solid, closed form dashed."""
    p = {name: fit.params[name] for name in ("a_s", "b_s", "b_n", "a_d", "b_d")}
    smallest, largest = (6 * n * d for n, d in zip(trained.n_params, trained.d_tokens, strict=True))
    flops = np.geomspace(min(smallest, best.flops) / 3, max(largest, best.flops) * 10, 160)
    n = np.geomspace(min(trained.n_params[0], best.n_params) / 3,
                     max(trained.n_params[1], best.n_params) * 10, 160)  # fmt: skip
    c, nonzero = np.meshgrid(flops, n)
    figure, (panel,) = panels(6.4, 4.4)
    panel.set_xscale("log")  # before the contours: their labels follow the lines
    panel.set_yscale("log")
    levels = [0.01, 0.25, 0.5, 0.75, 0.875, 0.95]
    exact = exact_optimal_sparsity(nonzero, c, **p)
    filled = panel.contourf(c, nonzero, exact, np.linspace(0, 1, 21), cmap="Blues", alpha=0.75)
    lines = panel.contour(c, nonzero, exact, levels, colors="black", linewidths=0.9)
    panel.clabel(lines, fmt=lambda s: "0" if s < 0.1 else f"{s:g}", fontsize=7, inline_spacing=2)
    panel.contour(c, nonzero, optimal_sparsity(nonzero, c, **p), levels, colors="#D55E00",
                  linewidths=0.9, linestyles="--")  # fmt: skip
    corners = np.array([(n, 6 * n * d) for n in trained.n_params for d in trained.d_tokens])
    order = [0, 1, 3, 2, 0]
    panel.plot(corners[order, 1], corners[order, 0], color="#555555", lw=0.9)
    panel.plot(best.flops, best.n_params, "*", color="#CC79A7", ms=11, mec="white")
    panel.yaxis.set_major_formatter(lambda x, _: plain(x))
    panel.set_xlabel("training FLOPs")
    panel.set_ylabel("N, non-zero parameters")
    panel.grid(False)
    figure.colorbar(filled, ax=panel, label="optimal sparsity", ticks=[0, 0.25, 0.5, 0.75, 1])
    return figure
