"""Errors on N(0, 1) against quadrature and sampling; predictions against the published table."""

import numpy as np
import pytest

from bitlaw.laws import capacity, published

GRID = {b: np.arange(2**b) - (2**b - 1) / 2 for b in (1, 2, 3, 4)}
WEIGHTS = {b: published.CAPACITY_BOTH[k][-1] for k, b in enumerate((1, 2, 3, 4))}


def gmse(part):
    kind, _, value = part.partition("=")
    if kind == "s":
        return capacity.pruning_gmse(float(value))
    return capacity.grid_gmse(GRID[int(value)])


def test_grid_gmse_equals_max():
    # J. Max (1960), Quantizing for minimum distortion, table II: uniform quantizers
    for bits, mse in ((1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154)):
        assert capacity.grid_gmse(GRID[bits]) == pytest.approx(mse, rel=2e-3)


def test_grid_gmse_does_not_depend_on_the_unit_of_the_levels():
    fp4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = np.concatenate([-fp4, fp4])
    assert capacity.grid_gmse(levels) == pytest.approx(capacity.grid_gmse(levels * 2.0**-20))
    assert capacity.grid_gmse(GRID[4]) < capacity.grid_gmse(levels)


def test_pruning_gmse_equals_sampling():
    x = np.sort(np.abs(np.random.default_rng(0).standard_normal(1_000_000)))
    for sparsity in (0.25, 0.5, 0.75):
        sampled = np.sum(x[: int(sparsity * len(x))] ** 2) / len(x)
        assert capacity.pruning_gmse(sparsity) == pytest.approx(sampled, rel=5e-3)
    assert capacity.pruning_gmse(0.0) == 0.0


def test_nm_gmse_equals_sampling():
    x = np.random.default_rng(1).standard_normal((1_000_000, 4)) ** 2
    sampled = np.sum(np.sort(x, axis=1)[:, :2]) / x.size
    assert capacity.nm_gmse(2, 4) == pytest.approx(sampled, rel=4e-3)
    assert capacity.nm_gmse(4, 4) == 0
    assert capacity.pruning_gmse(0.5) < capacity.nm_gmse(2, 4)  # the constraint costs


def test_the_curve_recovers_the_coefficients_it_was_drawn_from():
    errors = np.array([gmse(f"w={b}") for b in (1, 2, 3, 4)])
    eff = np.stack([capacity.capacity(errors, f=f, k=k) for f, k in ((0.4, 1.3), (0.9, 0.7))])
    f, k = capacity.fit_capacity(errors, eff)
    np.testing.assert_allclose(f, [0.4, 0.9], rtol=1e-5)
    np.testing.assert_allclose(k, [1.3, 0.7], rtol=1e-5)


@pytest.mark.parametrize("left_out", [2, 3])
def test_a_published_capacity_is_predicted_from_the_others(left_out):
    measured = {f"w={b}": [eff] for b, eff in WEIGHTS.items() if b != left_out}
    (predicted,) = capacity.predict(f"w={left_out}", measured, gmse).eff
    # The curve with all four points in it misses them by up to 8 %.
    assert predicted == pytest.approx(WEIGHTS[left_out], rel=0.16)


def test_multipliers_multiply_in_the_published_table():
    measured = {f"w={b}": [eff] for b, eff in WEIGHTS.items() if b in (3, 4)}
    measured |= {f"s={s}": [published.CAPACITY_SPARSE[16][k]] for k, s in ((1, 0.25), (2, 0.5))}
    for k, s in ((1, 0.25), (2, 0.5)):
        for bits in (3, 4):
            predicted = capacity.predict(f"w={bits} s={s}", measured, gmse)
            assert predicted.eff[0] == pytest.approx(published.CAPACITY_SPARSE[bits][k], abs=0.09)
            assert predicted.how == f"w={bits} measured; times s={s} measured"


def test_activations_are_taken_from_what_they_were_measured_with():
    measured = {"w=4": np.array([0.8, 0.9]), "w=4 a=4": np.array([0.4, 0.45])}
    predicted = capacity.predict("a=4", measured, gmse)
    np.testing.assert_allclose(predicted.eff, 0.5)


def test_a_prediction_says_how_well_its_curve_fits():
    measured = {f"w={b}": [eff] for b, eff in WEIGHTS.items() if b != 3}
    how = capacity.predict("w=3", measured, gmse).how
    assert how.startswith("w=3 from its GMSE by the curve through w=1, w=2, w=4, missed by up to ")
    two = {name: eff for name, eff in measured.items() if name != "w=1"}
    assert capacity.predict("w=3", two, gmse).how.endswith("the curve through w=2, w=4")


def test_too_little_to_predict_from_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 measured ones of each kind \(w=\.\.\.\)"):
        capacity.predict("w=3", {"dense": [1.0], "w=4": [0.9]}, gmse)


def test_compositions_stand_beside_the_product_of_their_parts():
    measured = {
        "dense": np.ones(3),
        "w=4": np.array([0.8, 0.8, 0.9]),
        "s=0.5": np.array([0.5, 0.5, 0.4]),
        "w=4 s=0.5": np.array([0.44, 0.4, 0.4]),
        "w=2 s=0.5": np.array([0.2, 0.2, 0.2]),  # w=2 alone was not measured
    }
    (found,) = capacity.compositions(measured, lambda x: (x.min(), x.max()))
    assert found.scheme == "w=4 s=0.5" and found.product == pytest.approx(0.4)
    assert found.log_ratio == pytest.approx(np.log(1.1))
    assert found.low == pytest.approx(0) and found.high == pytest.approx(np.log(0.4 / 0.36))
