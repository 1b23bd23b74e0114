"""Fits the law to a study's runs.csv and writes what it says.

    DIR/runs.csv -> DIR/fit.json      the record of the fit
                    DIR/report.html   one page, self-contained
                    DIR/figure.png    collapse and multipliers side by side

The terminal's table and the page's are the same rows (`table`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from bitlaw import laws
from bitlaw.laws.diagnose import HELD_EXPONENTS
from bitlaw.laws.published import Published
from bitlaw.pages import page as pages
from bitlaw.pages.figure import png
from bitlaw.studies import figures
from bitlaw.studies.rows import StudyError, write_atomic

HEADER = (
    "scheme", "eff", "interval", "rank", "bits/weight", "published", "detectable", "runs", "status",
)  # fmt: skip
TEXT_COLUMNS = ("scheme", "published", "status")
NOTHING = "-"
MEASUREMENTS = (
    "Multipliers at this scale are measurements, not reproductions: "
    "no published ones exist below 30M parameters."
)


def write(
    out: Path, level: float = 0.9, resamples: int = 1000, delta: float | None = None, seed: int = 0
) -> str:
    """The table for the terminal; writes fit.json, report.html and figure.png beside runs.csv.

    Args:
        out: a folder with runs.csv.
        level, resamples, delta, seed: as in `laws.fit`.
    Raises:
        ValueError: runs.csv is missing or is no table of runs.
        StudyError: the folder cannot be written.
    """
    out = Path(out)
    runs = laws.read_runs(out / "runs.csv")
    fit = laws.fit(runs, level=level, resamples=resamples, delta=delta, seed=seed)
    record = json.dumps(fit.to_dict(), indent=1, allow_nan=False)
    write_atomic(out / "fit.json", record + "\n")
    write_atomic(out / "report.html", page(fit, runs))
    picture = out / "figure.png"
    if fit.params:
        write_atomic(picture, png(figures.headline(fit, runs)))
    else:
        _remove(picture)
    return text(fit)


def _remove(path: Path) -> None:
    """Removes what an earlier fit left, which the present one does not support."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StudyError(f"cannot remove {path}: {error.strerror}; remove it by hand") from error


def _sources(fit: laws.Fit) -> list[str]:
    return laws.published.sources(entry.scheme for entry in fit.schemes)


def table(fit: laws.Fit) -> list[tuple[str, ...]]:
    """The rows of the headline table, as strings under HEADER, in the fit's order."""
    numbers = {source: k for k, source in enumerate(_sources(fit), start=1)}
    return [
        (
            entry.scheme,
            _number(entry.eff, ".3f"),
            NOTHING if entry.low is None else f"{entry.low:.3f} to {entry.high:.3f}",
            _number(entry.rank, "d"),
            _bits_per_weight(entry.scheme),
            _published(laws.published.effective(entry.scheme), numbers),
            _number(entry.mdd, ".3f"),
            f"{entry.converged}",
            "; ".join(entry.status),
        )
        for entry in fit.schemes
    ]


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _published(values: Sequence[Published], numbers: dict[str, int]) -> str:
    return ", ".join(f"{p.value:.2f} [{numbers[p.source]}]" for p in values) or NOTHING


def _bits_per_weight(scheme: str) -> str:
    from bitlaw.formats import Scheme  # needs jax, which a fit does not

    try:
        bits = Scheme.parse(scheme).bits_per_weight
    except ValueError:  # a table of runs may name schemes that are not ours
        return NOTHING
    return NOTHING if math.isnan(bits) else f"{bits:.2f}"  # of a user's quantizer


def text(fit: laws.Fit) -> str:
    """The table for a terminal, with its notes."""
    rows = [HEADER, *table(fit)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADER))]
    lines = [
        "  ".join(_pad(*cell) for cell in zip(HEADER, row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", *notes(fit)])


def _pad(column: str, value: str, width: int) -> str:
    return value.ljust(width) if column in TEXT_COLUMNS else value.rjust(width)


def notes(fit: laws.Fit) -> list[str]:
    """What must be said with the table, one line each."""
    lines = [f"[{k}] {source}" for k, source in enumerate(_sources(fit), start=1)]
    lines.append(f"fit: {'; '.join(fit.status)}")
    if fit.params:
        p = fit.params
        lines += [*_explained(fit), *_outside(fit)]
        lines.append(
            f"b = {p['b']:.3f}, d = {p['d']:.3f}, e = {p['e']:.3f}; rms residual {fit.rms:.2%}; "
            f"{fit.level:.0%} intervals by {fit.bootstrap}"
        )
    if fit.held_out:
        lines.append(
            f"hold-out of N = {fit.held_out.n_params:,.0f}: rms error {fit.held_out.rms:.2%}, "
            f"bias {fit.held_out.bias:+.2%} ({fit.held_out.note})"
        )
    if fit.flagged:
        lines.append(
            f"{len(fit.flagged)} runs have more weights in embeddings and head than in the blocks"
        )
    return [*lines, MEASUREMENTS]


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


def page(fit: laws.Fit, runs: laws.Runs) -> str:
    """The report as one self-contained HTML page."""
    sections = [_opening(fit, runs), _headline(fit)]
    if fit.params:
        sections += [_figures(fit, runs), _trends(fit), _at_b(fit)]
    if fit.without_flagged:
        sections.append(_without_flagged(fit, runs))
    sections.append(_method(fit, runs))
    return pages.document("bitlaw: effective parameter multipliers", sections)


def _opening(fit: laws.Fit, runs: laws.Runs) -> str:
    sizes, budgets = np.unique(runs.n_params), np.unique(runs.d_tokens)
    return f"""<h1>What each compression leaves of a model's parameters</h1>
<p class="soft">{len(runs)} training runs: {len(fit.schemes)} schemes, {len(sizes)} sizes
(N = {sizes[0]:,.0f} to {sizes[-1]:,.0f}), {len(budgets)} budgets
(D = {budgets[0]:,.0f} to {budgets[-1]:,.0f} tokens).</p>
<p>The law of arXiv:2502.16440 is fitted to all runs at once:</p>
<p class="law">L(N, D, C) = a / (N · eff(C))<sup>b</sup> + c / D<sup>d</sup> + e</p>
<p>eff(C) is the effective parameter multiplier of a compression C: trained under C, a model reaches
the loss of a dense one with eff(C) times its parameters.</p>
<p class="notice">{MEASUREMENTS}</p>"""


def _headline(fit: laws.Fit) -> str:
    what = (
        f"interval: {fit.level:.0%}, {fit.bootstrap}. rank: 1 + the number of compressions that "
        "are better: those whose log eff less this one's, paired within each resample, has a "
        f"{fit.level:.0%} interval wholly above 0; two of one rank may still differ. detectable: "
        "the smallest difference from dense that this design tells apart at "
        f"{fit.level:.0%} in 80% of repetitions, as a share of the smaller of the two: "
        "exp((z + z_power) s) - 1, where z s is the half-width of the interval of log eff; "
        f"{NOTHING} where that is above 1. It does not apply between two compressions. "
        "bits/weight: without scales; sparse weights carry one mask bit."
    )
    items = [f"[{k}] {source}" for k, source in enumerate(_sources(fit), start=1)]
    return (
        "<h2>Effective parameter multipliers</h2>"
        + pages.table(HEADER, table(fit), TEXT_COLUMNS)
        + f'<p class="notes">{escape(what)}</p>'
        + f'<p class="notes">{"<br>".join(map(escape, items))}</p>'
        + "".join(f'<p class="notes">{escape(sentence)}</p>' for sentence in _outside(fit))
        + f"<p>Status of the fit: <b>{escape('; '.join(fit.status))}</b>.</p>"
        + "".join(f"<p>{escape(sentence)}</p>" for sentence in _explained(fit))
    )


def _figures(fit: laws.Fit, runs: laws.Runs) -> str:
    wide = [
        (
            figures.collapse(fit, runs),
            "Loss less its data term. Left: against N, with one curve of the law per scheme. "
            "Right: against N · eff(C), where the law says that all lie on one curve.",
        ),
        (
            figures.residuals(fit, runs),
            f"Residuals, rms {fit.rms:.2%}. A pattern against D / N would say that eff is not "
            "constant. One colour per scheme, as in the legend of figure 1; the points of one "
            "size or ratio are set side by side.",
        ),
    ]
    narrow = []
    if fit.held_out:
        error = f"rms error {fit.held_out.rms:.2%}, bias {fit.held_out.bias:+.2%}"
        caption = f"Hold-out of the largest size: {error} ({fit.held_out.note})."
        narrow.append((figures.held_out(fit, runs), f"{caption} Colours as in figure 1."))
    if len(figures.identified(fit)) > 1:
        caption = (
            f"Multipliers with {fit.level:.0%} intervals, and published values of the schemes "
            "they come closest to (larger models, other data, other recipes)."
        )
        wide.insert(1, (figures.effs(fit), caption))
        caption = (
            "eff with b held fixed: thick where the excess of chi-squared is below 2.7 (90% for "
            "independent noise), dots at the fitted b. Colours as in figure 1."
        )
        narrow.append((figures.against_b(fit), caption))
    parts = [pages.figure(k, *entry) for k, entry in enumerate([*wide, *narrow], start=1)]
    pair = f'<div class="pair">{"".join(parts[len(wide) :])}</div>'
    return "\n".join([*parts[: len(wide)], pair])


def _trends(fit: laws.Fit) -> str:
    rows = [
        (entry.scheme, *(f"{value:+.3f}" for value in entry.trend))
        for entry in figures.identified(fit)
        if entry.trend
    ]
    return (
        "<h2>Does eff drift with tokens per parameter?</h2>"
        "<p>d log eff / d log(D / N). The law says 0; an interval without 0 says that the "
        "multiplier depends on how long the model is trained.</p>"
        + pages.table(("scheme", "slope", "low", "high"), rows)
    )


def _at_b(fit: laws.Fit) -> str:
    best, (low, high) = fit.params["b"], fit.intervals["b"]
    at_b = [row for row in fit.eff_against_b if row.b in (*HELD_EXPONENTS, best)]
    rows = [
        (entry.scheme, *(f"{row.effs[entry.scheme]:.3f}" for row in at_b))
        for entry in figures.identified(fit)[1:]
    ]
    rows.append(("excess of χ²", *(f"{row.excess:.1f}" for row in at_b)))
    return (
        "<h2>How eff moves with b</h2>"
        f"<p>b = {best:.3f} fits best. The last row is the excess of the objective over that, in "
        "units of the residual variance. If the noise of all runs were independent, an excess "
        "below 2.7 would be no objection at 90%. It is not: runs share weights, data order and "
        f"training trunks. The bootstrap, which knows that, has b from {low:.3f} to {high:.3f} "
        f"({fit.level:.0%}); that is the range to trust.</p>"
        + pages.table(("scheme", *(f"{row.b:.3g}" for row in at_b)), rows)
    )


def _without_flagged(fit: laws.Fit, runs: laws.Runs) -> str:
    other = fit.without_flagged
    sizes = np.unique(runs.n_params[np.isin(runs.run_id, fit.flagged)])
    return (
        "<h2>Without runs that are mostly embeddings and head</h2>"
        f"<p>In {len(fit.flagged)} runs (N = {', '.join(f'{n:,.0f}' for n in sizes)}) more than "
        "half of all parameters are embeddings and head, which no compression acts on. The fit "
        "without them: "
        f"{escape('; '.join(other.status))}.</p>" + pages.table(HEADER, table(other), TEXT_COLUMNS)
    )


def _method(fit: laws.Fit, runs: laws.Runs) -> str:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in (fit.noise or {}).items())
    coefficients = ", ".join(
        f"{name} = {value:.4g} ({fit.intervals[name][0]:.3g} to {fit.intervals[name][1]:.3g})"
        for name, value in fit.params.items()
    )
    reasons = Counter(reason for _, reason in fit.excluded)
    excluded = "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
    items = {
        "N": "weights of the block matrices, which the compression acts on; embeddings, norms and "
        "head are not counted. D: training tokens. L: validation loss, nats per token.",
        "Objective": f"sum over runs of Huber(log(L_hat / L)), delta = {fit.delta:.4g}: "
        f"{fit.delta_source}. At the optimum: {_number(fit.objective, '.6g')}, "
        f"R² {_number(fit.r2, '.4f')}.",
        "Search": "variable projection: a grid over (b, d) with non-negative least squares inside, "
        "the best points polished on the objective.",
        "Coefficients": coefficients or NOTHING,
        "Intervals": f"{fit.bootstrap}; the unit is (size, seed), all schemes together."
        + (f" Mean shares in the noise: {shares}." if shares else ""),
        "Runs": f"{len(fit.residuals)} fitted of {fit.rows}. Excluded: {excluded or 'none'}.",
        "Published values": "as their sources print them; second-hand ones are marked.",
    }
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in items.items())
    return f"<h2>How it was fitted</h2><dl>{body}</dl>"
