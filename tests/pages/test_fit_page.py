"""The page of any law, from its record alone."""

import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from bitlaw.laws import forms
from bitlaw.laws.objective import Objective
from bitlaw.laws.record import Fit, Profile, Reference, SchemeFit
from bitlaw.pages import eff_figures, fit_figures
from bitlaw.pages import fit as pages
from bitlaw.pages.view import View

T5 = {"a_s": 16.8, "b_s": 0.722, "c_s": 45.0, "b_n": 0.245, "a_d": 6.9e8, "b_d": 0.203, "c": 0.651}
SIZES, BUDGETS = np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 3e10, 3)


def record(law, params, columns, **fields):
    """A fit whose runs lie on the law, but for half a percent."""
    named = {name: np.array(column) for name, column in columns.items()}
    loss = forms.find(law).predict({k: v for k, v in named.items() if k != "scheme"}, params)
    noise = 0.005 * np.random.default_rng(0).standard_normal(len(loss))
    ids = [str(k) for k in range(len(loss))]
    table = {"run_id": tuple(ids)} | {k: tuple(v.tolist()) for k, v in named.items()}
    values = {
        "law": law, "level": 0.9, "delta": 0.01, "delta_source": "given", "rows": len(loss),
        "excluded": (), "flagged": (), "status": ("ok",), "schemes": (), "params": params,
        "intervals": {name: (value * 0.9, value * 1.1) for name, value in params.items()},
        "objective": 1e-5, "rms": 0.005, "r2": 0.99, "minimised": Objective("log", 0.01),
        "residuals": tuple(zip(ids, (-noise).tolist(), strict=True)), "starts": (1e-5, 2e-5),
        "table": table | {"loss": tuple((loss * np.exp(noise)).tolist())},
    }  # fmt: skip
    return Fit(**(values | fields))


def crossed(**columns):
    grid = np.meshgrid(*columns.values(), indexing="ij")
    return {name: axis.ravel() for name, axis in zip(columns, grid, strict=True)}


def sparse(**fields):
    columns = crossed(sparsity=[0.0, 0.5, 0.75], n_nonzero=SIZES, d_tokens=BUDGETS)
    return record("sparse", T5, columns, **fields)


def routed():
    params = {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "e_start": 1.85, "e_max": 314.5}
    columns = crossed(n_params=SIZES, experts=[1.0, 4.0, 16.0, 64.0])
    return record("routed", params, columns, minimised=Objective("log10", None))


@pytest.fixture(scope="module")
def t5():
    profile = Profile("b_n", 0.22, 0.27, (0.2, 0.22, 0.245, 0.27, 0.3), (9.0, 2.7, 0.0, 2.7, 9.0))
    other = Reference("published", "arXiv:2309.08520", T5 | {"b_s": 0.5}, 2e-5, {"m": 1.6})
    fit = sparse(
        profiles=(profile,), references=(other,), derived={"m": 1.7},
        excluded=(("x", "diverged"),), rows=37, source="t5.csv",
    )  # fmt: skip
    view = View(fit)
    return view, pages.page(view)


def test_the_page_has_every_part_and_stands_alone(t5):
    view, html = t5
    assert not re.search(r'(src|href)="(?!data:)', html)
    names = [drawn.name for drawn in pages.drawings(view)]
    assert names == ["loss", "collapse", "eff-against-bits-and-sparsity", "isoflop", "residuals",
                     "hold-outs", "profiles", "starts"]  # fmt: skip
    assert html.count("<figure>") == len(names)
    for phrase in (
        "Loss of a model pruned to sparsity S in training",
        "non-zero parameters at the end of training",
        "sum of Huber, delta = 0.01, of the residuals of log L",
        "36 fitted of 37. Excluded: diverged (1)",
        "Published numbers: arXiv:2309.08520",
        "of which 1 ended on the best objective",
        "What it predicts that it has not seen",
        "t5.csv",
    ):
        assert phrase in html
    tables = {table.name: table for table in pages.tables(view)}
    assert {"coefficients", "derived", "hold-outs", "laws-compared", "runs"} == set(tables)
    (row,) = (row for row in tables["coefficients"].rows if row[0] == "b_s")
    assert row[1] == "0.722" and row[2] == "0.6498 to 0.7942" and row[4] == "0.5"
    assert tables["derived"].rows == (("m", "1.7", "1.6"),)
    assert len(tables["runs"].rows) == 36


def test_every_cell_of_the_tables_is_on_the_page(t5):
    view, html = t5
    for table in pages.tables(view):
        if table.name != "runs":
            assert table.html in html


def test_a_law_without_data_has_what_it_can_have():
    view = View(routed())
    names = [drawn.name for drawn in pages.drawings(view)]
    assert names == ["loss", "collapse", "residuals", "hold-outs", "starts"]
    assert "rms residual 0.0050 in log10" in pages.page(view)


def test_runs_collapse_onto_one_curve():
    view = View(sparse())
    for kind in view.kinds:
        rows = view.rows(kind)
        dense = view.dense_size(view.n[rows], kind)
        on_curve = view.predict(dense, np.inf, view.base)
        expected = view.less_data(rows) / on_curve
        np.testing.assert_allclose(expected, 1, atol=0.02)  # the noise of the table
    factor = view.dense_size(SIZES, (0.75,)) / SIZES
    expected = eff_figures.nonzero_multiplier(0.75, T5)
    np.testing.assert_allclose(factor, expected, rtol=1e-3)  # the grid of dense_size


def test_published_multipliers_of_nonzeros():
    # arXiv:2309.08520's T5 law: 1.59, 2.16, 2.63
    found = eff_figures.nonzero_multiplier([0.5, 0.75, 0.875], T5)
    np.testing.assert_allclose(found, [1.59, 2.16, 2.63], atol=0.005)


@pytest.mark.parametrize(
    ("scheme", "place"),
    [("s=0.5", ("sparsity", 0.5)), ("w=quest4/channel", ("weights", 4)),
     ("w=int8/row a=int8/row", ("both", 8)), ("w=int4/row a=int8/row", None),
     ("w=quest4/channel s=0.5", None), ("dense", None), ("mystery", None),
     ("w=mxfp4", ("weights", 4))],
)  # fmt: skip
def test_schemes_are_placed_by_their_bits_or_sparsity(scheme, place):
    assert eff_figures.place(scheme) == place


def test_starts_that_agree_need_no_figure():
    assert fit_figures.starts(View(sparse(starts=(1e-5, 1e-5)))) is None


def test_tiny_studies_have_levels_of_flops():
    """Rounded to 1e9, those of a smoke test were 0, which no logarithmic scale takes."""
    params = {"a": 400.0, "b": 0.34, "c": 410.0, "d": 0.28, "e": 1.7}
    columns = crossed(n_params=[768, 3072], d_tokens=[65536, 262144])
    entries = (SchemeFit("dense", 4, 4, ("ok",), 1.0, None, None),)
    columns["scheme"] = ["dense"] * 4
    view = View(record("effective", params, columns, schemes=entries))
    (panel,) = fit_figures.isoflop(view).axes
    levels = [line.get_label() for line in panel.lines if "FLOPs" in line.get_label()]
    assert levels == ["3e08 FLOPs", "1e09 FLOPs", "5e09 FLOPs"]


def test_a_fit_that_identifies_nothing_has_a_page():
    fit = replace(sparse(), params={}, residuals=(), status=("unidentified: x",))
    html = pages.page(fit)
    assert "unidentified: x" in html and "<figure>" not in html
    (runs,) = pages.tables(View(fit))
    assert len(runs.rows) == 36 and {row[-1] for row in runs.rows} == {"-"}


def test_an_effective_law_measures_compositions():
    params = {"a": 400.0, "b": 0.34, "c": 410.0, "d": 0.28, "e": 1.7}
    effs = {"dense": 1.0, "w=int4/row": 0.9, "s=0.5": 0.8, "w=int4/row s=0.5": 0.75}
    entries = tuple(SchemeFit(s, 9, 9, ("ok",), eff, 0.9 * eff, 1.1 * eff)
                    for s, eff in effs.items())  # fmt: skip
    columns = crossed(n_params=SIZES, d_tokens=BUDGETS)
    fit = record("effective", params, columns, schemes=entries)
    (row,) = pages.multipliers.products(fit).rows
    assert row[:4] == ("w=int4/row s=0.5", "0.750", "0.720", f"{np.log(0.75 / 0.72):+.3f}")


def test_a_coefficient_at_a_bound_of_its_search_is_no_number():
    status = {"b_d": ("bound hit: > 5",), "c": ("bound hit: 0",)}
    params, intervals = T5 | {"b_d": 5.0, "c": 0.0}, {"b_d": (0.2, 5.0), "c": (0.0, 0.5)}
    fit = replace(sparse(), params=params, intervals=intervals, param_status=status)
    rows = {row[0]: row for row in pages.coefficients(fit).rows}
    assert rows["b_d"][1:3] == ("> 5", "0.2 to unbounded")
    assert rows["c"][1:3] == ("0, a bound", "0 to 0.5")


def test_a_profile_shades_up_to_the_edge_where_it_is_open_and_needs_two_values():
    values, excess = (0.2, 0.22, 0.245, 0.27, 0.3), (9.0, 2.7, 0.0, 1.0, 1.5)
    still = Profile("c", 0.0, None, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    fit = sparse(profiles=(Profile("b_n", 0.22, None, values, excess), still))
    panel, *others = fit_figures.profiles(View(fit)).axes
    assert not any(other.get_visible() for other in others)
    (shade,) = panel.patches
    assert shade.get_x() == 0.22
    assert shade.get_x() + shade.get_width() == pytest.approx(panel.get_xlim()[1])
