"""Expressions of columns: arithmetic, and nothing else."""

import numpy as np
import pytest

from bitlaw.laws import derive

COLUMNS = {"flop": np.array([6e18, 6e20]), "n": np.array([1e8, 1e9])}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("flop / (6 * n)", [1e10, 1e11]),
        ("24*12*768**2*n", [24 * 12 * 768**2 * 1e8, 24 * 12 * 768**2 * 1e9]),
        ("-n + +n - 2", [-2, -2]),
        ("log(n) + exp(0) + sqrt(4)", np.log([1e8, 1e9]) + 3),
        ("7", 7),
    ],
)
def test_arithmetic_is_numpys(expression, value):
    np.testing.assert_allclose(derive.evaluate(expression, COLUMNS), value, rtol=1e-15)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')", "n.__class__", "[n]", "n[0]", "n if n else 1",
        "lambda: n",
        "open(n)", "log(n, 2)", "log(x=n)", "'a'", "True", "n @ n", "n // 2", "n % 2", "n < 2",
        "(n := 2)", "", "n +", "1e400", "log", "n" + "+n" * 600, "f'{n}'", "n\n+ 1; 2", "~n", "1j",
    ],
)  # fmt: skip
def test_anything_else_is_refused(expression):
    with pytest.raises(ValueError, match="derive must"):
        derive.evaluate(expression, COLUMNS)


def test_an_unknown_column_is_named():
    with pytest.raises(ValueError, match=r"got 'steps' in 'steps\*2'; there are \['flop', 'n'\]"):
        derive.evaluate("steps*2", COLUMNS)


def test_the_columns_that_an_expression_needs():
    assert derive.names("log(a) * b / 2 - a") == {"a", "b"}
