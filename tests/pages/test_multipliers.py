"""The table and the page of the effective law."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from bitlaw import laws
from bitlaw.laws import forms, solve
from bitlaw.laws.plan import Budget
from bitlaw.pages import multiplier_figures as figures
from bitlaw.pages import multipliers
from bitlaw.pages.eff_figures import eff_curves
from bitlaw.pages.figure import reach
from bitlaw.pages.fit import page, tables
from bitlaw.pages.view import View
from laws.synthetic import EFFS, SIZES, add_noise, quick_rows


def noisy(**design):
    return add_noise(quick_rows(**design), np.random.default_rng(0), 0.008, 0.5)


def fitted(rows):
    return laws.fit(laws.Runs.from_rows(rows), resamples=20)


@pytest.mark.parametrize("design", [{"sizes": SIZES[:1]}, {"effs": {"dense": 1.0}}])
def test_a_table_that_identifies_little_still_has_a_page(design):
    fit = fitted(noisy(**design))
    text = multipliers.text(View(fit))
    assert ("unidentified: one size" in text) == ("sizes" in design)
    assert ("<figure>" in page(fit)) == ("sizes" not in design)


def test_colours_and_source_numbers_do_not_depend_on_the_order_of_schemes():
    names = list(EFFS)
    assert figures.colors(names) == figures.colors(names[::-1])
    assert laws.published.sources(names) == laws.published.sources(names[::-1])


def test_thirty_schemes_have_colours_of_their_own():
    found = figures.colors(["dense", *(f"s=0.{k}" for k in range(100, 136))])
    assert len(set(found.values())) == 37
    parts = [[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in found.values() if c != "black"]
    apart = [np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(parts) for b in parts[:i]]
    assert min(apart) > 20


@pytest.fixture(scope="module")
def beyond():
    """A fit in which one scheme is better, and one worse, than any multiplier that is searched."""
    rows = noisy()
    for row in rows:
        row["loss"] *= {"s=0.5": 0.45, "s=0.75": 3.0}.get(row["scheme"], 1.0)
    return fitted(rows)


def test_a_multiplier_at_a_bound_of_the_search_is_no_number(beyond):
    view = View(beyond)
    cells = {row[0]: row for row in multipliers.table(beyond)}
    high, low = cells["s=0.5"], cells["s=0.75"]
    assert high[1] == "> 1e+04" and high[2].endswith("unbounded")
    assert low[1] == "< 0.0001" and low[2].startswith("unbounded")
    ends = beyond.scheme("s=0.75").ends
    assert ends[0] is None and ends[1] < 1e-3  # its high end is known
    assert high[6] == low[6] == multipliers.NOTHING  # nothing is detectable
    csv = {table.name: table.csv for table in tables(view)}
    for place in (multipliers.text(view), page(view), *csv.values()):
        assert "10000.0" not in place
    assert "bound hit: eff > 1e+04" in beyond.scheme("s=0.5").status
    assert "s=0.5," not in csv["eff-at-b"] and "s=0.5," not in csv.get("compositions", "")


def test_a_multiplier_at_a_bound_is_in_no_figure_and_every_resample_is_finite(beyond):
    names = [entry.scheme for entry in figures.identified(beyond)]
    assert "s=0.5" not in names and "s=0.75" not in names and len(names) == 4
    panels = eff_curves(View(beyond)).axes
    assert [panel.get_xlabel() for panel in panels] == ["bits"]  # no sparse scheme is left
    effs = [value for name, row in beyond.draws.items() if name.startswith("eff") for value in row]
    assert min(effs) > 0.99e-4 and max(effs) < 1.01e4
    forms.effective(1e3, 1e6, np.array(effs), **beyond.params)  # divides by none of them


@pytest.fixture(scope="module")
def open_ended():
    """A fit with intervals that end on bounds of the search, and effs that do with b held."""
    fit = fitted(noisy())
    most = solve.LARGEST_EFF
    ends = {"s=0.5": {"high": most}, "s=0.75": {"low": 1 / most}, "w=quest2/channel": {"high": 7.0}}
    entries = tuple(replace(e, **ends.get(e.scheme, {})) for e in fit.schemes)
    first, *rest = fit.eff_against_b
    first = replace(first, effs=first.effs | {"s=0.5": most, "s=0.75": 1 / most})
    return replace(fit, schemes=entries, eff_against_b=(first, *rest))


def arrows(panel):
    """Where the panel has arrows: {marker: points}."""
    found = {}
    for line in panel.lines:
        if line.get_marker() in ("<", ">", "v", "^") and line.get_color() != "#666666":
            found.setdefault(line.get_marker(), []).extend(line.get_xydata().tolist())
    return found


def farthest(panel):
    """The largest number that is drawn."""
    return np.nanmax(np.concatenate([np.ravel(line.get_xydata()) for line in panel.lines]))


def test_an_interval_that_is_open_ends_in_an_arrow_at_the_edge(open_ended):
    (panel,) = figures.effs(open_ended).axes
    names = [entry.scheme for entry in figures.identified(open_ended)[1:]]
    found, (least, most) = arrows(panel), panel.get_xlim()
    assert least == 0 and 2 <= most < 2.2
    assert sorted(found[">"]) == sorted(
        [most, -names.index(name)]
        for name in ("s=0.5", "w=quest2/channel")  # 7 is beyond, too
    )
    assert found["<"] == [[0, -names.index("s=0.75")]]
    bits, sparsity = eff_curves(View(open_ended)).axes
    assert arrows(bits) == {"^": [[2.0, bits.get_ylim()[1]]]}
    assert arrows(sparsity) == {"^": [[0.5, sparsity.get_ylim()[1]]], "v": [[0.75, 0.0]]}
    for one in (panel, bits, sparsity):
        assert farthest(one) < 10


def test_effs_on_a_bound_are_triangles_at_the_edge_of_the_figure_against_b(open_ended):
    (panel,) = figures.against_b(open_ended).axes
    b, top = open_ended.eff_against_b[0].b, panel.get_ylim()[1]
    assert arrows(panel) == {"^": [[b, top]], "v": [[b, 0.0]]} and top < 2.2
    assert farthest(panel) < 10


def test_an_axis_of_multipliers_holds_every_one_and_ends_that_are_known_below_2():
    def entry(eff, low, high):
        return laws.SchemeFit("s=0.5", 9, 9, ("ok",), eff, low, high)

    assert reach([]) == 1.05
    assert reach([entry(0.5, 0.4, 1.4)]) == pytest.approx(1.05 * 1.4)
    assert reach([entry(0.5, 0.4, 9.0)]) == reach([entry(0.5, 0.4, 1e4)]) == pytest.approx(2.1)
    assert reach([entry(4.0, 3.0, 9.0)]) == pytest.approx(4.2)


def test_a_slope_through_all_that_is_searched_is_none(open_ended):
    steep = replace(open_ended.schemes[1], trend=(0.5, -3.0, 6e5))
    fit = replace(open_ended, schemes=(open_ended.schemes[0], steep))
    assert multipliers.trends(fit).rows == [(steep.scheme, "+0.500", "-3.000", "unbounded")]


def test_published_values_outside_the_interval_are_named():
    fit = fitted(noisy())
    lines = multipliers.text(View(fit)).splitlines()
    line = next(line for line in lines if line.startswith("Published values out"))
    for entry in fit.schemes[1:]:
        values = [p.value for p in laws.published.effective(entry.scheme)]
        outside = [v for v in values if not entry.low <= v <= entry.high]
        assert (f"{entry.scheme}: " in line) == bool(outside)
        assert all(f"{value:.2f} [" in line for value in outside)


def test_statuses_of_the_fit_are_explained():
    rows = quick_rows(coefficients={"a": 4.9, "b": 0.1, "c": 70.0, "d": 0.36, "e": -0.5})
    fit = fitted(rows)
    text = multipliers.text(View(fit))
    assert "bound hit: e = 0" in text
    for place in (text, multipliers.headline(fit)):
        assert "b and e trade off" in place


def test_a_lost_scheme_and_a_diverged_run_are_in_the_table():
    rows = [r for r in noisy() if r["scheme"] != "s=0.75" or r["n_params"] == SIZES[0]]
    lost = next(row for row in rows if row["scheme"] == "s=0.5")
    lost |= {"status": "diverged", "loss": ""}
    fit = fitted(rows)
    text = multipliers.text(View(fit))
    assert "unidentified: one size" in text
    assert "conditional on convergence (8 of 9)" in text
    assert "Excluded: diverged (1); unidentified: one size (3)" in page(fit)


def test_a_scheme_of_unknown_bits_has_none():
    rows = [row | {"scheme": row["scheme"].replace("s=0.5", "mystery")} for row in noisy()]
    bits = {"mystery": None}
    text = multipliers.text(View(fitted(rows)), lambda scheme: bits.get(scheme, 4.0))
    line = next(line for line in text.splitlines() if line.startswith("mystery"))
    assert " 4.00 " in text and " 4.00 " not in line


def test_a_plan_leaves_out_a_multiplier_at_a_bound_by_name(beyond):
    plans = pytest.importorskip("bitlaw.studies.plan")
    made = plans.make(beyond, Budget(flops=1e15), extrapolate=True)
    assert {name for name, _ in made.left_out} == {"s=0.5", "s=0.75"}
    with pytest.raises(ValueError, match=r"that is no bound, got 's=0.5': > 1e\+04"):
        plans.make(beyond, Budget(flops=1e15), extra=["s=0.5"], extrapolate=True)
