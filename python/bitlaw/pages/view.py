"""What a fit's figures are drawn from: its runs, which column is the size, which runs are one kind.

A kind is what is neither size nor data: a scheme, a sparsity, a number of experts, of bits. Each
has its colour, the same in every figure; the base (dense, S = 0, one expert) is black.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitlaw.laws import Fit, forms, holdout
from bitlaw.laws.diagnose import condition
from bitlaw.laws.holdout import HoldOut
from bitlaw.laws.runs import ordered
from bitlaw.pages import figure

Array = NDArray[np.float64]

SIZES = ("n_params", "n_nonzero", "n_average")
DATA = "d_tokens"
LABELS = {
    "n_params": "N, parameters",
    "n_nonzero": "N, non-zero parameters",
    "n_average": "N, mean non-zero parameters",
    "d_tokens": "D, training tokens",
    "sparsity": "S",
    "experts": "E",
    "bits_w": "weight bits",
    "bits_a": "activation bits",
    "bits_kv": "cache bits",
    "gmse": "GMSE",
    "group": "group",
}
BASE = {"sparsity": 0.0, "experts": 1.0, "gmse": 0.0, "group": 1.0, "scheme": "dense"}
SEPARABLE = ("effective", "sparse", "precision", "capacity", "chinchilla", "average")


@dataclass(frozen=True)
class View:
    """A fit with its table as arrays."""

    fit: Fit

    @cached_property
    def table(self) -> dict[str, NDArray]:
        return {name: np.array(column) for name, column in self.fit.table.items()}

    @cached_property
    def law(self) -> forms.Law:
        return forms.find(self.fit.law)

    @cached_property
    def size(self) -> str:
        """The column on the x axis."""
        return next((name for name in SIZES if name in self.law.columns), self.law.columns[0])

    @cached_property
    def data(self) -> str | None:
        """The column of training tokens, if the law has one."""
        return DATA if DATA in self.law.columns else None

    @cached_property
    def others(self) -> list[str]:
        """The columns that make a kind."""
        axes = (self.size, self.data)
        names = [name for name in self.law.columns if name not in axes and name in self.table]
        return [*names, *(["scheme"] if "scheme" in self.table and self.law.has_schemes else [])]

    @cached_property
    def hold_outs(self) -> tuple[HoldOut, ...]:
        """The largest size and the largest budget, predicted; refits, hence kept."""
        return holdout.hold_outs(self.fit)

    @cached_property
    def laws_compared(self) -> dict[str, tuple[HoldOut, ...]]:
        """Hold-outs of every law that the table can be fitted with."""
        return holdout.compare(self.fit)

    @cached_property
    def condition(self) -> float | None:
        """The condition number of the design at the fit; None without numbers."""
        problem = holdout.problem_of(self.fit) if self.fit.params and self.fit.table else None
        if problem is None:
            return None
        z = problem.coordinates_of(holdout.all_params(self.fit))
        return condition(problem, z) if np.isfinite(z).all() else None

    @property
    def n(self) -> Array:
        return self.table[self.size]

    @property
    def d(self) -> Array:
        return self.table[self.data]

    @property
    def loss(self) -> Array:
        return self.table["loss"]

    @cached_property
    def residual(self) -> Array:
        """f(L_hat) - f(L) of every run, f as in the fit's objective."""
        return np.array([dict(self.fit.residuals)[run_id] for run_id in self.fit.table["run_id"]])

    @cached_property
    def kinds(self) -> list[tuple]:
        """The kinds of runs, the base first."""
        found = set(zip(*(self.fit.table[name] for name in self.others), strict=True)) or {()}
        if self.others == ["scheme"]:
            return [(name,) for name in ordered(name for (name,) in found)]
        return sorted(found, key=lambda kind: (kind != self.base, kind))

    @cached_property
    def base(self) -> tuple:
        """The kind that is not compressed; it need not be in the table."""
        return tuple(BASE.get(name, np.inf) for name in self.others)

    def rows(self, kind: tuple) -> NDArray[np.bool_]:
        """Which runs are of this kind."""
        match = [self.table[name] == value for name, value in zip(self.others, kind, strict=True)]
        return np.logical_and.reduce(match) if match else np.ones(len(self.loss), dtype=bool)

    def color(self, kind: tuple) -> str:
        """Black for the base, a colour of its own for each other kind."""
        if kind == self.base:
            return "black"
        return figure.color([k for k in self.kinds if k != self.base].index(kind))

    def name(self, kind: tuple) -> str:
        """The kind in a legend."""
        if self.others == ["scheme"]:
            return str(kind[0])
        parts = [f"{LABELS.get(c, c)} = {v:g}" for c, v in zip(self.others, kind, strict=True)]
        return ", ".join(parts) or "runs"

    def predict(
        self,
        n: ArrayLike,
        d: ArrayLike | None = None,
        kind: tuple | None = None,
        params: Mapping[str, float] | None = None,
    ) -> Array:
        """The law's loss at these sizes and budgets, by other coefficients if any are given."""
        columns = {self.size: np.asarray(n, np.float64)}
        if self.data and d is not None:
            columns[self.data] = np.asarray(d, np.float64)
        named = dict(zip(self.others, self.base if kind is None else kind, strict=True))
        scheme = str(named.pop("scheme", "dense"))
        params = holdout.all_params(self.fit) if params is None else dict(params)
        return self.law.predict(columns | named, params, scheme)

    def dense_size(self, n: ArrayLike, kind: tuple) -> Array:
        """The size of a base model with the loss of models of these sizes and this kind.

        Found on a grid: the loss of the base falls with its size.
        """
        n = np.asarray(n, np.float64)
        d = np.full(n.shape, np.median(self.d)) if self.data else None
        grid = np.geomspace(n.min() * 1e-4, n.max() * 1e4, 4001)
        base = self.predict(grid, None if d is None else d.flat[0], self.base)
        at = np.interp(-self.predict(n, d, kind), -base, np.log(grid))
        return np.exp(at)

    def less_data(self, rows: NDArray) -> Array:
        """Loss less its data term, of some runs; the law must be SEPARABLE."""
        if self.data is None:
            return self.loss[rows]
        with np.errstate(divide="ignore"):
            n = np.median(self.n)
            data_term = self.predict(n, self.d[rows]) - self.predict(n, np.inf)
        return self.loss[rows] - data_term
