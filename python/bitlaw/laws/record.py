"""The record of a fit: numbers, their intervals, and every reason to doubt them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from numpy.typing import ArrayLike, NDArray

from bitlaw.laws import forms
from bitlaw.laws.diagnose import AtB, HeldOut

LAWS = {"effective": forms.effective}


@dataclass(frozen=True)
class SchemeFit:
    """What a fit says about one scheme; a number is None where the runs do not identify it.

    runs       runs in the table, of which ``converged`` entered the fit
    status     ("ok",), or every reason to doubt the numbers
    eff        effective parameter multiplier; 1 for dense, by definition
    low, high  ends of its interval at the fit's level; None for dense
    mdd        minimum detectable difference: the smallest difference from dense that this design
               tells apart at the fit's level in 80 % of repetitions, exp((z + z_power) s) - 1 with
               s the half-width of the interval of log eff over z; None above 1
    trend      d log eff / d log(D / N), and its interval: 0 where the law's constant eff holds
    rank       1 + the number of compressions whose log eff less this one's, paired within each
               resample, has an interval wholly above 0
    """

    scheme: str
    runs: int
    converged: int
    status: tuple[str, ...]
    eff: float | None = None
    low: float | None = None
    high: float | None = None
    mdd: float | None = None
    trend: tuple[float, float, float] | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Fit:
    """A fitted law, its doubts, and what it was fitted to. JSON-able through `to_dict`.

    law             a name of LAWS
    level           of all intervals
    delta           Huber's, on log residuals, and where it came from
    rows            runs in the table
    excluded        (run_id, reason) of every run that did not enter the fit
    flagged         run_ids whose embeddings and head exceed half of all parameters
    status          ("ok",), or every reason to doubt the fit as a whole
    params          the law's coefficients by name, in the units of `forms`; empty if unidentified
    intervals       (low, high) of each coefficient
    objective       summed Huber of log(L_hat / L) at the optimum
    rms, r2         of the log residuals
    residuals       (run_id, log(L_hat / L)) of every run fitted
    bootstrap       how the intervals were made
    noise           share of each component of the noise model in the variance
    eff_against_b   the fit repeated with b held fixed
    held_out        the largest size predicted by a fit without it
    without_flagged the fit without the flagged runs
    """

    law: str
    level: float
    delta: float
    delta_source: str
    rows: int
    excluded: tuple[tuple[str, str], ...]
    flagged: tuple[str, ...]
    status: tuple[str, ...]
    schemes: tuple[SchemeFit, ...]
    params: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    objective: float | None = None
    rms: float | None = None
    r2: float | None = None
    residuals: tuple[tuple[str, float], ...] = ()
    bootstrap: str = "none"
    noise: Mapping[str, float] | None = None
    eff_against_b: tuple[AtB, ...] = ()
    held_out: HeldOut | None = None
    without_flagged: Fit | None = None

    def scheme(self, name: str) -> SchemeFit:
        """The entry of one scheme."""
        for entry in self.schemes:
            if entry.scheme == name:
                return entry
        known = [entry.scheme for entry in self.schemes]
        raise ValueError(f"scheme must be one of {known}, got {name!r}")

    def predict(self, n_params: ArrayLike, d_tokens: ArrayLike, scheme: str = "dense") -> NDArray:
        """The law's loss for models of these sizes and budgets trained under ``scheme``."""
        eff = self.scheme(scheme).eff
        if eff is None:
            raise ValueError(f"scheme must be identified by the fit, got {scheme!r}")
        return LAWS[self.law](n_params, d_tokens, eff, **self.params)

    def to_dict(self) -> dict:
        """Plain dicts, lists, strings and numbers; `from_dict` gives the record back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping) -> Fit:
        """The record of `to_dict`, also after a round trip through JSON."""
        values = {field.name: _tuples(record[field.name]) for field in fields(cls)}
        values["schemes"] = tuple(_typed(SchemeFit, entry) for entry in values["schemes"])
        values["eff_against_b"] = tuple(_typed(AtB, entry) for entry in values["eff_against_b"])
        if values["held_out"] is not None:
            values["held_out"] = _typed(HeldOut, values["held_out"])
        if values["without_flagged"] is not None:
            values["without_flagged"] = cls.from_dict(values["without_flagged"])
        return cls(**values)


def _typed(kind, values: Mapping):
    """``kind(**values)`` with lists as tuples, which is all that JSON changes."""
    return kind(**_tuples(values))


def _tuples(value):
    if isinstance(value, Mapping):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
