"""One record for every law: it survives JSON, and predicts what its law does."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from bitlaw import laws
from bitlaw.laws import forms
from bitlaw.laws.options import Described, options
from bitlaw.laws.record import at_bound
from laws.synthetic import COEFFICIENTS, quick_rows


def effective():
    return laws.fit(laws.Runs.from_rows(quick_rows()), resamples=20)


def test_the_record_holds_the_runs_as_fitted():
    fit = effective()
    assert set(fit.table) == {"run_id", "scheme", "n_params", "d_tokens", "seed", "loss"}
    assert len(fit.table["loss"]) == len(fit.residuals)
    value = fit.minimised.value(
        fit.table["loss"],
        [
            float(fit.predict(n, d, scheme))
            for n, d, scheme in zip(
                *(fit.table[k] for k in ("n_params", "d_tokens", "scheme")), strict=True
            )
        ],
    )
    assert value == pytest.approx(fit.objective, abs=1e-15)  # both are zero but for rounding


def test_a_record_written_before_it_grew_still_loads():
    record = effective().to_dict()
    for name in ("minimised", "starts", "param_status", "profiles", "table", "derived", "source"):
        del record[name]
    fit = laws.Fit.from_dict(json.loads(json.dumps(record)))
    assert fit.table == {} and fit.params == pytest.approx(COEFFICIENTS, rel=1e-3)
    del record["params"]
    with pytest.raises(ValueError, match="fit must have a field 'params'"):
        laws.Fit.from_dict(record)


def test_a_field_of_another_kind_is_named():
    record = effective().to_dict()
    for name, bad in (("level", "x"), ("excluded", None), ("intervals", []), ("law", 3)):
        with pytest.raises(ValueError, match=f"^{name} must be of type "):
            laws.Fit.from_dict(record | {name: bad})


def test_a_scheme_is_predicted_by_its_multiplier():
    assert effective().predict(1e5, 1e7, "s=0.5") == pytest.approx(
        forms.effective(1e5, 1e7, 0.75, **COEFFICIENTS), rel=1e-4
    )
    with pytest.raises(ValueError, match="columns must be"):
        effective().predict(1e5)


def test_a_scheme_whose_multiplier_is_a_bound_is_not_predicted():
    fit = effective()
    at_bound = replace(fit.schemes[1], status=("bound hit: eff > 1e+04",))
    fit = replace(fit, schemes=(fit.schemes[0], at_bound, *fit.schemes[2:]))
    message = f"multiplier that is no bound, got {at_bound.scheme!r}: > 1e+04"
    with pytest.raises(ValueError, match=re.escape(message)):
        fit.predict(1e5, 1e7, at_bound.scheme)
    assert np.isfinite([fit.predict(1e5, 1e7, other.scheme) for other in fit.schemes[2:]]).all()


def test_a_scheme_with_a_coefficient_at_a_bound_is_neither_predicted_nor_planned_with():
    columns = {"n_params": (1e6, 1e8), "d_tokens": (1e8, 1e9), "scheme": ("s=0.5", "s=0.9")}
    params = {"a": 1e3, "alpha": 0.6, "b": 1e3, "beta": 0.5, "gamma": 0.3, "e": 1.0}
    params |= {f"{name}[{s}]": 0.5 for s in columns["scheme"] for name in ("eff_n", "eff_d")}
    fit = replace(effective(), law="gamma", schemes=(), params=params, table=columns, draws={})
    fit = replace(fit, param_status={"eff_d[s=0.5]": ("bound hit: < 0.0001",)})
    with pytest.raises(ValueError, match=r"no bound, got 's=0.5': eff_d < 0.0001"):
        fit.predict(1e5, 1e7, "s=0.5")
    assert np.isfinite(fit.predict(1e5, 1e7, "s=0.9"))
    found = options(fit, lambda scheme: Described(16.0), None)
    assert [option.scheme for option in found] == ["s=0.9"]
    with pytest.raises(ValueError, match=r"no bound, got 's=0.5': eff_d"):
        options(fit, lambda scheme: Described(16.0), None, ["s=0.5"])


@pytest.mark.parametrize(
    ("name", "status", "want"),
    [
        ("b", ("bound hit: b > 2", "flat valley: b"), "> 2"),
        ("eff", ("conditional", "bound hit: eff < 0.0001"), "< 0.0001"),
        ("eff", ("bound hit: eff any (neither dense ...)",), "any"),
        ("e", ("bound hit: e = 0",), "0, a bound"),
        ("e", ("bound hit: 0",), "0, a bound"),
        ("b", ("bound hit: b = 2",), "2, a bound"),  # of an older version, as the next
        ("b_d", ("bound hit: 0.01",), "0.01, a bound"),
        ("eff_n[s=0.5]", ("bound hit: > 10000",), "> 10000"),
        ("a", ("bound hit: b > 2",), None),  # a goes with b, but has no bound itself
        ("b", ("ok",), None),
    ],
)
def test_what_a_status_says_of_a_number_at_a_bound(name, status, want):
    assert at_bound(name, status) == want
