"""Effective multipliers against bits and against sparsity, beside the published curves."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitlaw.laws import published
from bitlaw.pages.figure import bar, panels, reach, styled
from bitlaw.pages.view import View

GREY = "#8a8a8a"
QUANTIZED = re.compile(r"([wa])=(?:int|quest|fp|mxfp|nvfp)(\d+)\b\S*")
SPARSE = re.compile(r"s=(\d*\.?\d+)")


def place(scheme: str) -> tuple[str, float] | None:
    """("weights" | "both" | "sparsity", bits or sparsity) of a scheme of one kind, else None."""
    if match := SPARSE.fullmatch(scheme):
        return "sparsity", float(match[1])
    bits = {key: int(count) for key, count in QUANTIZED.findall(scheme)}
    if len(bits) != len(scheme.split()) or "w" not in bits:
        return None
    if len(bits) == 1:
        return "weights", bits["w"]
    return ("both", bits["w"]) if bits["a"] == bits["w"] else None


@styled
def eff_curves(view: View) -> Figure | None:
    """eff against bits and against sparsity; None where the law has neither."""
    drawers = {"effective": _of_schemes, "sparse": _of_sparsity, "capacity": _of_gmse,
               "precision": _of_bits}  # fmt: skip
    return drawers[view.fit.law](view) if view.fit.law in drawers else None


def _of_schemes(view: View) -> Figure | None:
    """The measured multipliers of schemes of one kind, with their intervals."""
    found = {}
    for entry in view.fit.schemes:
        measured = entry.low is not None and not entry.bound
        if measured and (at := place(entry.scheme)):
            kind, x = at
            found.setdefault(kind, []).append((x, entry))
    wanted = [("bits", ("weights", "both")), ("sparsity", ("sparsity",))]
    wanted = [(name, kinds) for name, kinds in wanted if any(kind in found for kind in kinds)]
    if not wanted:
        return None
    figure, axes = panels(4.9 * len(wanted), 3.6, len(wanted))
    colors = {"weights": "#0072B2", "both": "#D55E00", "sparsity": "#009E73"}
    labels = {"weights": "weights, measured", "both": "weights and activations, measured",
              "sparsity": "measured"}  # fmt: skip
    for panel, (name, kinds) in zip(axes, wanted, strict=True):
        shown = [(kind, x, entry) for kind in kinds for x, entry in found.get(kind, ())]
        top = reach([entry for _, _, entry in shown])
        aside = 0.012 * (8.5 if name == "bits" else 1.0)  # side by side, not one over the other
        for k, (kind, x, entry) in enumerate(shown):
            same = [j for j, (_, other, _) in enumerate(shown) if other == x]
            at = x + aside * (2 * same.index(k) - len(same) + 1)
            first = kind not in (before for before, _, _ in shown[:k])
            style = {"color": colors[kind], "zorder": 3}
            bar(panel, at, entry.ends, (0.0, top), upright=True, lw=1.6, **style)
            panel.plot(at, entry.eff, "o", ms=5, label=labels[kind] if first else None, **style)
        (published_bits if name == "bits" else published_sparsity)(panel)
        finish(panel, name, top)
        panel.set_ylim(0, top)
    return figure


def _of_sparsity(view: View) -> Figure:
    """The curve of a sparse law, in total parameters: m(S) (1 - S)."""
    figure, (left, right) = panels(9.2, 3.6, 2)
    s = np.linspace(0, min(0.97, 0.5 + max(view.table["sparsity"]) / 2), 120)
    curves = [("this fit", view.fit.params, "#0072B2", "-")]
    curves += [(r.label, r.params, "#D55E00", "--") for r in view.fit.references if r.params]
    measured = np.unique(view.table["sparsity"])
    for name, params, color, style in curves:
        m = nonzero_multiplier(s, params)
        left.plot(s, m, color=color, ls=style, lw=1.4, label=name)
        right.plot(s, m * (1 - s), color=color, ls=style, lw=1.4, label=name)
    m = nonzero_multiplier(measured, view.fit.params)
    left.plot(measured, m, "o", color="#0072B2", ms=4.5, label="sparsities trained")
    right.plot(measured, m * (1 - measured), "o", color="#0072B2", ms=4.5)
    published_sparsity(right)
    left.set_title("(a) of non-zero parameters, m(S)")
    right.set_title("(b) of total parameters, m(S) (1 - S)")
    left.set_xlabel("sparsity S")
    left.set_ylabel("dense-equivalent multiplier")
    left.set_ylim(0, None)
    left.legend(loc="upper left")
    finish(right, "sparsity S", 1.0)
    return figure


def nonzero_multiplier(sparsity, params: Mapping[str, float]):
    """m(S) = ((a_S (1 - S)^b_S + c_S) / (a_S + c_S))^(-1 / b_N): dense parameters per non-zero.

    Source: arXiv:2309.08520.
    """
    density = 1 - np.asarray(sparsity, np.float64)
    ratio = params["a_s"] * density ** params["b_s"] + params["c_s"]
    return (ratio / (params["a_s"] + params["c_s"])) ** (-1 / params["b_n"])


def _of_bits(view: View) -> Figure:
    """1 - e^(-bits / gamma) of a precision law."""
    figure, (panel,) = panels(6.0, 3.6)
    bits = np.linspace(0.5, 16, 120)
    for name, what, color in (("gamma_w", "weights", "#0072B2"), ("gamma_a", "activations",
                              "#D55E00"), ("gamma_kv", "cache", "#009E73")):  # fmt: skip
        if name in view.fit.params:
            panel.plot(bits, -np.expm1(-bits / view.fit.params[name]), color=color, label=what)
    published_bits(panel)
    finish(panel, "bits", 1.0)
    return figure


def _of_gmse(view: View) -> Figure:
    """tanh(f log_{1/4} GMSE)^k of a capacity law, against log_{1/4} GMSE: about the bits."""
    from bitlaw.laws.capacity import capacity

    figure, (panel,) = panels(6.0, 3.6)
    bits = np.linspace(0.2, 8, 120)
    rho = capacity(4.0**-bits, f=view.fit.params["f"], k=view.fit.params["k"])
    panel.plot(bits, rho, color="#0072B2", label="this fit")
    finish(panel, "log$_{1/4}$ GMSE", 1.0)
    return figure


def published_bits(panel: Axes) -> None:
    """QuEST's and the capacity paper's multipliers against bits, in grey."""
    rows = published.CAPACITY_BOTH
    both = {b: row[k] for k, (b, row) in enumerate(zip(published.BITS, rows, strict=True))}
    weights = {b: row[-1] for b, row in zip(published.BITS, rows, strict=True)}
    for label, values, marker, style in (
        ("QuEST, weights", published.QUEST_WEIGHTS, "s", "-"),
        ("QuEST, both", published.QUEST_BOTH, "s", "--"),
        ("2506.01863, weights", weights, "D", "-"),
        ("2506.01863, both", both, "D", "--"),
    ):
        shown = {b: eff for b, eff in values.items() if b <= 8}
        panel.plot(list(shown), list(shown.values()), marker=marker, ls=style, color=GREY, lw=0.9,
                   ms=3.5, mfc="white", label=label)  # fmt: skip
    panel.set_xlim(0, 8.5)


def published_sparsity(panel: Axes) -> None:
    """The capacity paper's and the unified law's multipliers against sparsity, in grey."""
    panel.plot(published.SPARSITIES, published.CAPACITY_SPARSE[16], marker="D", ls="-", color=GREY,
               lw=0.9, ms=3.5, mfc="white", label="2506.01863")  # fmt: skip
    panel.plot(0.5, published.UNIFIED_VALUES["s=0.5"], "P", color=GREY, ms=5, mfc="white",
               label="2502.16440, second-hand")  # fmt: skip


def finish(panel: Axes, x: str, top: float) -> None:
    """Labels, a line at 1, a legend."""
    panel.axhline(1, color="black", lw=0.7)
    panel.set_ylim(0, max(top, panel.get_ylim()[1]))
    panel.set_xlabel(x)
    panel.set_ylabel("effective parameter multiplier")
    panel.legend(loc="best", fontsize=7)
