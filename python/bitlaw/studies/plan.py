"""Plans from a fit, with the project's own schemes: what they store, what they err."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bitlaw.laws import Fit, capacity
from bitlaw.laws import options as choices
from bitlaw.laws.options import Described
from bitlaw.laws.plan import Budget, best_plans, refuse_far
from bitlaw.pages import plan as pages
from bitlaw.pages.figure import png, svg
from bitlaw.pages.plan import Made
from bitlaw.studies.rows import StudyError, write_atomic


def describe(scheme: str) -> Described:
    """Bits per weight and sparsity of a scheme string; ValueError where it is none."""
    from bitlaw.formats import Scheme

    parsed = Scheme.parse(scheme)
    return Described(parsed.bits_per_weight, parsed.sparsity)


def gmse(part: str) -> float:
    """Mean squared error on N(0, 1) of one part of a scheme: "w=int4/row", "s=0.5".

    Of a format's grid with the best scale for all of the numbers; a scale per block does better.
    """
    from bitlaw.formats import Scheme

    scheme = Scheme.parse(part)
    if scheme.s:
        return capacity.pruning_gmse(scheme.sparsity)
    row = (scheme.w or scheme.a).row
    levels = getattr(row, "grid_levels", None)  # of formats that are not uniform
    return capacity.grid_gmse(
        np.arange(row.qmin, row.qmax + 1) + row.offset if levels is None else levels
    )


def make(
    fit: Fit,
    budget: Budget,
    extra: Sequence[str] = (),
    zeros: str = "skipped",
    extrapolate: bool = False,
) -> Made:
    """The best plan of every scheme of a fit under a budget.

    Raises:
        ValueError: the law cannot be planned with, a scheme is unknown or cannot be predicted, or
            a plan lies more than 100 times outside the runs of the fit and ``extrapolate`` is not
            given.
    """
    extra = [_canonical(scheme) for scheme in extra]
    left_out = []
    unknown = {scheme for scheme in fit.table.get("scheme", ()) if not _known(scheme)}
    if fit.law == "effective":
        for entry in fit.schemes:
            if entry.eff is None or entry.bound:
                left_out.append((entry.scheme, "; ".join(entry.status)))
            elif entry.scheme in unknown:
                left_out.append((entry.scheme, "bits per weight not known"))
    if fit.law == "gamma":
        left_out += [(scheme, f"bound hit: {bound}") for scheme, bound in fit.bounds.items()]
    found = choices.options(fit, lambda s: _described(s, unknown), gmse, extra, zeros)
    found = [option for option in found if option.scheme not in unknown]
    if fit.law == "sparse":
        best = choices.best_sparsity(fit, budget, describe, zeros)
        if best.scheme not in {option.scheme for option in found}:
            found.append(best)
    trained = choices.trained_range(fit)
    plans = best_plans(found, budget, trained, fit.level)
    for plan in plans:
        refuse_far(plan, extrapolate)
    return Made(fit, budget, tuple(found), tuple(plans), trained, tuple(left_out), zeros)


def _canonical(scheme: str) -> str:
    from bitlaw.formats import Scheme

    return str(Scheme.parse(scheme))


def _known(scheme: str) -> bool:
    try:
        describe(scheme)
    except ValueError:
        return False
    return True


def _described(scheme: str, unknown: set[str]) -> Described:
    return Described(16.0) if scheme in unknown else describe(scheme)


def text(made: Made) -> str:
    """The plan for a terminal."""
    best = made.plans[0]
    table = pages.narrowed(pages.answers(made))
    rows = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    low = "" if best.loss[1] is None else f" ({best.loss[1]:.4f} to {best.loss[2]:.4f})"
    predicted = ", predicted" if best.predicted else ""
    return "\n".join(
        [
            f"budget: {pages.budget_text(made.budget)}",
            f"train {best.scheme}{predicted}: N = {best.n_params:.4g}, D = {best.d_tokens:.4g}, "
            f"loss {best.loss[0]:.4f}{low}; spends all of the {_list(best.binding)}",
            "",
            *lines,
            "",
            *pages.assumptions(made),
        ]
    )


def _list(names: Sequence[str]) -> str:
    return " and ".join(pages.NAMES[name] for name in names)


def write(made: Made, out: Path) -> list[Path]:
    """plan.html, plan.json, figures as SVG and PNG and tables as CSV, in a folder.

    Raises:
        StudyError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"cannot make {out}: {error.strerror}") from error
    plans = {"budget": asdict(made.budget), "zeros": made.zeros, "law": made.fit.law,
             "level": made.fit.level, "plans": [asdict(plan) for plan in made.plans],
             "left_out": made.left_out}  # fmt: skip
    contents: dict[str, str | bytes] = {
        "plan.html": pages.page(made),
        "plan.json": json.dumps(plans, indent=1, allow_nan=False) + "\n",
    }
    for drawn in pages.drawings(made):
        contents |= {f"{drawn.name}.svg": svg(drawn.figure), f"{drawn.name}.png": png(drawn.figure)}
    contents |= {f"{table.name}.csv": table.csv for table in pages.tables(made)}
    for name, content in contents.items():
        write_atomic(out / name, content)
    return [out / name for name in contents]
