"""The page of a plan: the best schemes under a budget, their frontiers, the optimal sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitlaw.laws import Fit
from bitlaw.laws.optimum import exact_optimal_sparsity, optimal_sparsity
from bitlaw.laws.plan import Budget, Option, Plan, Trained
from bitlaw.pages import page as pages
from bitlaw.pages import plan_figures
from bitlaw.pages.figure import plain
from bitlaw.pages.page import Drawn, Table

NOTHING = "-"
NAMES = {
    "flops": "training FLOPs",
    "memory": "memory",
    "inference": "FLOPs per generated token",
    "tokens": "training tokens",
}


@dataclass(frozen=True)
class Made:
    """A plan with all that it was made from.

    plans    one per option, the lowest loss first
    left_out schemes that could not be planned with, and why
    zeros    as in `laws.plan.cost_of`
    """

    fit: Fit
    budget: Budget
    options: tuple[Option, ...]
    plans: tuple[Plan, ...]
    trained: Trained
    left_out: tuple[tuple[str, str], ...] = ()
    zeros: str = "skipped"


def amount(value: float) -> str:
    """FLOPs: 1.2e+21 as 1.2e21."""
    return f"{value:.3g}".replace("e+", "e")


def size(count: float) -> str:
    """Bytes: 8e9 as 8 GB."""
    return f"{plain(count)}B" if count >= 1e3 else f"{count:.3g} B"


def spread(low: float | None, high: float | None, form) -> str:
    return NOTHING if low is None or high is None else f"{form(low)} to {form(high)}"


def answers(made: Made) -> Table:
    """A row per scheme, the best first."""
    loss = "{:.4f}".format
    rows = []
    for plan in made.plans:
        value, low, high = plan.loss
        behind, less, more = plan.behind
        far = max(plan.extrapolation.values())
        rows.append(
            (
                plan.scheme,
                plain(plan.n_params),
                spread(*(plan.n_interval or (None, None)), plain),
                plain(plan.d_tokens),
                plain(plan.d_tokens / plan.n_params),
                loss(value),
                spread(low, high, loss),
                "best" if plan is made.plans[0] else f"+{behind:.4f}",
                spread(less, more, "{:+.4f}".format),
                needs(plan, plan is made.plans[0]),
                amount(plan.flops),
                size(plan.memory),
                f"{far:.3g}x",
                "predicted" if plan.predicted else "trained",
            )
        )
    header = (
        "scheme", "N", "N interval", "D", "D / N", "loss", "interval", "behind", "behind interval",
        "to match", "FLOPs", "memory", "extrapolation", "multiplier",
    )  # fmt: skip
    return Table("plans", header, tuple(rows), ("multiplier",))


def narrowed(table: Table) -> Table:
    """The table without the columns that say the same of every scheme: what a budget fixes."""

    def varies(k: int) -> bool:
        if table.header[k] == "N interval":
            return any(len(set(row[k].split(" to "))) > 1 for row in table.rows)
        return table.header[k] not in ("FLOPs", "memory") or len({r[k] for r in table.rows}) > 1

    kept = [k for k in range(len(table.header)) if varies(k)]
    rows = tuple(tuple(row[k] for k in kept) for row in table.rows)
    return replace(table, header=tuple(table.header[k] for k in kept), rows=rows)


def needs(plan: Plan, best: bool) -> str:
    """What a runner-up would need for the best one's loss."""
    if best:
        return NOTHING
    short = {"flops": "FLOPs", "inference": "FLOPs/token"}
    name = short.get(plan.matched_by, plan.matched_by)
    return f"{name} not enough" if plan.to_match is None else f"{plan.to_match:.3g}x {name}"


def budget_text(budget: Budget) -> str:
    """The budgets in words."""
    parts = []
    if budget.flops is not None:
        parts.append(f"{amount(budget.flops)} training FLOPs")
    if budget.memory is not None:
        inside = f", {size(budget.embedding)} of it embeddings" if budget.embedding else ""
        parts.append(f"{size(budget.memory)} for the weights{inside}")
    if budget.inference is not None:
        parts.append(f"{amount(budget.inference)} FLOPs per generated token")
    if budget.tokens is not None:
        parts.append(f"{plain(budget.tokens)} training tokens")
    return "; ".join(parts)


def assumptions(made: Made) -> list[str]:
    """What the answer hangs on, a sentence each."""
    fit, draws = made.fit, max((option.rows for option in made.options), default=1) - 1
    counted = "non-zero" if fit.law == "sparse" else "total"
    skipped = made.zeros == "skipped"
    best = made.plans[0]
    far = ", ".join(f"{name} {factor:.3g}x" for name, factor in best.extrapolation.items())
    tied = [plan.scheme for plan in made.plans[1:] if not plan.separated]
    sentences = [
        f"extrapolation of the best beyond the runs of the fit: {far}",
        f"intervals: {fit.level:.0%}, percentiles of {draws} joint resamples of the fit "
        f"({fit.bootstrap}); of the loss at the stated N and D, not of one run's noise"
        if draws
        else "intervals: none, the record holds no resamples",
    ]
    if draws and tied:
        sentences.append(f"not told from the best by the resamples: {', '.join(tied)}")
    sentences += [
        f"N counts {counted} weights; training costs 6 N D FLOPs"
        + (
            ", a pruned model's of the non-zeros along the cubic ramp from 25% to 75% of training"
            if skipped
            else ", zeros included"
        )
        + f"; a generated token 2 FLOPs per {'non-zero ' if skipped else ''}weight",
        f"D is taken for tokens{f'; runs of {fit.source}' if fit.source else ''}",
        "memory is bits per weight times all weights (a mask counts), no activations, no cache; "
        "quantization saves no FLOPs",
        f"taken for true out there too: the law (status of the fit: {'; '.join(fit.status)})",
    ]
    sentences += [
        f"predicted, never trained: {p.scheme} ({p.predicted})" for p in made.plans if p.predicted
    ]
    sentences += [f"left out: {scheme} ({why})" for scheme, why in made.left_out]
    return sentences


def sparsity(made: Made) -> Table | None:
    """The optimal sparsity at each plan's non-zeros and FLOPs: closed form and exact ramp."""
    if made.fit.law != "sparse":
        return None
    p = {name: made.fit.params[name] for name in ("a_s", "b_s", "b_n", "a_d", "b_d")}
    rows = []
    for plan in made.plans:
        closed, exact = (
            float(function(plan.n_params, plan.flops, **p))
            for function in (optimal_sparsity, exact_optimal_sparsity)
        )
        row = (plan.scheme, plain(plan.n_params), amount(plan.flops), f"{closed:.3f}")
        rows.append((*row, f"{exact:.3f}"))
    header = ("scheme", "N, non-zero", "FLOPs", "S_opt, c_mul = 1 / (1 - S)", "S_opt, exact ramp")
    return Table("optimal-sparsity", header, tuple(rows))


def drawings(made: Made) -> list[Drawn]:
    """The frontiers, and the optimal sparsity where the law knows it."""
    budget = made.budget
    fixed = [f"at most {plain(budget.tokens)} tokens"] if budget.tokens else []
    at = amount(budget.flops) if budget.flops else "unlimited"
    other = f"within {size(budget.memory)}" if budget.memory else "at any memory"
    drawn = [
        Drawn(
            "frontiers",
            plan_figures.frontiers(made.options, made.plans, budget, made.trained),
            "The lowest loss of every scheme, (a) against memory, at "
            f"{', '.join([at + ' training FLOPs', *fixed])}, (b) against training FLOPs, "
            f"{', '.join([other, *fixed])}. Dashed: predicted, never trained. Faint: more than 100 "
            "times outside the runs of the fit. Grey: the lowest of all. Dotted: the budget.",
        )
    ]
    if made.fit.law == "sparse":
        best = made.plans[0]
        drawn.append(
            Drawn(
                "optimal-sparsity",
                plan_figures.sparsity_contours(made.fit, made.trained, best),
                "Optimal sparsity at fixed non-zeros and training FLOPs: solid with the cost of "
                "the pruning ramp, dashed in closed form, which takes pruned training to cost "
                "1 / (1 - S). Box: the runs; star: the plan.",
            )
        )
    return drawn


def tables(made: Made) -> Sequence[Table]:
    """Every table of the page."""
    return [table for table in (answers(made), sparsity(made)) if table]


def page(made: Made) -> str:
    """The page as HTML, self-contained."""
    best = made.plans[0]
    kind = "predicted, never trained" if best.predicted else "trained in the fit's table"
    headline = (
        f"Train {best.scheme}: N = {plain(best.n_params)}, D = {plain(best.d_tokens)}, "
        f"expected loss {best.loss[0]:.4f}"
    )
    optimal = sparsity(made)
    sections = [
        f"<h1>{pages.escape(headline)}</h1>"
        + pages.paragraphs([f"Budget: {budget_text(made.budget)}. The scheme is {kind}."], "soft"),
        "<h2>Every scheme at its best</h2>" + narrowed(answers(made)).html,
        pages.paragraphs((s[0].upper() + s[1:] + "." for s in assumptions(made)), "notes"),
        pages.figures(drawings(made)),
        f"<h2>Optimal sparsity</h2>{optimal.html}" if optimal else "",
    ]
    return pages.document("bitlaw: plan", filter(None, sections))
