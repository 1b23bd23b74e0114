"""The record of a fit: its numbers, and every status that a table can earn."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bitlaw import laws
from bitlaw.laws import Runs, diagnose, holdout, interval, solve
from bitlaw.laws.interval import Resamples
from bitlaw.laws.schemes import _ranks
from laws.synthetic import BUDGETS, COEFFICIENTS, EFFS, SIZES, add_noise, quick_rows


def fitted(rows, resamples=20, **options):
    return laws.fit(laws.Runs.from_rows(rows), resamples=resamples, **options)


def test_an_exact_table_gives_its_law_back():
    fit = fitted(quick_rows())
    for name, value in COEFFICIENTS.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-4)  # a and c amplify b and d
    for scheme, eff in EFFS.items():
        assert fit.scheme(scheme).eff == pytest.approx(eff, rel=1e-5)
    assert fit.status == ("ok",)
    assert fit.predict(6144, 2**20, "s=0.5") == pytest.approx(
        laws.forms.effective(6144, 2**20, 0.75, **COEFFICIENTS), rel=1e-6
    )


def test_every_number_has_a_status_and_intervals_hold_their_estimate():
    fit = fitted(add_noise(quick_rows(), np.random.default_rng(0), 0.008, 0.5))
    for entry in fit.schemes:
        assert entry.status == ("ok",)
        if entry.scheme != "dense":
            assert entry.low < entry.eff < entry.high
            half = np.log(entry.high / entry.low) / 2
            assert entry.mdd == pytest.approx(np.expm1(half * (1.6449 + 0.8416) / 1.6449), rel=1e-3)
            slope, low, high = entry.trend
            assert low < slope < high


def test_ranks_differ_only_where_paired_differences_are_above_zero():
    rng = np.random.default_rng(0)
    log_eff = np.array([0.0, -0.3, -0.4, -0.4001])
    shared = 0.5 * rng.standard_normal((400, 1))  # wider than any difference: marginals overlap
    drawn = log_eff + shared + 0.01 * rng.standard_normal((400, 4))
    draws = Resamples(drawn, drawn, drawn, "", None)
    assert _ranks(log_eff, drawn, draws, 0.9) == [1, 1, 2, 2]
    wider = Resamples(drawn, drawn, drawn, "", None, widening=10.0)
    assert _ranks(log_eff, drawn, wider, 0.9) == [1, 1, 1, 1]
    unpaired = log_eff + 0.5 * rng.standard_normal((400, 4))
    assert _ranks(log_eff, unpaired, draws, 0.9) == [1, 1, 1, 1]


def test_ranks_of_a_fit_follow_eff():
    fit = fitted(add_noise(quick_rows(), np.random.default_rng(0), 0.006, 0.0))
    ranks = [entry.rank for entry in fit.schemes[1:]]
    assert ranks[0] == 1 and ranks == sorted(ranks) and len(set(ranks)) > 1


def test_a_record_survives_json():
    fit = fitted(add_noise(quick_rows(), np.random.default_rng(0), 0.008, 0.5))
    assert fit.without_flagged is not None
    assert laws.Fit.from_dict(json.loads(json.dumps(fit.to_dict(), allow_nan=False))) == fit


def test_the_same_seed_gives_the_same_record():
    rows = add_noise(quick_rows(), np.random.default_rng(0), 0.008, 0.5)
    assert fitted(rows, seed=1) == fitted(rows, seed=1)
    assert fitted(rows, seed=1) != fitted(rows, seed=2)


def test_the_order_of_the_rows_does_not_matter():
    rows = add_noise(quick_rows(), np.random.default_rng(0), 0.008, 0.5)
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    assert fitted(shuffled) == fitted(rows)


@pytest.mark.parametrize(
    ("design", "status"),
    [
        ({"sizes": SIZES[:1]}, "dense is unidentified: one size"),
        ({"budgets": BUDGETS[:1]}, "dense is unidentified: one budget"),
        (
            {"sizes": (10_000, 11_000), "budgets": (2**20, 2**21)},
            "dense is unidentified: tokens per parameter spread 2.2x, at least 4x needed",
        ),
    ],
)
def test_a_design_that_identifies_nothing_is_a_status(design, status):
    fit = fitted(quick_rows(**design))
    assert fit.status == (status,)
    assert fit.params == {} and all(entry.eff is None for entry in fit.schemes)
    assert len(fit.excluded) == len(quick_rows(**design))  # never silently
    assert laws.Fit.from_dict(json.loads(json.dumps(fit.to_dict()))) == fit


@pytest.mark.parametrize("scale", [0.0, 1e-20])
def test_losses_that_say_nothing_are_a_status(scale):
    """All equal, or so small that the arithmetic breaks down."""
    rows = [row | {"loss": row["loss"] * scale or 2.0} for row in quick_rows()]
    fit = fitted(rows)
    (status,) = fit.status
    assert status.startswith("no number: the arith" if scale else "unidentified: one value of loss")
    assert fit.params == {} and all(e.eff is None and "ok" not in e.status for e in fit.schemes)


def test_tokens_proportional_to_parameters_identify_nothing():
    rows = [row for row in quick_rows(budgets=[85 * n for n in SIZES]) if _ratio(row) == 85]
    assert "(D = kN)" in fitted(rows).status[0]


def test_tokens_nearly_proportional_to_parameters_are_a_warning():
    sizes = (10_000, 100_000, 1_000_000)
    rows = quick_rows(sizes=sizes, budgets=[k * n for n in sizes for k in (50, 210)])
    fit = fitted([row for row in rows if _ratio(row) in (50, 210)])
    assert any(status.startswith("ill-conditioned: D = kN nearly") for status in fit.status)


def _ratio(row):
    return row["d_tokens"] / row["n_params"]


def test_a_scheme_with_one_size_has_a_status_and_no_number():
    rows = [r for r in quick_rows() if r["scheme"] != "s=0.75" or r["n_params"] == SIZES[0]]
    fit = fitted(rows)
    entry = fit.scheme("s=0.75")
    assert entry.eff is None and entry.status == ("unidentified: one size",)
    assert fit.scheme("s=0.5").eff == pytest.approx(0.75, rel=1e-5)
    assert [reason for _, reason in fit.excluded] == ["unidentified: one size"] * 3
    with pytest.raises(ValueError, match="scheme must be identified by the fit"):
        fit.predict(6144, 2**20, "s=0.75")


def test_diverged_runs_make_a_multiplier_conditional():
    rows = quick_rows()
    lost = next(r for r in rows if r["scheme"] == "w=quest2/channel")
    lost |= {"status": "diverged", "loss": ""}
    fit = fitted(rows)
    entry = fit.scheme("w=quest2/channel")
    assert entry.status == ("conditional on convergence (8 of 9)",)
    assert entry.eff == pytest.approx(0.42, rel=1e-5)
    assert (lost["run_id"], "diverged") in fit.excluded


def test_a_scheme_that_always_diverged_has_no_number():
    rows = [
        row | ({"status": "diverged", "loss": ""} if row["scheme"] == "s=0.5" else {})
        for row in quick_rows()
    ]
    entry = fitted(rows).scheme("s=0.5")
    assert entry.eff is None
    assert entry.status == (
        "unidentified: no converged run",
        "conditional on convergence (0 of 9)",
    )


@pytest.mark.parametrize(
    ("lost", "dense", "other"),
    [
        (
            lambda row: True,
            ("unidentified: no converged run", "conditional on convergence (0 of 18)"),
            ("no number: dense unidentified: no converged run",),
        ),
        (
            lambda row: row["run_id"] == "dense-6144-524288-0",
            ("conditional on convergence (17 of 18)",),
            ("conditional on convergence of dense (17 of 18)",),
        ),
    ],
)
def test_no_scheme_is_ok_where_dense_diverged(lost, dense, other):
    rows = [
        row | ({"status": "diverged", "loss": ""} if row["scheme"] == "dense" and lost(row) else {})
        for row in quick_rows()
    ]
    for entry in fitted(rows).schemes:
        assert entry.status == (dense if entry.scheme == "dense" else other)


def test_no_scheme_is_ok_where_the_law_is_unidentified():
    rows = quick_rows(sizes=(6144, 57600), budgets=BUDGETS[:2], effs={"dense": 1.0}, seeds=1)
    fit = fitted(rows)
    assert fit.status == ("unidentified: 4 runs for 5 parameters",)
    assert fit.scheme("dense").status == ("no number: law unidentified",)


def test_a_wide_interval_is_hardly_bounded_and_detects_nothing():
    fit = fitted(add_noise(quick_rows(), np.random.default_rng(0), 0.08, 0.5))
    for entry in fit.schemes[1:]:
        reach = max(entry.high / entry.eff, entry.eff / entry.low)
        doubted = {"hardly bounded", "interval unbounded"} & set(entry.status)
        assert bool(doubted) == (reach > 4)
        assert entry.mdd is None or entry.mdd <= 1
    assert any("hardly bounded" in entry.status for entry in fit.schemes)
    assert any(entry.mdd is None for entry in fit.schemes[1:])


def interaction_t(strength, seed, **design):
    """t of log N x log D in a noisy quick table whose log losses hold ``strength`` times it."""
    rows = quick_rows(**design)
    n0, d0 = (np.exp(np.mean(np.log([r[k] for r in rows]))) for k in ("n_params", "d_tokens"))
    for row in rows:
        z = np.log(row["n_params"] / n0) * np.log(row["d_tokens"] / d0)
        row["loss"] *= np.exp(strength * z)
    runs = Runs.from_rows(add_noise(rows, np.random.default_rng(seed), 0.008, 0.5, 0.2))
    names, log_loss = runs.schemes(), np.log(runs.loss)
    design = diagnose.design_of(runs, names)
    theta = solve.fit_one(design, log_loss, 0.01)
    draws = interval.resample(runs, design, theta, 0.01, 20)
    return diagnose.interaction(runs, design, theta, log_loss, draws)


@pytest.mark.parametrize("seeds", [None, 4])  # noise of the parametric and the cluster bootstrap
def test_residuals_with_an_interaction_are_a_misfit(seeds):
    t = np.array([interaction_t(0.0, seed, seeds=seeds) for seed in range(50)])
    assert np.mean(np.abs(t) > diagnose.MISFIT) <= 0.04
    assert np.std(t) > 0.4  # a statistic that never moves would pass too
    with_one = [interaction_t(0.03, seed, seeds=seeds) for seed in range(5)]
    assert min(map(abs, with_one)) > diagnose.MISFIT
    assert max(with_one) < 0  # the law predicts too little where both are large


def test_a_misfit_is_a_status_of_the_fit():
    rows = quick_rows()
    for row in rows:
        z = np.log(row["n_params"] / 13824) * np.log(row["d_tokens"] / 2**20)
        row["loss"] *= np.exp(0.03 * z)
    fit = fitted(add_noise(rows, np.random.default_rng(0), 0.004, 0.5))
    assert any(status.startswith("misfit: residuals vary with log N") for status in fit.status)


def test_an_irreducible_loss_of_zero_is_a_bound_hit():
    # below zero, where the bound holds it
    fit = fitted(quick_rows(coefficients={"a": 4.9, "b": 0.1, "c": 70.0, "d": 0.36, "e": -0.5}))
    assert "bound hit: e = 0" in fit.status
    assert fit.param_status["e"] == ("bound hit: e = 0",)


def test_two_sizes_leave_a_flat_valley():
    rows = quick_rows(sizes=SIZES[:2], effs={"dense": 1.0, "s=0.5": 0.75})
    fit = fitted(add_noise(rows, np.random.default_rng(0), 0.008, 0.0))
    assert any(status.startswith("flat valley: b from") for status in fit.status)
    assert fit.param_status["a"] == fit.param_status["b"] != ("ok",)


def test_delta_comes_from_replicates_or_is_stated():
    rows = add_noise(quick_rows(seeds=4), np.random.default_rng(0), 0.01, 0.0)
    fit = fitted(rows)
    # 162 degrees of freedom: the sd is known to 6 %, three of which are allowed
    assert fit.delta == pytest.approx(1.345 * 0.01, rel=0.18)
    assert "162 degrees of freedom" in fit.delta_source
    alone = fitted(quick_rows(seeds=1))
    assert (alone.delta, alone.delta_source) == (0.01, "default (no replicates in the table)")
    assert fitted(rows, delta=0.5).delta_source == "given"


def test_eff_is_stable_in_b_where_the_fit_is_good():
    fit = fitted(add_noise(quick_rows(), np.random.default_rng(3), 0.008, 0.5))
    near = [row for row in fit.eff_against_b if row.excess < 2.7]
    assert near
    for scheme in list(EFFS)[1:]:
        effs = [row.effs[scheme] for row in near]
        assert max(effs) / min(effs) < 1.1


def test_runs_that_are_mostly_embeddings_are_named_and_the_fit_repeated_without_them():
    fit = fitted(quick_rows())
    assert len(fit.flagged) == 21  # the smallest size
    assert fit.without_flagged.rows == 42
    assert fit.without_flagged.flagged == ()
    assert fit.without_flagged.scheme("s=0.5").eff == pytest.approx(0.75, rel=0.02)


def test_a_drift_with_tokens_per_parameter_shows_as_a_trend():
    drift = 0.1
    rows = quick_rows()
    for row in rows:
        if row["scheme"] == "s=0.5":
            eff = 0.75 * (row["d_tokens"] / row["n_params"] / 75) ** drift
            row["loss"] = float(
                laws.forms.effective(row["n_params"], row["d_tokens"], eff, **COEFFICIENTS)
            )
    slopes = {e.scheme: e.trend[0] for e in fitted(rows, delta=0.01).schemes if e.trend}
    # the common coefficients take up a part of one scheme's drift
    assert slopes["s=0.5"] == pytest.approx(drift, rel=0.3)
    assert max(abs(v) for k, v in slopes.items() if k != "s=0.5") < 0.3 * drift


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "chinchillo"}, "law must be one of"),
        ({"level": 90}, "level must be in"),
        ({"resamples": 3}, "resamples must be at least 20, got 3"),
        ({"delta": 0.0}, "delta must be positive, got 0.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fitted(quick_rows(), **options)


def test_laws_need_neither_jax_nor_matplotlib():
    code = (
        "import sys, bitlaw.laws; "
        "print(sorted({'jax', 'matplotlib'} & {m.split('.')[0] for m in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("flat", "bounds"),
    [
        (("dense", "s=0.5"), {"s=0.5": "any", "s=0.75": "<"}),
        (("dense",), {"s=0.5": "<", "s=0.75": "<"}),
        (("s=0.5",), {"s=0.5": ">"}),
    ],
)
def test_what_amplitudes_on_their_least_say_of_a_multiplier(flat, bounds):
    """A loss that does not fall with size has no term in N: of both, eff may be anything."""
    rows = quick_rows(effs={name: EFFS[name] for name in ("dense", "s=0.5", "s=0.75")})
    for row in rows:
        if row["scheme"] in flat:
            row["loss"] = 0.7 + 70 * row["d_tokens"] ** -0.36 + 1e-7 * row["n_params"]
    fit = fitted(rows)
    assert {entry.scheme: entry.bound[:1] for entry in fit.schemes if entry.bound} == {
        name: side[:1] for name, side in bounds.items()
    }
    assert ("bound hit: a = 0" in fit.status) == ("dense" in flat)
    assert not holdout.hold_outs(fit) and not holdout.compare(fit)
    if flat == ("s=0.5",):
        assert not fit.profiles  # whose centre would be no optimum
    entry = fit.scheme("s=0.5")
    if bounds["s=0.5"] == "any":
        assert entry.bound == "any" and entry.ends == (None, None) and entry.mdd is None
        assert entry.status[0].startswith("bound hit: eff any (neither dense nor this scheme")
        assert "interval unbounded" in entry.status
        with pytest.raises(ValueError, match=r"that is no bound, got 's=0\.5': any"):
            fit.predict(1e5, 1e7, "s=0.5")
    else:
        assert entry.bound[0] == bounds["s=0.5"] and (None in entry.ends)
