"""Schedules end on target, in exact integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlaw.sparsity import ACDC, Constant, Cubic, Exchange, Listed, OneShot, Polynomial


def test_the_last_update_is_at_the_end_with_the_final_value():
    """jaxpruner's 250..750 every 100 would stop at 0.7493."""
    schedule = Cubic(0.75, begin=250, end=750, every=100)
    assert schedule.steps().tolist() == [250, 350, 450, 550, 650, 750]
    assert schedule.sparsity(750) == 0.75 and schedule.sparsity(10**9) == 0.75
    assert schedule.sparsity(249) == 0 and schedule.sparsity(749) == schedule.sparsity(650) < 0.75
    assert schedule.is_update(650) and not schedule.is_update(651)


@given(
    final=st.floats(0, 0.999), begin=st.integers(0, 10**6), length=st.integers(1, 10**6),
    part=st.floats(0, 1), size=st.integers(1, 2**31 - 1),
)  # fmt: skip
def test_schedules_rise_to_the_exact_count(final, begin, length, part, size):
    every = max(1, int(part * length), length // 500)
    schedule = Cubic(final, begin, begin + length, every)
    steps, keep = schedule.steps(), schedule.keep_counts(size)
    assert (np.diff(steps) > 0).all() and steps[0] == begin and steps[-1] == begin + length
    assert (np.diff(keep) <= 0).all()
    assert keep[-1] == max(1, round(size * (1 - final)))


def test_the_ramp_is_the_cubic_of_the_paper():
    schedule = Cubic(0.5, begin=0, end=100, every=25, initial=0.1)
    want = [0.5 - 0.4 * (1 - p) ** 3 for p in (0, 0.25, 0.5, 0.75, 1)]
    got = [schedule.sparsity(s) for s in (0, 25, 50, 75, 100)]
    np.testing.assert_allclose(got, want, rtol=1e-15)  # an ulp of the cube in another order


def test_keep_counts_of_leaves():
    schedule = Cubic(0.75, begin=0, end=1)
    assert schedule.keep_counts([10, 3, 1, 0]).tolist() == [[10, 3, 1, 0], [2, 1, 1, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0, 5), "final must be in [0, 1), got 1.0"),
        ((0.5, 5, 5), "begin and end must satisfy 0 <= begin < end, got 5 and 5"),
        ((0.5, -1, 5), "begin and end must satisfy 0 <= begin < end, got -1 and 5"),
        ((0.5, 0, 5, 0), "every must be at least 1, got 0"),
        ((0.5, 0, 5, 1.5), "every must be of type int, got 1.5"),
    ],
)
def test_bad_schedules_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        Cubic(*arguments)
    assert message in str(error.value)


def test_jaxpruner_stops_a_step_and_a_multiple_short():
    """Its rule written out: step % every == 0 within [begin, end], progress of step + 1."""
    begin, end, every = 250, 750, 100
    ours = Polynomial(0.75, begin, end, every, preset="jaxpruner")
    steps = [t for t in range(1000) if begin <= t <= end and t % every == 0]
    assert ours.steps().tolist() == steps == [300, 400, 500, 600, 700]
    want = [0.75 * (1 - (1 - min(t + 1 - begin, end - begin) / (end - begin)) ** 3) for t in steps]
    np.testing.assert_allclose([ours.sparsity(t) for t in steps], want, rtol=1e-14)
    assert round(ours.sparsity(10**6), 4) == 0.7493


def test_tfmot_ends_where_its_steps_do():
    begin, end, every = 250, 740, 100
    ours = Polynomial(0.75, begin, end, every, initial=0.25, preset="tfmot")
    steps = [t for t in range(1000) if begin <= t <= end and (t - begin) % every == 0]
    assert ours.steps().tolist() == steps and steps[-1] == 650
    want = [0.75 - 0.5 * (1 - (t - begin) / (end - begin)) ** 3 for t in steps]
    np.testing.assert_allclose([ours.sparsity(t) for t in steps], want, rtol=1e-14)


def test_torch_ao_has_a_new_level_every_step():
    """CubicSL(init_sl=.1, init_t=20, delta_t=10, total_t=8) of torch.ao.pruning."""
    ours = Polynomial(0.5, 20, 20 + 10 * 8, initial=0.1, preset="torch_ao")
    assert ours.steps().tolist() == list(range(20, 101))
    for t in range(20, 200):
        level = 0.5 + (0.1 - 0.5) * (1 - (t - 20) / (10 * 8)) ** 3
        want = max(0.1, min(0.5, level))
        assert ours.sparsity(t) == pytest.approx(want, rel=1e-13)


def test_powers_constant_oneshot_and_lists():
    linear = Polynomial(0.5, 0, 4, power=1)
    assert [linear.sparsity(t) for t in range(6)] == [0, 0.125, 0.25, 0.375, 0.5, 0.5]
    constant = Constant(0.9, 2, 10, 4)
    assert constant.steps().tolist() == [2, 6, 10]
    assert (constant.sparsity(1), constant.sparsity(2), constant.sparsity(99)) == (0, 0.9, 0.9)
    assert OneShot(0.5, 7).steps().tolist() == [7] and OneShot(0.5, 7).sparsity(7) == 0.5
    listed = Listed((1, 5), (0.25, 0.5))
    assert listed.keep_counts(100).tolist() == [75, 50] and listed.final == 0.5


def test_acdc_alternates_and_ends_sparse():
    schedule = ACDC(0.9, begin=10, end=45, every=10)
    assert schedule.steps().tolist() == [10, 20, 30, 40, 45]
    assert schedule.keep_counts(1000).tolist() == [100, 1000, 100, 1000, 100]


def test_exchanges_follow_the_cosine():
    steps, fraction = Exchange(0, 1000, every=10, alpha=0.3).table()
    want = 0.15 * (1 + np.cos(np.pi * steps / 1000))
    assert steps[-1] == 990
    np.testing.assert_allclose(fraction, want, atol=1e-16, rtol=1e-13)


def test_another_final_sparsity_is_reached_in_proportion():
    schedule = Cubic(0.8, 0, 10, 5)
    half = schedule.keep_counts(1000, 0.4)
    want = [round(1000 * (1 - s / 2)) for s in schedule._table()[1]]
    assert half.tolist() == want and half[-1] == 600


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cubic(0.5, 0, 5, preset="keras"), "preset must be one of exact, jaxpruner"),
        (lambda: Cubic(0.5, 0, 5, initial=0.1, preset="jaxpruner"), "initial must be 0"),
        (lambda: Cubic(0.5, 0, 5, 2, preset="torch_ao"), "every and power must be 1 and 3"),
        (lambda: Cubic(0.5, 0, 5, power=0), "power must be at least 1, got 0"),
        (lambda: Listed((5, 1), (0.1, 0.2)), "steps must ascend from 0 or more, got (5, 1)"),
        (lambda: Listed((5,), (0.1, 0.2)), "levels must be one per step"),
        (lambda: Listed((5,), (1.0,)), "levels must be in [0, 1), got 1.0"),
        (lambda: OneShot(0.5, -1), "steps must ascend from 0 or more, got (-1,)"),
        (lambda: ACDC(0.5, 5, 5, 1), "begin and end must satisfy 0 <= begin < end, got 5 and 5"),
        (lambda: Exchange(0, 9, alpha=1.5), "initial must be in [0, 1], got 1.5"),
        (lambda: Cubic(0.8, 0, 9).keep_counts(10, 1.0), "final must be in [0, 1)"),
    ],
)
def test_bad_kinds_are_refused_by_name(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
