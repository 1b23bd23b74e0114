"""Ends of the intervals of coefficients: of the runs, or open where they are the search's."""

import json
from typing import Annotated

import numpy as np
import pytest

from bitlaw import laws
from bitlaw.commands.fit import text
from bitlaw.laws import Table, ends, estimate
from bitlaw.laws.interval import Resamples
from bitlaw.laws.law import Exponent, Law, Offset, Range, amplitude
from laws.synthetic import COEFFICIENTS, quick_rows


def test_a_resample_on_a_bound_pushes_its_coefficient_and_what_runs_along_with_it():
    z = np.array([[1.0, 0.5], [0.0, 0.5], [1.0, 2.0], [1.0, 0.01], [9.0, 0.01]])
    bounds = np.array([-np.inf, 0.01]), np.array([9.0, 2.0])
    down, up = ends.pushed(z, bounds, 1).astype(int).tolist()
    assert (down, up) == ([0, 0, 0, 1, 1], [0, 0, 1, 0, 0])
    down, up = ends.pushed(z, bounds, 0).astype(int).tolist()
    assert (down, up) == ([0, 0, 0, 0, 0], [0, 0, 0, 0, 1])
    down, up = ends.pushed(z, bounds, 0, [(1, 11.5)]).astype(int).tolist()
    assert (down, up) == ([0, 0, 0, 1, 1], [0, 0, 1, 0, 1])  # the last is pulled both ways
    down, up = ends.pushed(z, bounds, 0, [(1, -np.ones(5))]).astype(int).tolist()
    assert (down, up) == ([0, 0, 1, 0, 0], [0, 0, 0, 1, 1])


@pytest.mark.parametrize("widening", [1.0, 1.2])
def test_an_end_is_open_where_more_resamples_than_its_tail_were_pushed(widening):
    drawn = np.linspace(1.0, 2.0, 101)
    draws = Resamples(drawn, drawn, drawn, "", None, widening)
    push = np.zeros((2, 101), bool)
    low, high = ends.interval(draws, 1.5, drawn, push, 0.9, 0.0)
    logs = np.log(1.5) + widening * (np.log([1.05, 1.95]) - np.log(1.5))
    assert (low, high) == pytest.approx(np.exp(logs))
    push[1, :5] = True  # wherever they are: free, they would go up
    assert ends.interval(draws, 1.5, drawn, push, 0.9, 0.0) == (low, high)
    push[1, 5] = True
    assert ends.interval(draws, 1.5, drawn, push, 0.9, 0.0) == (low, None)
    assert ends.interval(draws, 1.5, drawn, push[::-1], 0.9, 0.0) == (None, high)
    assert ends.interval(draws, 1.5, np.full(101, np.nan), push, 0.9, 0.0) == (None, None)


def test_one_draw_of_zero_moves_no_other_end():
    drawn = np.exp(np.random.default_rng(0).normal(7, 1, 1000))
    draws = Resamples(drawn, drawn, drawn, "", None, 1.2)
    push = np.zeros((2, 1000), bool)
    free = ends.interval(draws, 1000.0, drawn, push, 0.9, 0.0)
    drawn[0] = 0.0
    assert ends.interval(draws, 1000.0, drawn, push, 0.9, 0.0) == pytest.approx(free, rel=0.05)


@pytest.fixture(scope="module")
def steep():
    """A table whose b lies beyond its bound, and so does the a of a / N^b."""
    rows = quick_rows(coefficients=COEFFICIENTS | {"a": 1e9, "b": 2.4})
    return laws.fit(laws.Runs.from_rows(rows), resamples=20)


def test_a_coefficient_in_units_of_columns_is_open_where_its_exponent_is(steep):
    assert steep.intervals["b"][1] is None and steep.intervals["a"][1] is None
    assert None not in steep.intervals["d"] + steep.intervals["c"]
    record = json.loads(json.dumps(steep.to_dict(), allow_nan=False))
    assert record["intervals"]["a"][1] is None
    assert laws.Fit.from_dict(record) == steep


def test_terminal_and_page_say_unbounded_of_it(steep):
    pages = pytest.importorskip("bitlaw.pages.fit")
    lines = {line.split()[0]: line for line in text(steep).splitlines() if line.strip()}
    rows = {row[0]: row for row in pages.coefficients(steep).rows}
    for name in "ab":
        assert "unbounded" in lines[name] and rows[name][2].endswith("unbounded")
    words = pages.multipliers.sensitivity(steep)
    assert "b > 2 fits best" in words and " to unbounded (90%)" in words


NARROW = Range(0.01, 0.2, (0.02, 0.1), log=True, scale=(("n_params", 1.0),))


def table(loss):
    n = np.geomspace(1e6, 1e8, 24)
    return Table.of({"n_params": n, "loss": loss(n / 1e7)})


def fitted(form, loss):
    return estimate.fit_table(table(loss), Law.of(form), None, None, 0.9, 40, 0, {})


def test_a_scaled_coefficient_on_its_own_bound_is_open():
    def falling(n_params, *, a: Annotated[float, NARROW], e: Offset):
        return e + a / n_params

    fit = fitted(falling, lambda n: 2.0 + 0.5 / n)
    assert fit.param_status["a"][0].startswith("bound hit: > ")
    assert fit.intervals["a"][1] is None and None not in fit.intervals["e"]


def test_a_scaled_amplitude_is_open_where_the_power_of_its_column_is():
    def power(
        n_params, *, a: Annotated[float, amplitude(n_params="alpha")], alpha: Exponent, e: Offset
    ):
        return e + a * n_params**-alpha

    fit = fitted(power, lambda n: 2.0 + np.where(n < 0.11, 1e-3 / n, 0.0))
    assert fit.param_status["alpha"][0] == "bound hit: > 5"
    assert fit.intervals["alpha"][1] is None and fit.intervals["a"][1] is None
    assert None not in fit.intervals["e"]
