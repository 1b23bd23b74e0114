"""A law, a table and an objective as one function of a vector, many vectors at once.

The coordinates z of a vector are what a search can move through without knowing the law:

    coefficient = scale * z         linear and real ones
    coefficient = scale * exp(z)    those searched over their logarithm

with the scale that the law's annotations name, such as (mean N)^b for the a of a / N^b. So z is of
the order of 1, and nearly the same for all b. Derivatives are central differences, whose error of
1e-10 slows a step of Gauss and Newton but does not move where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitlaw.laws import ends
from bitlaw.laws.law import Coefficient, Law
from bitlaw.laws.objective import Objective

Array = NDArray[np.float64]

STEP = 1e-5  # of a central difference, in z


@dataclass(frozen=True)
class Problem:
    """What a fit is about: one row per run.

    columns     the law's, f64[rows] each
    scheme      number of each run's scheme, 0 is dense
    schemes     their names
    loss        f64[rows]
    references  geometric mean of each column, 1 where a value is not positive and finite
    """

    law: Law
    columns: dict[str, Array]
    scheme: NDArray[np.int64]
    schemes: tuple[str, ...]
    loss: Array
    objective: Objective
    references: dict[str, float]

    @classmethod
    def of(
        cls,
        law: Law,
        columns: dict[str, Array],
        loss: Array,
        objective: Objective,
        scheme: NDArray[np.int64] | None = None,
        schemes: tuple[str, ...] = ("dense",),
    ) -> Problem:
        """The problem of these runs."""
        references = {}
        for name, column in columns.items():
            fine = np.all(np.isfinite(column) & (column > 0))
            references[name] = float(np.exp(np.mean(np.log(column)))) if fine else 1.0
        scheme = np.zeros(len(loss), np.int64) if scheme is None else scheme
        return cls(law, columns, scheme, schemes, loss, objective, references)

    def __getitem__(self, rows: NDArray) -> Problem:
        """The problem of some of the rows, with the same coordinates."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return replace(self, columns=columns, scheme=self.scheme[rows], loss=self.loss[rows])

    @cached_property
    def coordinates(self) -> tuple[tuple[Coefficient, str], ...]:
        """(coefficient, scheme) of every coordinate; the scheme is "" for all but per-scheme."""
        return tuple(
            (coefficient, scheme)
            for coefficient in self.law.coefficients
            for scheme in (self.schemes[1:] if coefficient.range.per_scheme else ("",))
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates, ``eff[s=0.5]`` for one of a scheme."""
        return tuple(c.name + (f"[{scheme}]" if scheme else "") for c, scheme in self.coordinates)

    @property
    def linear(self) -> NDArray[np.int64]:
        """The coordinates that the loss is linear in."""
        return np.flatnonzero([c.range.linear for c, _ in self.coordinates])

    @property
    def target(self) -> Array:
        """The losses as the objective sees them."""
        return self.objective.of_loss(self.loss)

    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of z."""
        ends = [(c.range.low, c.range.high) for c, _ in self.coordinates]
        logs = np.array([c.range.log for c, _ in self.coordinates])
        low, high = np.array(ends, float).T
        low[logs], high[logs] = np.log(low[logs]), np.log(high[logs])
        return low, high

    def pushed(self, z: Array) -> list[NDArray[np.bool_]]:
        """`ends.pushed` of every coordinate: where its bounds and its scale's keep it."""
        lower, upper = self.bounds()
        lower[[c.range.low == 0.0 for c, _ in self.coordinates]] = -np.inf
        found = []
        for k, (c, _) in enumerate(self.coordinates):
            sign = 1.0 if c.range.log else np.sign(z[:, k])
            powers = [
                (
                    self.names.index(power.removeprefix("-")),
                    sign * np.log(self.references[column]) * (-1 if power.startswith("-") else 1),
                )
                for column, power in c.range.scale
                if isinstance(power, str)
            ]
            found.append(ends.pushed(z, (lower, upper), k, powers))
        return found

    def coefficients(self, z: Array) -> dict[str, Array]:
        """The coefficients by coordinate name, f64[batch] each."""
        plain = {}
        for k, (name, (c, _)) in enumerate(zip(self.names, self.coordinates, strict=True)):
            plain[name] = np.exp(z[:, k]) if c.range.log else z[:, k]
        result = dict(plain)
        for name, (c, _) in zip(self.names, self.coordinates, strict=True):
            for column, power in c.range.scale:
                sign = -1.0 if isinstance(power, str) and power.startswith("-") else 1.0
                named = isinstance(power, str)
                exponent = sign * plain[power.removeprefix("-")] if named else power
                result[name] = result[name] * self.references[column] ** exponent
        return result

    def coordinates_of(self, params: dict[str, float]) -> Array:
        """z[parameters] of these coefficients."""
        unit = np.array([0.0 if c.range.log else 1.0 for c, _ in self.coordinates])
        z = unit.copy()
        for scaled in (False, True):  # exponents first: scales depend on them
            scale = self.coefficients(z[None])
            for k, (name, (c, _)) in enumerate(zip(self.names, self.coordinates, strict=True)):
                if bool(c.range.scale) == scaled:
                    ratio = params[name] / (scale[name][0] if scaled else 1.0)
                    z[k] = np.log(ratio) if c.range.log else ratio
        return z

    def fitted(self, z: Array) -> Array:
        """The law's losses f64[batch, rows]; not finite where a vector is none of the law's."""
        values = {}
        with np.errstate(all="ignore"):
            found = self.coefficients(z)
            for c in self.law.coefficients:
                if c.range.per_scheme:
                    effs = [np.ones(len(z)), *(found[f"{c.name}[{s}]"] for s in self.schemes[1:])]
                    values[c.name] = np.stack(effs, axis=1)[:, self.scheme]
                else:
                    values[c.name] = found[c.name][:, None]
            columns = {name: column[None] for name, column in self.columns.items()}
            loss = np.asarray(self.law.form(**columns, **values), float)
        return np.broadcast_to(loss, (len(z), len(self.loss)))

    def response(self, z: Array) -> Array:
        """The fitted losses as the objective sees them."""
        return self.objective.of_loss(self.fitted(z))

    def jacobian(self, z: Array) -> tuple[Array, Array]:
        """The response f64[batch, rows] and its derivative f64[batch, rows, parameters]."""
        batch, size = z.shape
        step = STEP * np.maximum(1.0, np.abs(z))
        aside = np.eye(size) * step[:, None, :]
        both = np.concatenate([z[:, None] + aside, z[:, None] - aside], axis=1)
        there = self.response(both.reshape(-1, size)).reshape(batch, 2, size, -1)
        derivative = (there[:, 0] - there[:, 1]) / (2 * step[:, :, None])
        return self.response(z), np.swapaxes(derivative, 1, 2)

    def value(self, z: Array) -> float:
        """The objective at one vector, summed or averaged as stated."""
        return self.objective.value(self.loss, self.fitted(z[None])[0])
