"""A law is one function; its signature says what is a column of the table and what is fitted.

    def mine(n_params, d_tokens, *, a: Annotated[float, amplitude(n_params="b")], b: Exponent): ...

Arguments before the star are columns (optional ones have a default), those after it coefficients.
A coefficient's annotation says where to search for it; plain ``float`` is any real number.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, get_type_hints

import numpy as np


class LawError(ValueError):
    """A function that is no law of its table: without a finite loss, or not linear as it says."""


@dataclass(frozen=True)
class Range:
    """Where a coefficient is searched for.

    low, high  bounds; a fit that ends on one says so
    starts     first and last of the starting values, in units of ``scale``
    log        search over its logarithm
    linear     the loss is linear in all coefficients marked so: they are solved for, not searched
    scale      ((column, power), ...): the coefficient is a number of the order of 1 times the
               product of the columns' geometric means to these powers; a power is a number or the
               name of another coefficient, with a minus before it where it divides
    per_scheme one value per scheme, 1 for dense; the argument is a multiplier
    """

    low: float = -math.inf
    high: float = math.inf
    starts: tuple[float, float] = (-1.0, 1.0)
    log: bool = False
    linear: bool = False
    scale: tuple[tuple[str, str | float], ...] = ()
    per_scheme: bool = False


def amplitude(**scale: str | float) -> Range:
    """A non-negative coefficient that the loss is linear in."""
    return Range(0.0, math.inf, (0.1, 5.0), linear=True, scale=tuple(scale.items()))


def positive(low: float = 0.1, high: float = 10.0, **scale: str | float) -> Range:
    """A positive coefficient, started between ``low`` and ``high`` times its scale."""
    return Range(1e-12, 1e12, (low, high), log=True, scale=tuple(scale.items()))


Exponent = Annotated[float, Range(0.01, 5.0, (0.05, 1.5), log=True)]
Offset = Annotated[float, amplitude()]
Multiplier = Annotated[float, Range(1e-4, 1e4, (0.3, 1.0), log=True, per_scheme=True)]


@dataclass(frozen=True)
class Coefficient:
    """A coefficient of a law: its name, where it is searched, and its unit and meaning."""

    name: str
    range: Range
    about: str


@dataclass(frozen=True)
class Law:
    """A form made ready for fitting; everything is read from its function.

    name          the function's, or "module:function" for one that is not ours
    form          the function
    columns       its columns, all of them numbers
    defaults      what an optional column is where a table does not have it
    coefficients  in the order of the signature
    """

    name: str
    form: Callable
    columns: tuple[str, ...]
    defaults: dict[str, float]
    coefficients: tuple[Coefficient, ...]

    @classmethod
    def of(cls, form: Callable, name: str | None = None) -> Law:
        """The law that this function is.

        Raises:
            ValueError: it has no column or no coefficient, or a scale names what it does not have.
        """
        name = name or form.__name__
        about = _argument_docs(form)
        hints = get_type_hints(form, include_extras=True)
        columns, defaults, coefficients = [], {}, []
        for argument in inspect.signature(form).parameters.values():
            if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
                raise ValueError(f"law {name} must name its arguments, got {argument}")
            found = getattr(hints.get(argument.name), "__metadata__", ())
            place = next((x for x in found if isinstance(x, Range)), None)
            if argument.kind is argument.KEYWORD_ONLY or place is not None:
                text = about.get(argument.name, "")
                coefficients.append(Coefficient(argument.name, place or Range(), text))
            else:
                columns.append(argument.name)
                if argument.default is not argument.empty:
                    defaults[argument.name] = float(argument.default)
        law = cls(name, form, tuple(columns), defaults, tuple(coefficients))
        law._check()
        return law

    def _check(self) -> None:
        if not self.columns or not self.coefficients:
            raise ValueError(
                f"law {self.name} must have columns before a star and coefficients after it, got "
                f"columns {list(self.columns)} and coefficients {list(self.names)}"
            )
        for coefficient in self.coefficients:
            for column, power in coefficient.range.scale:
                known = not isinstance(power, str) or power.removeprefix("-") in self.names
                if column not in self.columns or not known:
                    raise ValueError(
                        f"scale of {coefficient.name} in law {self.name} must be columns and "
                        f"powers of the law, got {column}={power!r}"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the coefficients."""
        return tuple(coefficient.name for coefficient in self.coefficients)

    @property
    def has_schemes(self) -> bool:
        """Whether a coefficient is one per scheme."""
        return any(coefficient.range.per_scheme for coefficient in self.coefficients)

    def holding(self, values: Mapping[str, float]) -> Law:
        """The law with some coefficients held at these values: fewer are left to fit.

        Raises:
            ValueError: it has no such coefficient, one per scheme cannot be held, none is left, or
                a value is not finite.
        """
        known = {c.name for c in self.coefficients if not c.range.per_scheme}
        if not set(values) <= known or len(values) == len(self.coefficients):
            raise ValueError(f"hold must be some of {sorted(known)}, got {sorted(values)}")
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"hold must give {name} a finite value, got {value}")
        left = tuple(
            replace(c, range=replace(c.range, scale=_with_values(c.range.scale, values)))
            for c in self.coefficients
            if c.name not in values
        )
        return replace(self, form=partial(self.form, **values), coefficients=left)

    def predict(self, columns: dict, params: dict, scheme: str = "dense") -> np.ndarray:
        """The loss where the table's columns and the coefficients have these values.

        ``params`` holds a coefficient that is one per scheme as ``name[scheme]``.
        """
        absent = [c for c in self.columns if c not in columns and c not in self.defaults]
        unknown = sorted(set(columns) - set(self.columns))
        if absent or unknown:
            raise ValueError(f"columns must be {list(self.columns)}, got {sorted(columns)}")
        values = {}
        for coefficient in self.coefficients:
            name = coefficient.name
            if not coefficient.range.per_scheme:
                values[name] = params[name]
            elif scheme == "dense":
                values[name] = 1.0
            elif f"{name}[{scheme}]" in params:
                values[name] = params[f"{name}[{scheme}]"]
            else:
                raise ValueError(f"scheme must be identified by the fit, got {scheme!r}")
        return self.form(**(self.defaults | columns), **values)


def _with_values(scale: tuple, values: Mapping[str, float]) -> tuple:
    """The scale with the powers that are coefficients of known value as numbers."""

    def number(power: str | float) -> str | float:
        name = power.removeprefix("-") if isinstance(power, str) else ""
        if name not in values:
            return power
        return -values[name] if power != name else values[name]

    return tuple((column, number(power)) for column, power in scale)


def _argument_docs(form: Callable) -> dict[str, str]:
    """What the docstring's Args say of each argument."""
    text = inspect.getdoc(form) or ""
    part = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    if not part:
        return {}
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", part[1], re.MULTILINE)
    return {name: " ".join(about.split()) for name, about in entries}


def imported(name: str) -> Law:
    """The law of somebody's own function, named as module:function.

    Raises:
        ValueError: there is no such function, or it is no law.
    """
    module, _, function = name.partition(":")
    try:
        form = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"law must be module:function that can be imported, got {name!r}: {error}"
        ) from error
    if not inspect.isfunction(form):
        raise ValueError(f"law must name a function, got {name!r}, a {type(form).__name__}")
    return Law.of(form, name)
