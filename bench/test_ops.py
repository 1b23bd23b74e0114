"""The cases of bench/ops.py under pytest-benchmark: `pytest bench`; and what goals mean."""

import dataclasses

import numpy as np
import pytest

from bench import ops, rivals
from bench.cases import Case, cases
from bitlaw.formats import QuantSpec


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_bench(benchmark, case):
    ops.check(case)
    name, call = next(iter(ops.contenders(case).items()))
    benchmark.extra_info["contender"] = name
    benchmark(call)


def test_missed_names_every_goal_that_a_row_does_not_meet():
    goals = {"in-place scale": 1.5, "definition": 1.0, "sort": 4.0, "not measured": 9.0}
    case = Case("fake_quantize", "", tuple, {}, {}, goals)
    row = {"over_in_place_scale": 1.5, "times_faster_than": {"definition": 1.0, "sort": 4.0}}
    assert ops.missed(case, row) == {}
    row = {"over_in_place_scale": 1.51, "times_faster_than": {"definition": 0.99, "sort": 5.0}}
    want = {"in-place scale": "1.51 > 1.5", "definition": "0.99 < 1.0"}
    assert ops.missed(case, row) == want


def test_goals_of_libraries_are_missed_too(monkeypatch):
    rival = rivals.Rival(lambda x: x, None, 4.0, False)
    monkeypatch.setattr(rivals, "of", lambda spec: {"rival": rival})
    case = Case("fake_quantize", "", tuple, {}, {}, {}, spec=QuantSpec.parse("int4"))
    row = {"times_faster_than": {"rival": 3.99}}
    assert ops.missed(case, row) == {"rival": "3.99 < 4.0"}


def test_a_rival_that_computes_something_else_is_refused(monkeypatch):
    spec = QuantSpec.parse("int4/row")
    rival = rivals.Rival(lambda x: x, spec, 1.0, False)
    monkeypatch.setattr(rivals, "of", lambda spec: {"rival": rival})
    with pytest.raises(AssertionError, match=r"rival on int4/row: .* % of the elements differ"):
        rivals.check.__wrapped__(spec)
    wrong = dataclasses.replace(rival, twin=None)  # only its error is compared: it has none
    monkeypatch.setattr(rivals, "of", lambda spec: {"rival": wrong})
    with pytest.raises(AssertionError, match="rival on int4/row"):
        rivals.check.__wrapped__(spec)


def test_close_allows_rounding_and_few_neighbours():
    y = np.linspace(-1, 1, 1000, dtype=np.float32)
    rivals.close(y * np.float32(1 + 1e-6), y, "rounding")
    other = y.copy()
    other[:3] += np.float32(0.1)
    with pytest.raises(AssertionError, match=r"levels: 0.30 % of the elements differ"):
        rivals.close(other, y, "levels")
