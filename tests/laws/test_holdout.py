"""Hold-outs of tables drawn from known laws."""

from dataclasses import replace

import numpy as np
import pytest

from bitlaw import laws
from bitlaw.laws import forms, holdout
from bitlaw.laws.objective import Objective
from bitlaw.laws.record import Fit, SchemeFit
from laws.synthetic import quick_rows

CHINCHILLA = {"a": 406.4, "alpha": 0.34, "b": 410.7, "beta": 0.28, "e": 1.69}
T5 = {"a_s": 16.8, "b_s": 0.722, "c_s": 45.0, "b_n": 0.245, "a_d": 6.9e8, "b_d": 0.203, "c": 0.651}
SIZES, BUDGETS = np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 6.4e10, 4)


def record(law, params, columns, loss, schemes=()):
    """A fit of this table, as far as hold-outs look at it."""
    ids = tuple(str(k) for k in range(len(loss)))
    table = {"run_id": ids} | {k: tuple(v) for k, v in columns.items()} | {"loss": tuple(loss)}
    return Fit(
        law=law, level=0.9, delta=0.01, delta_source="given", rows=len(loss), excluded=(),
        flagged=(), status=("ok",), schemes=tuple(schemes), params=params, intervals={},
        minimised=Objective("log", 0.01), table=table,
    )  # fmt: skip


def chinchilla(sd=0.0, seed=0, sizes=SIZES):
    n, d = (x.ravel() for x in np.meshgrid(sizes, BUDGETS))
    loss = forms.chinchilla(n, d, **CHINCHILLA)
    loss = loss * np.exp(sd * np.random.default_rng(seed).standard_normal(len(n)))
    return record("chinchilla", CHINCHILLA, {"n_params": n, "d_tokens": d}, loss)


def sparse(sd=0.0, seed=0):
    s, n, d = (x.ravel() for x in np.meshgrid([0.0, 0.5, 0.75], SIZES, BUDGETS))
    loss = forms.sparse(s, n, d, **T5)
    loss = loss * np.exp(sd * np.random.default_rng(seed).standard_normal(len(n)))
    return record("sparse", T5, {"sparsity": s, "n_nonzero": n, "d_tokens": d}, loss)


@pytest.mark.parametrize("fit", [chinchilla(), sparse()], ids=["chinchilla", "sparse"])
def test_an_exact_table_is_predicted_exactly(fit):
    by_size, by_data = holdout.hold_outs(fit, resamples=0)
    for entry, column in ((by_size, "n"), (by_data, "d_tokens")):
        assert entry.column.startswith(column) and entry.rms < 1e-5
        largest = max(fit.table[entry.column])
        ids = [i for i, x in zip(fit.table["run_id"], fit.table[entry.column], strict=True)
               if x == largest]  # fmt: skip
        assert [row[0] for row in entry.rows] == ids and entry.value == pytest.approx(largest)


def test_predictive_intervals_cover_at_their_level():
    inside = total = 0
    for seed in range(20):  # many sizes: most of the interval is the noise of the run itself
        fit = chinchilla(0.01, seed, np.geomspace(1e7, 1e9, 12))
        for entry in holdout.hold_outs(fit, resamples=100, seed=seed):
            inside, total = inside + entry.covered, total + len(entry.rows)
    assert total == 20 * (4 + 12)
    # 90 % of 320, of which the runs of one table share a fit: 3 standard errors of 20 tables
    assert 0.82 <= inside / total <= 0.97


def test_intervals_widen_with_what_is_not_known():
    noisy = holdout.hold_outs(chinchilla(0.01), resamples=200)
    noise_alone = holdout.hold_outs(chinchilla(0.01), resamples=0)
    for wide, narrow in zip(noisy, noise_alone, strict=True):
        assert sum(r[4] - r[3] for r in wide.rows) > sum(r[4] - r[3] for r in narrow.rows)
        assert all(low < high for *_, low, high in wide.rows)


def test_two_remaining_sizes_hold_the_exponent():
    by_size, by_data = holdout.hold_outs(chinchilla(0.005, sizes=SIZES[:3]), resamples=20)
    assert by_size.note == "alpha held at the value of the whole fit"
    assert by_data.note == "all coefficients free"


def test_two_sizes_are_too_few():
    columns = [entry.column for entry in holdout.hold_outs(chinchilla(sizes=SIZES[:2]))]
    assert columns == ["d_tokens"]


def test_a_continuous_column_holds_out_its_largest_tenth():
    n = np.geomspace(1e7, 1e9, 50)
    d = n * np.geomspace(5, 80, 50)[np.random.default_rng(0).permutation(50)]
    loss = forms.chinchilla(n, d, **CHINCHILLA)
    fit = record("chinchilla", CHINCHILLA, {"n_params": n, "d_tokens": d}, loss)
    by_size, by_data = holdout.hold_outs(fit, resamples=0)
    assert len(by_size.rows) == len(by_data.rows) == 5


def test_the_law_of_the_table_predicts_best():
    found = holdout.compare(sparse(0.002), ["sparse", "chinchilla", "effective"])
    for entries in found.values():
        errors = {entry.law: entry.rms for entry in entries}
        assert set(errors) == {"sparse", "chinchilla", "effective"}
        assert list(errors.values()) == sorted(errors.values())
        # one multiplier for each sparsity is the same law; none at all is not
        assert max(errors["sparse"], errors["effective"]) < errors["chinchilla"] / 3


def test_laws_without_their_columns_are_not_compared():
    assert holdout.compare(chinchilla(0.01)) == {}  # no compression, no other law


def test_the_effective_law_is_held_out_with_its_schemes():
    effs = {"dense": 1.0, "s=0.5": 0.8}
    rows = [(scheme, n, d) for scheme in effs for n in SIZES for d in BUDGETS]
    scheme, n, d = (np.array(column) for column in zip(*rows, strict=True))
    p = {"a": 400.0, "b": 0.34, "c": 410.0, "d": 0.28, "e": 1.7}
    loss = forms.effective(n, d, np.array([effs[s] for s in scheme]), **p)
    entries = [SchemeFit(s, 20, 20, ("ok",), eff) for s, eff in effs.items()]
    table = {"n_params": n, "d_tokens": d, "scheme": scheme.tolist()}
    fit = record("effective", p, table, loss, entries)
    for entry in holdout.hold_outs(fit, resamples=0):
        assert entry.rms < 1e-5 and len(entry.rows) == (8 if entry.column == "n_params" else 10)


def test_a_fitted_study_is_predicted_exactly_where_it_has_no_noise():
    fit = laws.fit(laws.Runs.from_rows(quick_rows()), resamples=20)
    by_size, by_data = holdout.hold_outs(fit, resamples=0)
    assert by_size.value == 36864 and len(by_size.rows) == 21 and by_size.rms < 1e-6
    assert by_size.note == "b held at the value of the whole fit"
    assert by_data.rms < 1e-6


def test_a_scheme_of_the_largest_size_alone_is_not_predicted():
    rows = quick_rows(sizes=(6144, 13824, 36864, 57600))
    rows = [r for r in rows if r["scheme"] != "s=0.5" or r["n_params"] >= 36864]
    fit = laws.fit(laws.Runs.from_rows(rows), resamples=20)
    by_size, _ = holdout.hold_outs(fit, resamples=0)
    assert by_size.rms < 1e-5 and len(by_size.rows) == 21
    cells = zip(fit.table["scheme"], fit.table["n_params"], strict=True)
    keep = [k for k, (s, n) in enumerate(cells) if s != "s=0.5" or n == 57600]
    table = {name: tuple(column[k] for k in keep) for name, column in fit.table.items()}
    by_size, _ = holdout.hold_outs(replace(fit, table=table), resamples=0)
    assert by_size.rms < 1e-5 and len(by_size.rows) == 18  # three budgets less


def test_a_fit_without_numbers_has_none():
    assert holdout.hold_outs(record("chinchilla", {}, {}, [])) == ()
