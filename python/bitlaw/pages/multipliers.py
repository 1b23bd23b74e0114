"""The page and the terminal's table of the effective law: what each compression leaves of N."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from bitlaw import laws
from bitlaw.laws import forms
from bitlaw.laws.capacity import compositions
from bitlaw.laws.diagnose import HELD_EXPONENTS
from bitlaw.laws.options import measured
from bitlaw.laws.plan import interval
from bitlaw.laws.published import Published
from bitlaw.laws.record import at_bound, inside
from bitlaw.laws.solve import LARGEST_EFF
from bitlaw.pages import multiplier_figures as figures
from bitlaw.pages.page import Drawn, Table
from bitlaw.pages.view import View

Bits = Callable[[str], float | None]  # stored per weight by a scheme; None where it is not known

HEADER = (
    "scheme", "eff", "interval", "rank", "bits/weight", "published", "detectable", "runs", "status",
)  # fmt: skip
TEXT_COLUMNS = ("scheme", "published", "status")
NOTHING = "-"
MEASUREMENTS = (
    "Multipliers at this scale are measurements, not reproductions: "
    "no published ones exist below 30M parameters."
)


def unknown_bits(scheme: str) -> None:
    """The bits per weight of a scheme, where nobody knows them."""


def _sources(fit: laws.Fit) -> list[str]:
    return laws.published.sources(entry.scheme for entry in fit.schemes)


def table(fit: laws.Fit, bits: Bits = unknown_bits) -> list[tuple[str, ...]]:
    """The rows of the headline table, as strings under HEADER, in the fit's order."""
    numbers = {source: k for k, source in enumerate(_sources(fit), start=1)}
    return [
        (
            entry.scheme,
            entry.bound or _number(entry.eff, ".3f"),
            _interval(entry),
            _number(entry.rank, "d"),
            _number(bits(entry.scheme), ".2f"),
            _published(laws.published.effective(entry.scheme), numbers),
            _number(entry.mdd, ".3f"),
            f"{entry.converged}",
            "; ".join(entry.status),
        )
        for entry in fit.schemes
    ]


def _interval(entry: laws.SchemeFit) -> str:
    """From low to high; an end that is a bound of the search is none."""
    if entry.low is None:
        return NOTHING
    if entry.ends == (None, None):
        return "unbounded"
    return " to ".join("unbounded" if end is None else _within(end) for end in entry.ends)


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _published(values: Sequence[Published], numbers: dict[str, int]) -> str:
    return ", ".join(f"{p.value:.2f} [{numbers[p.source]}]" for p in values) or NOTHING


def text(view: View, bits: Bits = unknown_bits) -> str:
    """The table for a terminal, with its notes."""
    rows = [HEADER, *table(view.fit, bits)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    lines = [
        "  ".join(_pad(*cell) for cell in zip(HEADER, row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", *notes(view)])


def _pad(column: str, value: str, width: int) -> str:
    return value.ljust(width) if column in TEXT_COLUMNS else value.rjust(width)


def notes(view: View) -> list[str]:
    """What must be said with the table, one line each."""
    fit = view.fit
    lines = [f"[{k}] {source}" for k, source in enumerate(_sources(fit), start=1)]
    lines.append(f"fit: {'; '.join(fit.status)}")
    if fit.params:
        lines += [*_explained(fit), *_outside(fit)]
        lines.append(
            f"{', '.join(_coefficient(fit, name) for name in 'bde')}; rms residual {fit.rms:.2%}; "
            f"{fit.level:.0%} intervals by {fit.bootstrap}"
        )
    lines += [
        f"hold-out of {'N' if one.column == view.size else 'D'} >= {one.value:,.0f}: rms error "
        f"{one.rms:.2%}, bias {one.bias:+.2%}, {one.covered} of {len(one.rows)} runs inside "
        f"{one.level:.0%} ({one.note})"
        for one in view.hold_outs
    ]
    if fit.flagged:
        lines.append(
            f"{len(fit.flagged)} runs have more weights in embeddings and head than in the blocks"
        )
    return [*lines, MEASUREMENTS]


def _coefficient(fit: laws.Fit, name: str) -> str:
    bound = at_bound(name, fit.param_status.get(name, ()))
    if bound and bound[0] in "<>":
        return f"{name} {bound}"
    return f"{name} = {bound or format(fit.params[name], '.3f')}"


def _explained(fit: laws.Fit) -> list[str]:
    """A sentence for each status of the fit that does not explain itself."""
    sentences = []
    if any(status.startswith("bound hit: e") for status in fit.status):
        sentences.append(
            "bound hit, e: b and e trade off, and these sizes do not tell a small b with e = 0 "
            "from a larger b with some loss that stays; eff against b shows what hangs on it."
        )
    if any(status.startswith("misfit") for status in fit.status):
        sentences.append(
            "misfit: a term in log N x log D, which the law does not have, would be t standard "
            "errors from 0 (by the noise model of the intervals); the intervals take the law for "
            "true and do not hold this error."
        )
    return sentences


def _outside(fit: laws.Fit) -> list[str]:
    """The published values outside the measured intervals, as a sentence if there are any."""
    numbers = {source: k for k, source in enumerate(_sources(fit), start=1)}
    found = [
        f"{entry.scheme}: {_published(values, numbers)}"
        for entry in fit.schemes
        if entry.low is not None
        and (
            values := [
                p
                for p in laws.published.effective(entry.scheme)
                if not entry.low <= p.value <= entry.high
            ]
        )
    ]
    why = "larger models, other data, Hadamard rotations in QuEST"
    return [f"Published values outside the interval: {'; '.join(found)} ({why})."] if found else []


def opening(fit: laws.Fit) -> str:
    """Title, what was trained, the law."""
    trained = ""
    if fit.table:
        n, d = fit.table["n_params"], fit.table["d_tokens"]
        trained = f"""<p class="soft">{fit.rows} training runs: {len(fit.schemes)} schemes,
{len(set(n))} sizes (N = {min(n):,.0f} to {max(n):,.0f}), {len(set(d))} budgets
(D = {min(d):,.0f} to {max(d):,.0f} tokens).</p>"""
    return f"""<h1>What each compression leaves of a model's parameters</h1>
{trained}
<p>The law of arXiv:2502.16440 is fitted to all runs at once:</p>
<p class="law">L(N, D, C) = a / (N · eff(C))<sup>b</sup> + c / D<sup>d</sup> + e</p>
<p>eff(C) is the effective parameter multiplier of a compression C: trained under C, a model reaches
the loss of a dense one with eff(C) times its parameters.</p>
<p class="notice">{MEASUREMENTS}</p>"""


def headline(fit: laws.Fit, bits: Bits = unknown_bits) -> str:
    """The table of multipliers with its notes."""
    what = (
        f"interval: {fit.level:.0%}, {fit.bootstrap}. rank: 1 + the number of compressions that "
        "are better: those whose log eff less this one's, paired within each resample, has a "
        f"{fit.level:.0%} interval wholly above 0; two of one rank may still differ. detectable: "
        "the smallest difference from dense that this design tells apart at "
        f"{fit.level:.0%} in 80% of repetitions, as a share of the smaller of the two: "
        "exp((z + z_power) s) - 1, where z s is the half-width of the interval of log eff; "
        f"{NOTHING} where that is above 1. It does not apply between two compressions. "
        "bits/weight: what a weight takes in memory. > or <: the search ended on a bound, so the "
        "runs hold eff on one side only; unbounded: the same of an end of the interval."
    )
    items = [f"[{k}] {source}" for k, source in enumerate(_sources(fit), start=1)]
    return (
        "<h2>Effective parameter multipliers</h2>"
        + multipliers(fit, bits).html
        + f'<p class="notes">{escape(what)}</p>'
        + f'<p class="notes">{"<br>".join(map(escape, items))}</p>'
        + "".join(f'<p class="notes">{escape(sentence)}</p>' for sentence in _outside(fit))
        + f"<p>Status of the fit: <b>{escape('; '.join(fit.status))}</b>.</p>"
        + "".join(f"<p>{escape(sentence)}</p>" for sentence in _explained(fit))
    )


def multipliers(fit: laws.Fit, bits: Bits = unknown_bits) -> Table:
    """The headline table."""
    return Table("multipliers", HEADER, tuple(table(fit, bits)), TEXT_COLUMNS)


def drawings(view: View) -> list[Drawn]:
    """The figures that only this law has."""
    fit = view.fit
    drawn = [
        Drawn(
            "collapse",
            figures.collapse(view),
            "Loss less its data term. Left: against N, with one curve of the law per scheme. "
            "Right: against N · eff(C), where the law says that all lie on one curve.",
        )
    ]
    if len(figures.identified(fit)) > 1:
        drawn.append(
            Drawn(
                "multipliers",
                figures.effs(fit),
                f"Multipliers with {fit.level:.0%} intervals, and published values of the schemes "
                "they come closest to (larger models, other data, other recipes). An arrow: the "
                "interval is open there, or goes on beyond the panel.",
            )
        )
        drawn.append(
            Drawn(
                "eff-against-b",
                figures.against_b(fit),
                "eff with b held fixed: thick where the excess of chi-squared is below 2.7 (90% "
                "for independent noise), dots at the fitted b, triangles at an edge where eff is "
                "on a bound of its search. Colours as in figure 1.",
                narrow=True,
            )
        )
    return drawn


def sensitivity(fit: laws.Fit) -> str:
    """How the multipliers drift, how they move with b, whether they multiply."""
    return _trends(fit) + _at_b(fit) + _products(fit)


def tables(fit: laws.Fit, bits: Bits = unknown_bits) -> list[Table]:
    """Every table of this law."""
    return [
        multipliers(fit, bits),
        *([trends(fit), drifts(fit), at_b(fit), products(fit)] if fit.params else []),
    ]


def trends(fit: laws.Fit) -> Table:
    """d log eff / d log(D / N) of every scheme."""
    rows = [
        (entry.scheme, *map(_slope, entry.trend))
        for entry in figures.identified(fit)
        if entry.trend
    ]
    return Table("eff-against-tokens-per-parameter", ("scheme", "slope", "low", "high"), rows)


def _slope(value: float) -> str:
    """A slope; one that takes eff through all that is searched in a factor e of D / N is none."""
    return f"{value:+.3f}" if abs(value) < math.log(LARGEST_EFF) else "unbounded"


def drifts(fit: laws.Fit) -> Table:
    """The nested tests of a constant eff."""
    rows = []
    for drift in fit.drifts:
        slope = (
            NOTHING if drift.slope is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*drift.slope)
        )
        which = "one for all" if drift.slopes == 1 else f"{drift.slopes}, one for each"
        verdict = "drifts" if drift.p < 1 - fit.level else "constant is not rejected"
        f = f"{drift.f:.2f} ({drift.freedom[0]}, {drift.freedom[1]})"
        rows.append((drift.against, which, slope, f, f"{drift.p:.3g}", verdict))
    header = ("eff against", "slopes", "common slope", "F (degrees of freedom)", "p", "verdict")
    return Table("drift", header, tuple(rows), ("eff against", "slopes", "verdict"))


def _trends(fit: laws.Fit) -> str:
    nested = (
        "<p>The law against itself with terms in which log eff goes along with log(D / N) or "
        "log N, all other coefficients free to follow: p is the probability of a larger F where "
        f"eff is constant; below {1 - fit.level:.2g} constancy is rejected. Slopes are to first "
        "order, too small where they are large.</p>" + drifts(fit).html
    )
    return (
        "<h2>Is eff constant?</h2>"
        + (nested if fit.drifts else "")
        + "<p>d log eff / d log(D / N) of each scheme alone. The law says 0; an interval without 0 "
        "says that the multiplier depends on how long the model is trained.</p>" + trends(fit).html
    )


def at_b(fit: laws.Fit) -> Table:
    """eff with b held at each of HELD_EXPONENTS, and the excess of chi-squared."""
    rows = [row for row in fit.eff_against_b if row.b in (*HELD_EXPONENTS, fit.params["b"])]
    lines = [
        (entry.scheme, *(_within(row.effs[entry.scheme]) for row in rows))
        for entry in figures.identified(fit)[1:]
    ]
    lines.append(("excess of χ²", *(f"{row.excess:.1f}" for row in rows)))
    return Table("eff-at-b", ("scheme", *(f"{row.b:.3g}" for row in rows)), tuple(lines))


def _within(eff: float) -> str:
    most = LARGEST_EFF * (1 - 1e-9)
    if eff >= most:
        return f"> {LARGEST_EFF:g}"
    return f"< {1 / LARGEST_EFF:g}" if eff * most <= 1 else f"{eff:.3f}"


def _at_b(fit: laws.Fit) -> str:
    ends = inside(forms.LAWS["effective"], "b", *fit.intervals["b"])
    low, high = ("unbounded" if end is None else f"{end:.3f}" for end in ends)
    return (
        "<h2>How eff moves with b</h2>"
        f"<p>{_coefficient(fit, 'b')} fits best. The last row is the excess of the objective over "
        "that, in units of the residual variance. If the noise of all runs were independent, an "
        "excess below 2.7 would be no objection at 90%. It is not: runs share weights, data order "
        f"and training trunks. The bootstrap, which knows that, has b from {low} to {high} "
        f"({fit.level:.0%}); that is the range to trust.</p>" + at_b(fit).html
    )


def products(fit: laws.Fit) -> Table:
    """Measured compositions beside the product of their measured parts."""
    found = compositions(measured(fit), lambda ratio: interval(ratio, fit.level) or (None, None))
    rows = tuple(
        (
            one.scheme,
            f"{one.eff:.3f}",
            f"{one.product:.3f}",
            f"{one.log_ratio:+.3f}",
            NOTHING if one.low is None else f"{one.low:+.3f} to {one.high:+.3f}",
        )
        for one in found
    )
    return Table("compositions", ("scheme", "eff", "product", "log ratio", "interval"), rows)


def _products(fit: laws.Fit) -> str:
    table = products(fit)
    if not table.rows:
        return ""
    return (
        "<h2>Do multipliers multiply?</h2><p>A composition's multiplier beside the product of its "
        "parts', each measured alone: a log ratio of 0 says that they multiply (arXiv:2506.01863), "
        "and then what was never trained can be predicted.</p>" + table.html
    )


def without_flagged(fit: laws.Fit, bits: Bits = unknown_bits) -> str:
    """The fit without the runs that are mostly embeddings and head; nothing if there are none."""
    other = fit.without_flagged
    if other is None:
        return ""
    flagged = set(fit.flagged)
    sized = zip(fit.table.get("run_id", ()), fit.table.get("n_params", ()), strict=True)
    sizes = sorted({n for run_id, n in sized if run_id in flagged})
    named = f" (N = {', '.join(f'{n:,.0f}' for n in sizes)})" if sizes else ""
    return (
        "<h2>Without runs that are mostly embeddings and head</h2>"
        f"<p>In {len(fit.flagged)} runs{named} more than half of "
        "all parameters are embeddings and head, which no compression acts on. The fit "
        "without them: "
        f"{escape('; '.join(other.status))}.</p>" + multipliers(other, bits).html
    )
