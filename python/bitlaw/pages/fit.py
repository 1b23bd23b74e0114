"""The page of a fit, of whatever law: made from its record alone, self-contained.

What is on it is also there in pieces, for files: `drawings` (figures) and `tables`.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bitlaw.laws import Fit
from bitlaw.laws.record import at_bound, inside
from bitlaw.pages import fit_figures, multipliers
from bitlaw.pages import page as pages
from bitlaw.pages.eff_figures import eff_curves
from bitlaw.pages.figure import plain
from bitlaw.pages.multipliers import Bits, unknown_bits
from bitlaw.pages.page import Drawn, Table
from bitlaw.pages.view import LABELS, View

NOTHING = "-"
COUNTS = {
    "n_params": "parameters that the law is about, as the table counts them; for models trained "
    "here, weights of the block matrices, which a compression acts on, without embeddings, norms "
    "and head",
    "n_nonzero": "non-zero parameters at the end of training: a sparse model's N is (1 - S) times "
    "its dense size",
    "n_average": "non-zero parameters, averaged over the training steps",
}


def page(fit: Fit | View, bits: Bits = unknown_bits, notes: Sequence[str] = ()) -> str:
    """The page as HTML.

    Args:
        fit: its table must be in it (`Fit.table`) for figures and hold-outs to be there.
        bits: bits per weight of a scheme, for the table of multipliers.
        notes: sentences to stand below that table.
    """
    view = fit if isinstance(fit, View) else View(fit)
    fit, of_schemes = view.fit, view.fit.law == "effective"
    if of_schemes:
        sections = [multipliers.opening(fit), multipliers.headline(fit, bits)]
        sections += [f'<p class="notes">{pages.escape(note)}</p>' for note in notes]
        title = "bitlaw: effective parameter multipliers"
    else:
        sections = [_opening(fit), _coefficients(fit)]
        title = f"bitlaw: the law {fit.law}"
    if fit.params:
        sections.append(pages.figures(drawings(view)))
        sections += [_hold_outs(view), multipliers.sensitivity(fit) if of_schemes else ""]
        sections.append(_coefficients(fit) if of_schemes else "")
    if of_schemes:
        sections.append(multipliers.without_flagged(fit, bits))
    return pages.document(title, [*filter(None, sections), _method(view)])


def _opening(fit: Fit) -> str:
    about = inspect.getdoc(View(fit).law.form) or f"The law {fit.law}"  # a user's may say nothing
    paragraphs = [part for part in about.split("\n\n") if part]
    first, formula = paragraphs[0], next((p for p in paragraphs if p.startswith("    ")), "")
    source = next((p for p in paragraphs if p.startswith("Source:")), "")
    lines = "<br>".join(pages.escape(line.strip()) for line in formula.splitlines())
    published = "; ".join(dict.fromkeys(r.source for r in fit.references if r.source))
    table = f"Table: {fit.source}. " if fit.source else ""
    return (
        f"<h1>{pages.escape(' '.join(first.split()).rstrip('.'))}</h1>"
        f'<p class="soft">{pages.escape(table)}{len(fit.residuals)} runs fitted of {fit.rows}. '
        f"{pages.escape(' '.join(source.split()))}</p>"
        f'<p class="law">{lines}</p>'
        + (pages.paragraphs([f"Published numbers: {published}."], "notes") if published else "")
        + f"<p>Status of the fit: <b>{pages.escape('; '.join(fit.status))}</b>.</p>"
    )


def coefficients(fit: Fit) -> Table:
    """Every coefficient: value, intervals, published value, unit, status."""
    references = [r for r in fit.references if r.params]
    law = View(fit).law
    of = {c.name: c for c in law.coefficients}
    profiles = {p.name: p for p in fit.profiles}
    rows = []
    for name, value in fit.params.items():
        status = fit.param_status.get(name, ("ok",))
        bound, coefficient = at_bound(name, status), of.get(name.partition("[")[0])
        low, high = inside(law, name, *fit.intervals.get(name, (None, None)))
        profile = profiles.get(name)
        rows.append(
            (
                name,
                bound or number(value),
                between(low, high) if name in fit.intervals else NOTHING,
                between(profile.low, profile.high) if profile else NOTHING,
                *(number(r.params.get(name)) for r in references),
                "; ".join(status),
                coefficient.about if coefficient else "",
            )
        )
    objectives = tuple(number(r.objective) for r in references)
    rows.append(("objective", number(fit.objective), NOTHING, NOTHING, *objectives, "", ""))
    header = (
        "coefficient", "fitted", f"bootstrap {fit.level:.0%}", f"profile {fit.level:.0%}",
        *(r.label for r in references), "status", "unit or meaning",
    )  # fmt: skip
    text = ("status", "unit or meaning")
    return Table("coefficients", header, tuple(rows), text, ("coefficient",))


def number(value: float | None) -> str:
    """Five digits."""
    return NOTHING if value is None else f"{value:.5g}"


def between(low: float | None, high: float | None) -> str:
    """An interval; an open end is unbounded."""
    if low is None and high is None:
        return "unbounded"
    ends = ["unbounded" if end is None else f"{end:.4g}" for end in (low, high)]
    return " to ".join(ends)


def derived(fit: Fit) -> Table | None:
    """What follows from the coefficients, beside what the sources say."""
    names = list(dict.fromkeys([*fit.derived, *(n for r in fit.references for n in r.derived)]))
    if not names:
        return None
    references = [r for r in fit.references if r.derived]
    rows = tuple(
        (name, number(fit.derived.get(name)), *(number(r.derived.get(name)) for r in references))
        for name in names
    )
    return Table("derived", ("quantity", "this fit", *(r.label for r in references)), rows,
                 ("quantity",))  # fmt: skip


def _coefficients(fit: Fit) -> str:
    if not fit.params:
        return ""
    follows = derived(fit)
    notes = [f"{r.label}: {r.note}." for r in fit.references if r.note]
    return (
        "<h2>Coefficients</h2>"
        + coefficients(fit).html
        + pages.paragraphs(notes, "notes")
        + (f"<h2>What follows</h2>{follows.html}" if follows else "")
    )


def drawings(view: View) -> list[Drawn]:
    """Every figure of the page, in its order."""
    fit = view.fit
    if not (fit.params and fit.table):
        return []
    size = LABELS.get(view.size, view.size).partition(",")[0]
    base = f" of {view.name(view.base)}" if view.others else ""
    found = multipliers.drawings(view) if fit.law == "effective" else _of_any_law(view)
    found += [
        Drawn(
            "eff-against-bits-and-sparsity",
            eff_curves(view),
            "The effective parameter multiplier against bits and sparsity, and what others "
            "published (grey): larger models, other data and recipes. An arrow: the interval is "
            "open there, or goes on beyond the panel.",
        ),
        Drawn(
            "isoflop",
            fit_figures.isoflop(view),
            f"Loss at equal training FLOPs, 6 {size} D{base}: curves of the law, points the runs "
            "in the colour of their FLOPs, crosses the best sizes.",
        ),
        Drawn(
            "residuals",
            fit_figures.residuals(view),
            f"Residuals, rms {rms(fit)}. A pattern would say that the law misses something; "
            "points of one size or ratio are set side by side.",
        ),
        Drawn(
            "hold-outs",
            fit_figures.held_out(view),
            f"The largest {'size, and the largest budget,' if view.data else 'size'} predicted by "
            f"fits to all other runs, with {fit.level:.0%} predictive intervals.",
        ),
        Drawn(
            "profiles",
            fit_figures.profiles(view),
            "Profile likelihood: each coefficient held, all others refitted. Shaded: the "
            f"{fit.level:.0%} interval; line: the fit.",
        ),
        Drawn(
            "starts",
            fit_figures.starts(view),
            f"Where {len(fit.starts)} starts of the search ended.",
            narrow=True,
        ),
    ]
    return [one for one in found if one.figure is not None]


def rms(fit: Fit) -> str:
    """The rms residual in its unit."""
    if fit.rms is None:
        return NOTHING
    units = {"log": f"{fit.rms:.2%}", "log10": f"{fit.rms:.4f} in log10", "loss": f"{fit.rms:.4f}"}
    return units[fit.minimised.residual]


def _of_any_law(view: View) -> list[Drawn]:
    return [
        Drawn(
            "loss",
            fit_figures.curves(view),
            "Loss against size: points are runs, curves the law.",
        ),
        Drawn(
            "collapse",
            fit_figures.collapse(view),
            "Loss less its data term, (a) against size, (b) against the size of the uncompressed "
            "model that the law gives the same loss: all runs on one curve.",
        ),
    ]


def hold_outs(view: View) -> Table:
    """A row for each hold-out."""
    rows = tuple(
        (
            LABELS.get(h.column, h.column),
            plain(h.value),
            str(len(h.rows)),
            f"{h.rms:.2%}",
            f"{h.bias:+.2%}",
            f"{h.covered} of {len(h.rows)}",
            h.note,
        )
        for h in view.hold_outs
    )
    inside = f"inside {view.fit.level:.0%} interval"
    header = ("held out: largest", "from", "runs", "rms error", "bias", inside, "how")
    return Table("hold-outs", header, rows, ("held out: largest", "how"))


def comparison(view: View) -> Table | None:
    """The laws that this table can be fitted with, by their error on the same hold-outs."""
    found = view.laws_compared
    names = dict.fromkeys(h.law for entries in found.values() for h in entries)
    if not names:
        return None
    error = {(axis, h.law): h for axis, entries in found.items() for h in entries}
    rows = tuple(
        (
            name,
            *(
                f"{error[axis, name].rms:.2%} ({error[axis, name].bias:+.2%})"
                if (axis, name) in error
                else NOTHING
                for axis in found
            ),
        )
        for name in names
    )
    axes = {"size": "largest size: rms (bias)", "d_tokens": "largest budget: rms (bias)"}
    return Table("laws-compared", ("law", *(axes[axis] for axis in found)), rows, (), ("law",))


def _hold_outs(view: View) -> str:
    table = hold_outs(view)
    if not table.rows:
        return ""
    others = comparison(view)
    return (
        "<h2>What it predicts that it has not seen</h2>"
        "<p>The largest runs, predicted by fits to the others. Errors are of log(predicted / "
        "measured); the interval of a run holds the uncertainty of the coefficients and the noise "
        "of one run, taken as independent from run to run.</p>"
        + table.html
        + (
            "<p>Other laws on the same table and the same hold-outs. A law without multipliers "
            "takes all runs as uncompressed; one with a multiplier per scheme takes each value of "
            "the compression as a scheme.</p>" + others.html
            if others
            else ""
        )
    )


def runs(fit: Fit) -> Table:
    """The runs as fitted, with predicted loss and residual."""
    residual = dict(fit.residuals)
    columns = dict(fit.table)
    header = (*columns, "residual")
    rows = [
        (*(str(value) for value in row), repr(residual[run_id]) if run_id in residual else NOTHING)
        for run_id, *row in zip(fit.table["run_id"], *columns.values(), strict=True)
    ]
    return Table("runs", header, tuple(rows), ("scheme", "run_id"), ())


def tables(view: View, bits: Bits = unknown_bits) -> list[Table]:
    """Every table of the page, and the runs."""
    fit = view.fit
    found = multipliers.tables(fit, bits) if fit.law == "effective" else []
    if fit.params:
        found += [coefficients(fit), derived(fit), hold_outs(view), comparison(view)]
    found += [runs(fit)] if fit.table else []
    return [one for one in found if one is not None and one.rows]


def _method(view: View) -> str:
    """The checklist: what was fitted, and how."""
    fit = view.fit
    shares = ", ".join(f"{name} {share:.0%}" for name, share in (fit.noise or {}).items())
    reasons = Counter(reason for _, reason in fit.excluded)
    excluded = "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
    size = view.size if fit.table else "n_params"
    agree = sum(value <= fit.starts[0] * (1 + 1e-6) for value in fit.starts) if fit.starts else 0
    items = {
        "N": COUNTS.get(size, size) + ". D: training tokens, or what the table says. "
        "L: validation loss, nats.",
        "Objective": f"{fit.minimised}; delta: {fit.delta_source}. At the optimum: "
        f"{number(fit.objective)}, R² {NOTHING if fit.r2 is None else f'{fit.r2:.4f}'}, "
        f"rms residual {rms(fit)}.",
        "Starts": f"{len(fit.starts)}, of which {agree} ended on the best objective."
        if fit.starts
        else "a grid over the exponents, the best points polished on the objective.",
        "Search": "variable projection where the law is linear in a coefficient, bounded "
        "Levenberg-Marquardt or L-BFGS for the rest.",
        "Intervals": f"{fit.level:.0%}; {fit.bootstrap}; the unit is (size, seed), all schemes "
        "together." + (f" Mean shares in the noise: {shares}." if shares else ""),
        "Status": "; ".join(fit.status) + ".",
        "Runs": f"{len(fit.residuals)} fitted of {fit.rows}. Excluded: {excluded or 'none'}.",
        "Design": _design(view),
        "Table": fit.source or "given by the user",
        "Published values": "from the sources named; converted and second-hand ones are marked.",
    }
    return f"<h2>What was fitted, and how</h2>{pages.definitions(items)}"


def _design(view: View) -> str:
    """The crossing of sizes and budgets, and how well it tells the coefficients apart."""
    if not view.fit.table:
        return "the record holds no table"
    parts = [f"{len(np.unique(view.n))} sizes"]
    if view.data:
        ratio = view.d / view.n
        parts.append(f"{len(np.unique(view.d))} budgets")
        parts.append(f"tokens per parameter {plain(ratio.min())} to {plain(ratio.max())}")
        logs = np.log(view.n), np.log(view.d)
        if all(np.ptp(x) for x in logs):
            parts.append(f"correlation of log N and log D {np.corrcoef(*logs)[0, 1]:.2f}")
    if view.condition is not None:
        parts.append(
            f"condition number {view.condition:.3g} (of the derivatives by the coefficients, each "
            "of unit length: 1 where they are told apart best)"
        )
    return "; ".join(parts) + "."
