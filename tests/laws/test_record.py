"""One record for every law: it survives JSON, and predicts what its law does."""

import json

import pytest

from bitlaw import laws
from bitlaw.laws import forms
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


def test_a_scheme_is_predicted_by_its_multiplier():
    assert effective().predict(1e5, 1e7, "s=0.5") == pytest.approx(
        forms.effective(1e5, 1e7, 0.75, **COEFFICIENTS), rel=1e-4
    )
    with pytest.raises(ValueError, match="columns must be"):
        effective().predict(1e5)


@pytest.mark.parametrize(
    ("name", "status", "want"),
    [
        ("b", ("bound hit: b > 2", "flat valley: b"), "> 2"),
        ("eff", ("conditional", "bound hit: eff < 0.0001"), "< 0.0001"),
        ("e", ("bound hit: e = 0",), "0"),
        ("e", ("bound hit: 0",), "0"),
        ("eff_n[s=0.5]", ("bound hit: > 10000",), "> 10000"),
        ("a", ("bound hit: b > 2",), None),  # a goes with b, but has no bound itself
        ("b", ("ok",), None),
    ],
)
def test_what_a_status_says_of_a_number_at_a_bound(name, status, want):
    assert at_bound(name, status) == want
