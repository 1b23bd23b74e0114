"""The options that a fit leaves, and plans made from them, against brute force."""

import numpy as np
import pytest

from bitlaw.laws import capacity, forms, options
from bitlaw.laws.objective import Objective
from bitlaw.laws.options import Described
from bitlaw.laws.plan import Budget, best_plans, optimum
from bitlaw.laws.record import Fit, SchemeFit

T5 = {"a_s": 16.8, "b_s": 0.722, "c_s": 45.0, "b_n": 0.245, "a_d": 6.9e8, "b_d": 0.203, "c": 0.651}
LAW = {"a": 400.0, "b": 0.34, "c": 410.0, "d": 0.28, "e": 1.7}
EFFS = {"dense": 1.0, "w=4": 0.9, "w=2": 0.45, "s=0.5": 0.8, "s=0.75": 0.55}


def describe(scheme):
    parts = dict(part.split("=") for part in capacity.parts(scheme))
    sparsity = float(parts.get("s", 0))
    bits = float(parts.get("w", 16))
    return Described((1 - sparsity) * bits + (1.0 if sparsity else 0.0), sparsity)


def gmse(part):
    kind, _, value = part.partition("=")
    if kind == "s":
        return capacity.pruning_gmse(float(value))
    return capacity.grid_gmse(np.arange(2 ** int(value)) - 0.5 * (2 ** int(value) - 1))


def record(law, params, table, schemes=(), draws=None):
    return Fit(
        law=law, level=0.9, delta=0.01, delta_source="given", rows=4, excluded=(), flagged=(),
        status=("ok",), schemes=tuple(schemes), params=params, intervals={},
        minimised=Objective("log", 0.01), draws=draws or {}, table=table,
    )  # fmt: skip


def effective(draws=0):
    rng = np.random.default_rng(0)
    table = {"n_params": (1e7, 1e9), "d_tokens": (1e9, 1e11), "scheme": ("dense", "w=4")}
    entries = [SchemeFit(s, 4, 4, ("ok",), eff) for s, eff in EFFS.items()]
    drawn = {k: tuple(v * np.exp(0.01 * rng.standard_normal(draws))) for k, v in LAW.items()}
    drawn |= {f"eff[{s}]": tuple(eff * np.exp(0.02 * rng.standard_normal(draws)))
              for s, eff in EFFS.items() if s != "dense"}  # fmt: skip
    return record("effective", LAW, table, entries, drawn if draws else None)


def sparse():
    table = {"sparsity": (0.0, 0.5, 0.75), "n_nonzero": (1e7, 1e8, 1e9), "d_tokens": (1e9,) * 3}
    return record("sparse", T5, table)


def test_options_of_schemes_are_their_multipliers():
    found = options.options(effective(), describe, gmse)
    assert [option.scheme for option in found] == list(EFFS)
    for option in found:
        loss = forms.effective(1e8, 1e10, EFFS[option.scheme], **LAW)
        assert option.loss(1e8, 1e10) == pytest.approx(loss)
        assert option.predicted == ""
    assert found[1].cost.bits == 4.0 and found[3].cost.training < 6


def test_resamples_are_joint_over_all_coefficients():
    fit = effective(draws=30)
    for option in options.options(fit, describe, gmse):
        assert option.rows == 31
        k = 7
        params = {name: fit.draws[name][k] for name in LAW}
        eff = 1.0 if option.scheme == "dense" else fit.draws[f"eff[{option.scheme}]"][k]
        assert option.loss(1e8, 1e10)[1 + k] == forms.effective(1e8, 1e10, eff, **params)


def test_a_scheme_never_trained_is_predicted_and_marked():
    found = options.options(effective(draws=10), describe, gmse, ["w=3", "w=4 s=0.5", "w=4"])
    by_name = {option.scheme: option for option in found}
    assert len(found) == len(EFFS) + 2  # w=4 was measured
    product = by_name["w=4 s=0.5"]
    np.testing.assert_allclose(
        product.coefficients["eff"],
        by_name["w=4"].coefficients["eff"] * by_name["s=0.5"].coefficients["eff"],
    )
    assert product.predicted and by_name["w=3"].predicted
    assert 0.45 < by_name["w=3"].coefficients["eff"][0] < 0.9
    assert product.cost.bits == 3.0


def test_the_best_sparsity_equals_brute_force():
    for budget in (
        Budget(flops=1e21),
        Budget(flops=1e21, memory=2e9),
        Budget(memory=5e7, tokens=1e11),
    ):
        best = options.best_sparsity(sparse(), budget, describe)
        found = float(best.loss(*(x[0] for x in optimum(best, budget)))[0])
        losses = []
        for s in np.linspace(0, 0.99, 200):
            option = options.sparse_option(sparse(), s, describe, "skipped")
            n, d = optimum(option, budget)
            losses.append(float(option.loss(n[0], d[0])[0]))
        assert found <= min(losses) + 1e-9  # s is rounded to 4 digits
        assert min(losses) - found < 1e-3


def test_a_sparse_law_costs_its_zeros_in_memory_alone():
    (plan,) = best_plans(
        [options.sparse_option(sparse(), 0.75, describe, "skipped")],
        Budget(memory=1e9, tokens=1e11),
        options.trained_range(sparse()),
    )
    # 4 weights for each non-zero, at .25 * 16 + 1 bits
    assert plan.memory == pytest.approx(plan.n_params * 4 * 5 / 8)
    assert plan.inference == pytest.approx(2 * plan.n_params)


def test_sparsities_that_were_not_trained_are_marked():
    found = options.options(sparse(), describe, gmse, ["s=0.6", "s=0.9"])
    assert [option.scheme for option in found] == ["dense", "s=0.5", "s=0.75", "s=0.6", "s=0.9"]
    assert [option.predicted for option in found] == [
        "", "", "", "sparsity interpolated by the law", "sparsity extrapolated by the law"
    ]  # fmt: skip


def test_gamma_and_chinchilla_have_options():
    params = {"a": 4.0, "alpha": 0.3, "b": 4.0, "beta": 0.3, "gamma": 0.5, "e": 1.0,
              "eff_n[w=4]": 0.65, "eff_d[w=4]": 0.95}  # fmt: skip
    table = {"n_params": (1e7, 1e9), "d_tokens": (1e9, 1e11)}
    fit = record("gamma", params, table | {"scheme": ("dense", "w=4")})
    dense, four = options.options(fit, describe, gmse)
    assert four.loss(1e8, 1e10) == pytest.approx(dense.loss(0.65e8, 0.95e10))
    chinchilla = {"a": 406.4, "alpha": 0.34, "b": 410.7, "beta": 0.28, "e": 1.69}
    (only,) = options.options(record("chinchilla", chinchilla, table), describe, gmse)
    assert only.scheme == "dense"


@pytest.mark.parametrize(
    ("fit", "extra", "message"),
    [
        (record("routed", {"a": 1.0}, {}), [], "law of the fit must be one of .*'routed'"),
        (record("effective", {}, {}), [], "fit must have identified the law"),
        (sparse(), ["w=4"], r"schemes must be s=\.\.\. with the law sparse, got 'w=4'"),
        (effective(), ["a=4"], r"\(a=\.\.\.\), got 'a=4' and none"),
    ],
)
def test_what_cannot_be_planned_with_is_refused(fit, extra, message):
    with pytest.raises(ValueError, match=message):
        options.options(fit, describe, gmse, extra)


def test_a_record_without_its_runs_has_no_range():
    with pytest.raises(ValueError, match="fit must hold the table of its runs"):
        options.trained_range(record("effective", LAW, {}))
