"""Every law is its formula, knows its units, and is found again from a table drawn from it."""

import inspect
import math
from typing import Annotated

import numpy as np
import pytest

from bitlaw import laws
from bitlaw.laws import forms
from bitlaw.laws.law import Exponent, Law, Offset, amplitude
from laws.drawn import DESIGNS, REPLICATION, SPARSE, drawn


@pytest.mark.parametrize("name", forms.LAWS)
def test_every_argument_has_a_unit_and_every_law_a_source(name):
    law, text = forms.LAWS[name], inspect.getdoc(forms.LAWS[name].form)
    assert "Source: arXiv:" in text
    for coefficient in law.coefficients:
        assert coefficient.about, f"{name}: {coefficient.name}"
    for column in law.columns:
        assert f"    {column}: " in text


# The formulas once more, written out in plain numbers.
WRITTEN = [
    ("chinchilla", (70e9, 1.4e12), 1.8169 + 482.01 / 70e9**0.3478 + 2085.43 / 1.4e12**0.3659),
    (
        "sparse",
        (0.75, 3e8, 4e10),
        (16.8 * 0.25**0.722 + 45.0) / 3e8**0.245 + (6.90e8 / 4e10) ** 0.203 + 0.651,
    ),
    (
        "precision",
        (1e8, 1e10, 4, 8, math.inf),
        4299 / (1e8 * (1 - math.exp(-4 / 2.6745)) * (1 - math.exp(-8 / 2.2102))) ** 0.4965
        + 18060 / 1e10**0.4965
        + 2.7648,
    ),
    (
        "qat",
        (1e8, 1e10, 128),
        1.8169
        + 482.01 / 1e8**0.3478
        + 2085.43 / 1e10**0.3659
        + 0.1582 * 1e10**0.0745 * 7**0.7779 / 1e8**0.2186,
    ),
    (
        "capacity",
        (1e8, 1e10, 1 / 16),  # log_(1/4) of 1/16 is 2
        1.8169 + 482.01 / (1e8 * math.tanh(1.6) ** 1.3) ** 0.3478 + 2085.43 / 1e10**0.3659,
    ),
]


@pytest.mark.parametrize(("name", "columns", "loss"), WRITTEN)
def test_a_law_equals_its_formula_written_out(name, columns, loss):
    assert forms.LAWS[name].form(*columns, **DESIGNS[name][1]) == pytest.approx(loss, rel=1e-12)


def test_the_routed_law_is_dense_at_one_expert_and_saturates():
    params = DESIGNS["routed"][1]
    n = 1e8
    # E^ = E_start at E = 1, E_max at E = infinity
    for experts, e in ((1, 1.847), (1e15, 314.5)):
        log = -0.082 * 8 - 0.108 * math.log10(e) + 0.009 * 8 * math.log10(e) + 1.104
        assert forms.routed(n, experts, **params) == pytest.approx(10**log, rel=1e-9)


def test_what_is_not_quantized_is_the_dense_law():
    dense = forms.chinchilla(1e8, 1e10, **REPLICATION)
    extra = {"gamma_w": 2.0, "gamma_a": 2.0, "gamma_kv": 1.0}
    assert forms.precision(1e8, 1e10, **REPLICATION, **extra) == pytest.approx(dense)
    error = {"k": 0.2, "g_n": 0.2, "g_d": 0.1, "g_g": 0.8}
    assert forms.qat(1e8, 1e10, **REPLICATION, **error) == pytest.approx(dense)
    assert forms.capacity(1e8, 1e10, 0.0, **REPLICATION, f=0.8, k=1.3) == pytest.approx(dense)


@pytest.mark.parametrize("name", DESIGNS)
def test_published_coefficients_are_found_again_in_a_table_drawn_from_them(name):
    fit = laws.fit(drawn(name), name, resamples=20, delta=1e-3)
    assert fit.status == ("ok",)
    # 1e-7: half of the digits of f64, as the objective is quadratic at its minimum
    assert fit.params == pytest.approx(DESIGNS[name][1], rel=1e-7)
    assert all(status == ("ok",) for status in fit.param_status.values())


def mine(
    n_params, d_tokens, *, a: Annotated[float, amplitude(n_params="b")], b: Exponent, e: Offset
):
    """Somebody's own law.

    Args:
        a: nats * parameters^b.
    """
    return a * n_params**-b + e + 0 * d_tokens


def only_floats(n_params, *, slope, level):
    return level + slope * np.log(n_params)


def test_a_users_law_is_one_function():
    law = forms.find(f"{__name__}:mine")
    assert law.columns == ("n_params", "d_tokens") and law.names == ("a", "b", "e")
    assert law.coefficients[0].about == "nats * parameters^b."
    axes = drawn("chinchilla").columns
    loss = mine(axes["n_params"], axes["d_tokens"], a=300.0, b=0.3, e=1.5)
    fit = laws.fit(laws.Table.of({**axes, "loss": loss}), f"{__name__}:mine", resamples=20)
    assert fit.params == pytest.approx({"a": 300.0, "b": 0.3, "e": 1.5}, rel=1e-7)
    assert fit.predict(1e8, 1e10) == pytest.approx(mine(1e8, 1e10, a=300.0, b=0.3, e=1.5))


def test_plain_floats_are_real_numbers_searched_by_lbfgs():
    n = np.geomspace(1e6, 1e9, 12)
    table = laws.Table.of({"n_params": n, "loss": 4.0 - 0.1 * np.log(n)})
    fit = laws.fit(table, f"{__name__}:only_floats", resamples=20)
    assert fit.params == pytest.approx({"slope": -0.1, "level": 4.0}, rel=1e-6)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda n_params: n_params, "must have columns before a star and coefficients after it"),
        (lambda *n, a: a, "must name its arguments"),
    ],
)
def test_a_function_that_is_no_law_is_refused(form, message):
    with pytest.raises(ValueError, match=message):
        Law.of(form)


def wrongly_linear(n_params, *, a: Offset, b: Offset):
    return a * b + 0 * n_params


def test_a_law_that_is_not_linear_where_it_says_so_is_refused():
    table = laws.Table.of({"n_params": np.arange(1.0, 9.0), "loss": np.linspace(1, 2, 8)})
    with pytest.raises(ValueError, match=r"must be linear in \['a', 'b'\]"):
        laws.fit(table, f"{__name__}:wrongly_linear", resamples=20)


@pytest.mark.parametrize(
    "name", ["chinchillo", "nowhere:law", "math:nothing", "math:pi", "laws.drawn:"]
)
def test_an_unknown_law_is_named(name):
    with pytest.raises(ValueError, match=f"got {name!r}"):
        forms.find(name)


def test_held_coefficients_are_not_fitted():
    table = drawn("sparse", np.random.default_rng(0), 0.003)
    fit = laws.fit(table, "sparse", resamples=20, hold={"b_n": 0.245, "c": 0.651})
    assert fit.params["b_n"] == 0.245 and fit.param_status["c"] == ("held at 0.651",)
    assert "c" not in fit.intervals
    assert fit.params["b_s"] == pytest.approx(SPARSE["b_s"], rel=0.1)
    with pytest.raises(ValueError, match="hold must be some of"):
        laws.fit(table, "sparse", resamples=20, hold={"z": 1.0})
