"""Schedules end on target, in exact integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlaw.sparsity import Cubic


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
    ],
)
def test_bad_schedules_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        Cubic(*arguments)
    assert message in str(error.value)
