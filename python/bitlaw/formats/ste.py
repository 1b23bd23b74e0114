"""The straight-through estimator by hand, and quantizers of the user by name: `my_module:my_fn`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from bitlaw.formats.spec_error import SpecError

NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def ste(quantizer: Callable) -> Callable:
    """A function of x whose value is quantizer(x), to the bit, and whose gradient is that of x.

        y = quantizer(x)        dx = g        (identity, arXiv:1308.3432)

        round_through = bitlaw.ste(jnp.round)

    Args:
        quantizer: a JAX function of one array that keeps its shape.
    """

    @jax.custom_vjp
    def through(x):
        return quantizer(x)

    through.defvjp(lambda x: (quantizer(x), None), lambda _, g: (g,))
    return functools.update_wrapper(through, quantizer)


@dataclasses.dataclass(frozen=True)
class UserSpec:
    """A user's own quantizer, a JAX function x -> x_hat, named `module:function`.

    A function with no gradient of its own passes that of the identity. It has one where it calls a
    custom_vjp, or, like x + stop_gradient(q - x), a stop_gradient that leaves some. Its module is
    looked for as by `import`, then in the working directory. A number `function.bits`, if there is
    one, is the bits of an element.

    Attributes:
        function: "module:function".
    """

    function: str

    def __post_init__(self):
        if not NAME.fullmatch(self.function):
            raise ValueError(f"function must be named module:function, got {self.function!r}")
        self.resolve()

    def __str__(self) -> str:
        return self.function

    @classmethod
    def parse(cls, text: str) -> UserSpec:
        """The spec a string names; a ValueError shows a caret under the wrong word."""
        name, slash, mods = text.partition("/")
        if slash:
            what = f"{name} is a function of x alone and takes no modifiers"
            raise SpecError(text, len(name) + 1, mods, what, [])
        try:
            return cls(name)
        except ValueError as error:
            raise SpecError(text, 0, text, str(error), []) from None

    def resolve(self) -> Callable:
        """The function.

        Raises:
            ValueError: the module cannot be imported or has no such function.
        """
        module_name, _, name = self.function.partition(":")
        try:
            module = _imported(module_name)
        except ImportError as error:
            raise ValueError(f"module {module_name} cannot be imported: {error}") from error
        function = getattr(module, name, None)
        if not callable(function):
            raise ValueError(f"module {module_name} must have a function {name}, got {function!r}")
        return function

    @property
    def bits(self) -> float:
        return float(getattr(self.resolve(), "bits", math.nan))

    @property
    def digest(self) -> str:
        """sha256 of the source of the function's module: a changed one is another quantizer."""
        source = inspect.getsourcefile(inspect.unwrap(self.resolve())) or ""
        content = Path(source).read_bytes() if os.path.isfile(source) else self.function.encode()
        return hashlib.sha256(content).hexdigest()

    @property
    def structure(self) -> UserQuantizer:
        return UserQuantizer(self.function)

    @property
    def grid(self) -> np.ndarray:
        """f32[5] of zeros: everything about the quantizer is in its code."""
        return np.zeros(5, np.float32)


@dataclasses.dataclass(frozen=True)
class UserQuantizer:
    """The structure of a `UserSpec`: called like a `Quantizer`, whose grid and key it leaves alone.

    Attributes:
        function: "module:function".
        stochastic, multiples: randomness and blocks are the function's own affair.
    """

    function: str
    stochastic = False

    @property
    def multiples(self) -> dict[int, int]:
        return {}

    def __call__(self, x, grid=None, key=None, *, pruned: bool = False, in_place: bool = False):
        """x_hat in x's shape and dtype; where pruned, zeros of x stay zero."""
        del grid, key, in_place
        x = jnp.asarray(x)
        y = _with_gradient(UserSpec(self.function).resolve(), x)(x)
        if y.shape != x.shape or y.dtype != x.dtype:
            raise ValueError(
                f"{self.function} must keep the shape and dtype of x, "
                f"got {y.dtype}{list(y.shape)} for {x.dtype}{list(x.shape)}"
            )
        return jnp.where(x == 0, x, y) if pruned else y


def _imported(name: str):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The console script and the workers of a study do not look in the working directory.
        here = os.getcwd()
        if here in sys.path or not str(name).startswith(str(error.name)):
            raise
        sys.path.append(here)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(here)


def _with_gradient(function: Callable, x) -> Callable:
    """The function, through `ste` unless it states a gradient of its own."""
    if isinstance(function, (jax.custom_vjp, jax.custom_jvp)):
        return function
    trace = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    names = set(_primitives(trace.jaxpr))
    if any(name.startswith("custom_vjp") for name in names):
        return function
    # Rounding with a scale under stop_gradient has no gradient; x + stop_gradient(q - x) has.
    return function if "stop_gradient" in names and _passes(function, x) else ste(function)


def _primitives(jaxpr) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from _primitives(inner)


def _passes(function: Callable, x) -> bool:
    """Whether any gradient passes at a sample of normal numbers."""
    sample = np.random.default_rng(0).normal(size=x.shape).astype(x.dtype)
    with jax.ensure_compile_time_eval():
        y, pull = jax.vjp(function, jnp.asarray(sample))
        return bool(jnp.any(pull(jnp.ones_like(y))[0] != 0))
