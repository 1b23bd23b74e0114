"""The cases of bench/ops.py under pytest-benchmark: `pytest bench`."""

import pytest

from bench import ops


@pytest.mark.parametrize("case", list(ops.cases()), ids=lambda case: case.name)
def test_bench(benchmark, case):
    ops.check(case)
    name, call = next(iter(ops.contenders(case).items()))
    benchmark.extra_info["contender"] = name
    benchmark(call)
