"""The table and the page of the study of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitlaw.pages import page as pages
from bitlaw.pages.figure import COLORS, panels, styled
from bitlaw.studies.packing_page import aligned
from bitlaw.studies.routed import X_MAX, X_START, RoutedFit

HEADER = (
    "router",
    "N",
    "experts",
    "loss",
    "law",
    "N effective",
    "N eff / N",
    "interval",
    "N total",
)
COEFFICIENTS = ("router", "a", "b", "c", "d", "rms, log10", "runs")
PUBLISHED = ("S-BASE, published", "-0.082", "-0.108", "0.009", "1.104", "-", "-")
NOTHING = "-"
Rows = Sequence[dict[str, Any]]


def experts_of(row: dict[str, Any]) -> int:
    """The experts of a row; 1 for dense."""
    return int(row["experts"].partition("/")[0] or 1)


def router_of(experts: str) -> str:
    """ "8/top1/capacity1.25" without its number of experts; "dense" without any."""
    return experts.partition("/")[2] or "dense"


def _done(rows: Rows) -> list[dict[str, Any]]:
    rows = [row for row in rows if row["status"] == "ok"]
    return sorted(
        rows, key=lambda r: (r["n_dense"], router_of(r["experts"]), experts_of(r), r["seed"])
    )


def table(rows: Rows, fits: Sequence[RoutedFit]) -> list[tuple[str, ...]]:
    """One row per run under HEADER, by size, router and number of experts."""
    by_router = {fit.router: fit for fit in fits}
    lines = []
    for row in _done(rows):
        router, n, x = router_of(row["experts"]), row["n_dense"], experts_of(row)
        fit = by_router.get(router)
        line = [router, f"{n:,}", f"{x}", f"{row['loss']:.4f}"]
        if fit is None:
            line += [NOTHING, f"{n:,}", "1.00", NOTHING]
        else:
            effective, ends = fit.effective(n, x), fit.interval(n, x)
            line += [f"{float(fit.loss(n, x)):.4f}", f"{effective:,.0f}", f"{effective / n:.2f}"]
            line += [NOTHING if ends is None else f"{ends[0] / n:.2f} to {ends[1] / n:.2f}"]
        lines.append((*line, f"{row['n_params']:,}"))
    return lines


def coefficients(fits: Sequence[RoutedFit]) -> list[tuple[str, ...]]:
    """One row per fit under COEFFICIENTS, the published S-BASE last."""

    def with_error(fit: RoutedFit, k: int, value: float) -> str:
        return f"{value:.3f}" if fit.errors is None else f"{value:.3f} ± {fit.errors[k]:.3f}"

    found = [
        (
            fit.router,
            *(with_error(fit, k, v) for k, v in enumerate((fit.a, fit.b, fit.c, fit.d))),
            f"{fit.rms:.4f}",
            f"{fit.runs}",
        )
        for fit in fits
    ]
    return [*found, PUBLISHED]


def text(rows: Rows, fits: Sequence[RoutedFit]) -> str:
    """The tables for a terminal."""
    parts = [
        aligned(HEADER, table(rows, fits), 1),
        "",
        aligned(COEFFICIENTS, coefficients(fits), 1),
        "",
    ]
    return "\n".join([*parts, *notes(rows)])


def notes(rows: Rows) -> list[str]:
    """What must be said with the tables."""
    lines = [
        "N counts block weights, those of the dense model; N effective is the N of the dense model "
        "with the loss that the law gives (N, experts). Intervals: 90 %, parametric, from the "
        "residuals of the fit.",
        f"X_start = {X_START} and X_max = {X_MAX} are held at the values published for S-BASE: up "
        f"to {max(map(experts_of, rows))} experts say little about either.",
        "Published coefficients (arXiv:2202.01169, as summarised by a third party): models of 15M "
        "to 1.3B parameters, every other block routed; not comparable in d, which holds the units.",
    ]
    lines += _lowest_said(rows)
    if lost := [row for row in rows if row["status"] != "ok"]:
        lines.append(f"{len(lost)} runs diverged and are left out.")
    return lines


def _lowest_said(rows: Rows) -> list[str]:
    """Where the lowest loss lies inside the range of experts: a sentence, and what limits it."""
    orders = lowest(rows)
    if all(order[0] == max(order) for of in orders.values() for order in of.values()):
        return []

    def listed(value: Callable[[list[int]], object], routers: Iterable[str]) -> str:
        by_n = {
            r: (f"{value(order)} at N = {n:,}" for n, order in orders[r].items()) for r in routers
        }
        return "; ".join(f"{router}: {', '.join(of)}" for router, of in by_n.items())

    lines = [
        "Experts of the lowest loss among the routed runs of each N (dense is no candidate): "
        f"{listed(lambda order: order[0], orders)}. The law is monotone in their number, so beyond "
        "these it misses the runs."
    ]
    if uneven := [r for r, of in orders.items() if len({frozenset(x) for x in of.values()}) > 1]:
        found = listed(lambda order: " or ".join(map(str, sorted(order))), uneven)
        lines.append(f"The candidates differ from N to N: {found}.")
    return lines


def lowest(rows: Rows) -> dict[str, dict[int, list[int]]]:
    """Router -> N -> the numbers of experts of its routed runs, that of the lowest loss first."""
    found: dict[str, dict[int, list[int]]] = {}
    for row in sorted(_done(rows), key=lambda row: (row["n_dense"], row["loss"])):
        if (x := experts_of(row)) > 1:
            of = found.setdefault(router_of(row["experts"]), {}).setdefault(row["n_dense"], [])
            of += [] if x in of else [x]
    return dict(sorted(found.items()))


@styled
def losses(rows: Rows, fits: Sequence[RoutedFit]) -> Figure:
    """Loss against the number of experts, one panel per router, one line of the law per size."""
    done = _done(rows)
    sizes = sorted({row["n_dense"] for row in done})
    figure, panels_ = panels(3.3 * len(fits), 3.2, len(fits), sharey=True)
    for axes, fit in zip(panels_, fits, strict=True):
        for k, n in enumerate(sizes):
            points = [
                (experts_of(row), row["loss"])
                for row in done
                if row["n_dense"] == n and router_of(row["experts"]) in ("dense", fit.router)
            ]
            axes.plot(*zip(*points, strict=True), "o", ms=4.5, mfc="none", color=COLORS[k])
            x = np.geomspace(1, max(x for x, _ in points), 50)
            axes.plot(x, fit.loss(n, x), color=COLORS[k], lw=1.2, label=f"N = {n:,}")
        axes.set_title(fit.router)
        _experts_axis(axes, done)
    panels_[0].set_ylabel("loss, nats per byte")
    panels_[-1].legend()
    return figure


@styled
def multipliers(rows: Rows, fits: Sequence[RoutedFit]) -> Figure:
    """N effective / N against the number of experts, one panel per size, one line per router."""
    done = _done(rows)
    sizes = sorted({row["n_dense"] for row in done})
    x = np.geomspace(1, max(map(experts_of, done)), 50)
    figure, panels_ = panels(3.3 * len(sizes), 3.0, len(sizes), sharey=True)
    for axes, n in zip(panels_, sizes, strict=True):
        for k, fit in enumerate(fits):
            axes.plot(x, [fit.effective(n, at) / n for at in x], color=COLORS[k], label=fit.router)
            if len(fit.draws):
                low, high = zip(*(fit.interval(n, at) for at in x), strict=True)
                ends = (np.array(low) / n, np.array(high) / n)
                axes.fill_between(x, *ends, color=COLORS[k], alpha=0.12, lw=0)
        axes.set_title(f"N = {n:,}")
        _experts_axis(axes, done)
    top = max(fit.effective(n, x[-1]) / n for fit in fits for n in sizes)
    panels_[0].set_ylim(0, 1.6 * max(top, 1))  # a band may leave the panel
    panels_[0].set_ylabel("N effective / N")
    panels_[0].legend()
    return figure


def _experts_axis(axes: Axes, done: Rows) -> None:
    """A logarithmic axis of experts, with a tick at each number that was trained."""
    trained = sorted({experts_of(row) for row in done})
    axes.set_xscale("log")
    axes.set_xticks(trained, [str(x) for x in trained])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("experts")


def page(rows: Rows, fits: Sequence[RoutedFit]) -> str:
    """The report as one self-contained HTML page."""
    done = _done(rows)
    best = max(fits, key=lambda fit: max(fit.effective(r["n_dense"], experts_of(r)) for r in done))
    most, n = max(map(experts_of, done)), max(row["n_dense"] for row in done)
    ends = best.interval(n, most)
    between = " (too few runs for an interval)"
    if ends:
        between = f" (90 % interval {ends[0] / n:.2f} to {ends[1] / n:.2f})"
    sections = [
        "<h1>What experts are worth in parameters</h1>",
        f"<p>{len(done)} small language models, trained on the Python sources of the standard "
        f"library with {done[0]['d_tokens']:,} bytes each: dense, and with every MLP replaced by "
        f"experts of which each token meets one. With {most} experts, {escape(best.router)} does "
        f"at N = {n:,} what a dense model of <b>{best.effective(n, most) / n:.2f} N</b>{between} "
        "would, by the law fitted here.</p>",
        '<p class="law">log<sub>10</sub> L = a log<sub>10</sub> N + b log<sub>10</sub> X̂ + '
        "c log<sub>10</sub> N log<sub>10</sub> X̂ + d</p>",
        pages.figure(
            1,
            losses(rows, fits),
            "Loss against the number of experts. Circles are runs, one expert is the dense model, "
            "lines are the law fitted to the panel's router.",
        ),
        pages.figure(
            2,
            multipliers(rows, fits),
            "Effective parameters by the law, as a multiple of N. Bands are 90 % intervals.",
        ),
        "<h2>Coefficients</h2>",
        pages.table(COEFFICIENTS, coefficients(fits), code=("router",)),
        "<h2>Every run</h2>",
        pages.table(HEADER, table(rows, fits), code=("router",)),
        "<h2>Notes</h2>",
        *(f'<p class="notes">{escape(line)}</p>' for line in notes(rows)),
        '<p class="notes">A router says how tokens find experts: top1 the largest logit with a '
        "load-balance loss, sbase the best expert of a Sinkhorn-balanced plan (in training; the "
        "largest logit when measured), hash the byte's value modulo the number of experts. "
        "capacity1.25 gives the experts together a quarter more slots than there are tokens in "
        "training, and twice as many when measured; a token that finds its expert full passes by "
        "it. One seed, data order paired over all "
        "models of one size.</p>",
    ]
    return pages.document("bitlaw: what experts are worth in parameters", sections)
