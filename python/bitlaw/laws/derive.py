"""Columns computed from others, as typed on a command line: d_tokens=flop/(6*n_params)."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

FUNCTIONS = {"log": np.log, "exp": np.exp, "sqrt": np.sqrt}
OPERATORS: dict[type, Callable] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
}
ALLOWED = "columns, numbers, + - * / **, parentheses, log, exp, sqrt"
LONGEST = 1000  # characters


def names(expression: str) -> set[str]:
    """The columns that an expression needs. Raises ValueError as `evaluate`."""
    calls = {n.func.id for n in ast.walk(_parsed(expression)) if isinstance(n, ast.Call)}
    used = {n.id for n in ast.walk(_parsed(expression)) if isinstance(n, ast.Name)}
    return used - calls


def evaluate(expression: str, columns: Mapping[str, NDArray]) -> NDArray[np.float64]:
    """The expression's value for every row. Nothing but arithmetic is understood.

    Raises:
        ValueError: it is not an expression of ALLOWED, or names a column that is not there.
    """
    tree = _parsed(expression)

    def value(node: ast.expr) -> NDArray | float:
        match node:
            case ast.Constant(value=number):
                return float(number)
            case ast.Name(id=name) if name in columns:
                return np.asarray(columns[name], np.float64)
            case ast.Name(id=name):
                raise ValueError(
                    f"derive must use columns of the table, got {name!r} in {expression!r}; there "
                    f"are {sorted(columns)}"
                )
            case ast.BinOp(left=left, op=operator, right=right):
                return OPERATORS[type(operator)](value(left), value(right))
            case ast.UnaryOp(op=operator, operand=operand):
                return OPERATORS[type(operator)](value(operand))
            case ast.Call(func=ast.Name(id=name), args=[argument]):
                return FUNCTIONS[name](value(argument))
            case _:
                raise AssertionError(ast.dump(node))  # _parsed lets nothing else through

    with np.errstate(all="ignore"):  # what is not finite is refused with its row, later
        return np.asarray(value(tree), np.float64)


def _parsed(expression: str) -> ast.expr:
    """The expression's tree, once every node of it is known to be allowed."""
    refused = ValueError(f"derive must be an expression of {ALLOWED}, got {expression[:80]!r}")
    if len(expression) > LONGEST:
        raise refused
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refused from error
    if not _allowed(tree):
        raise refused
    return tree


def _allowed(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=number):
            return type(number) in (int, float) and abs(number) < 1e300
        case ast.Name():
            return True
        case ast.BinOp(left=left, op=operator, right=right):
            return type(operator) in OPERATORS and _allowed(left) and _allowed(right)
        case ast.UnaryOp(op=operator, operand=operand):
            return type(operator) in OPERATORS and _allowed(operand)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return name in FUNCTIONS and _allowed(argument)
        case _:
            return False
