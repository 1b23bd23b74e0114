"""The record of a fit: numbers, their intervals, and every reason to doubt them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace

from numpy.typing import ArrayLike, NDArray

from bitlaw.laws import forms
from bitlaw.laws.diagnose import AtB
from bitlaw.laws.nested import Drift
from bitlaw.laws.objective import Objective
from bitlaw.laws.solve import EXPONENTS, LARGEST_EFF

# What a field of a record must be, by the first word of its annotation.
KINDS = {
    "str": str, "float": int | float, "int": int, "dict": Mapping, "Mapping": Mapping,
    "tuple": list | tuple,
}  # fmt: skip


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

    @property
    def bound(self) -> str | None:
        """What is known of eff where the fit ended on a bound of its search: "> 1e+04", "any"."""
        return at_bound("eff", self.status)

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The interval; None for a low end on the least of the search, a high one on the most."""
        most = math.log(LARGEST_EFF) - 1e-9  # ends were exponentials
        low = self.low if self.low and math.log(self.low) > -most else None
        high = self.high if self.high and math.log(self.high) < most else None
        side = (self.bound or "-")[0]
        return None if side in "<a" else low, None if side in ">a" else high


def at_bound(name: str, status: Sequence[str]) -> str | None:
    """What a status says of a number that ended on a bound of its search.

    "> 4", "< 0.01", "any" where the runs say nothing, "0, a bound". None where it did not, so that
    a bound is never shown as a measured value.
    """
    for reason in status:
        if reason.startswith("bound hit: "):
            words = reason.removeprefix("bound hit: ").removeprefix(f"{name} ")
            if words[:1] in ("<", ">"):
                return words
            if words.startswith("any "):
                return "any"
            if (value := words.removeprefix("= "))[:1].isdigit():
                return f"{value}, a bound"
    return None


def inside(
    law: forms.Law, name: str, low: float | None, high: float | None
) -> tuple[float | None, float | None]:
    """A coefficient's interval; None for an end that is a bound of its search, but for 0.

    A fit writes most of them so, but for ends that widening moved beyond a bound. Records of older
    versions hold the bounds themselves, known here but for those in units of columns.
    """
    of = {coefficient.name: coefficient.range for coefficient in law.coefficients}
    place = of.get(name.partition("[")[0])
    if place is None or place.scale:
        return low, high
    effective = law.name == "effective" and name in ("b", "d")
    least, most = EXPONENTS if effective else (place.low, place.high)
    below = low is not None and 0 < low * (1 - 1e-9) <= least
    above = high is not None and high >= most * (1 - 1e-9)
    return None if below else low, None if above else high


@dataclass(frozen=True)
class Profile:
    """Profile likelihood of one coefficient: every other one refitted while it is held.

    name       of the coefficient
    low, high  where the excess reaches the level's quantile; None where it never does
    values     at which it was held, ascending, the best fit among them
    excess     rise of the objective there over the best fit, in units of chi-squared with one
               degree of freedom
    """

    name: str
    low: float | None
    high: float | None
    values: tuple[float, ...]
    excess: tuple[float, ...]


@dataclass(frozen=True)
class Reference:
    """Numbers from elsewhere to stand beside a fit.

    label      "published", "measured"
    source     where they come from
    params     the law's coefficients, empty where there are none
    objective  of these coefficients on the same table, by the same objective
    derived    what follows from them, by the names of `Fit.derived`
    note       what a reader must know
    """

    label: str
    source: str
    params: dict[str, float]
    objective: float | None = None
    derived: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Fit:
    """A fitted law, its doubts, and what it was fitted to. JSON-able through `to_dict`.

    law             a name of `forms.LAWS`, or module:function
    level           of all intervals
    delta           Huber's, and where it came from; infinite deltas (least squares) are 1e100
    rows            runs in the table
    excluded        (run_id, reason) of every run that did not enter the fit
    flagged         run_ids whose embeddings and head exceed half of all parameters
    status          ("ok",), or every reason to doubt the fit as a whole
    params          the law's coefficients by name, in the units of `forms`; empty if unidentified;
                    one per scheme (law gamma) is ``eff_n[scheme]``
    intervals       (low, high) of each coefficient, by the bootstrap; None for an end that is open,
                    as a bound of the search kept the resamples from going on
    objective       its value at the optimum; `minimised` says of what
    rms, r2         of the residuals
    residuals       (run_id, f(L_hat) - f(L)) of every run fitted, f as in `minimised`
    bootstrap       how the intervals were made
    noise           share of each component of the noise model in the variance
    eff_against_b   the fit repeated with b held fixed
    without_flagged the fit without the flagged runs
    minimised       what was minimised
    starts          the objective that each start ended on, ascending; one entry per start
    param_status    ("ok",), or every reason to doubt the coefficient, by name
    profiles        profile-likelihood intervals of the coefficients
    table           the runs as fitted, column by column: run_id, scheme where the law has them,
                    the law's columns, seed, loss; figures and plans need nothing else
    derived         what follows from the coefficients (multipliers, predictions), by name
    references      published and measured numbers to stand beside `params` and `derived`
    source          of the table: a file, or the registry's name, source and licence
    draws           joint resamples of the coefficients by name, and of ``eff[scheme]``
    drifts          nested tests of a constant eff (law effective)
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
    intervals: dict[str, tuple[float | None, float | None]]
    objective: float | None = None
    rms: float | None = None
    r2: float | None = None
    residuals: tuple[tuple[str, float], ...] = ()
    bootstrap: str = "none"
    noise: Mapping[str, float] | None = None
    eff_against_b: tuple[AtB, ...] = ()
    without_flagged: Fit | None = None
    minimised: Objective = field(default_factory=Objective)
    starts: tuple[float, ...] = ()
    param_status: dict[str, tuple[str, ...]] = field(default_factory=dict)
    profiles: tuple[Profile, ...] = ()
    table: dict[str, tuple] = field(default_factory=dict)
    derived: dict[str, float] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()
    source: str = ""
    draws: dict[str, tuple[float, ...]] = field(default_factory=dict)
    drifts: tuple[Drift, ...] = ()

    def scheme(self, name: str) -> SchemeFit:
        """The entry of one scheme."""
        for entry in self.schemes:
            if entry.scheme == name:
                return entry
        known = [entry.scheme for entry in self.schemes]
        raise ValueError(f"scheme must be one of {known}, got {name!r}")

    @property
    def bounds(self) -> dict[str, str]:
        """What is known of the schemes whose multiplier ended on a bound of its search."""
        found = {entry.scheme: entry.bound for entry in self.schemes if entry.bound}
        for name in self.params:
            coefficient, _, scheme = name.partition("[")
            if scheme and (bound := at_bound(name, self.param_status.get(name, ()))):
                found[scheme.removesuffix("]")] = f"{coefficient} {bound}"
        return found

    def predict(
        self,
        n_params: ArrayLike | None = None,
        d_tokens: ArrayLike | None = None,
        scheme: str = "dense",
        **columns: ArrayLike,
    ) -> NDArray:
        """The law's loss where its columns have these values, trained under ``scheme``.

        ``fit.predict(1e8, 1e10, "s=0.5")``; where the law has other columns, by their names:
        ``fit.predict(sparsity=0.5, n_nonzero=5e7, d_tokens=1e10)``.

        Raises:
            ValueError: a column is missing or not the law's, the scheme is not identified or its
                multiplier a bound of the search, or the fit has no numbers.
        """
        if not self.params:
            raise ValueError(f"fit must have identified the law, got {'; '.join(self.status)}")
        if scheme in self.bounds:
            raise ValueError(
                f"scheme must have a multiplier that is no bound, got {scheme!r}: "
                f"{self.bounds[scheme]}"
            )
        law = forms.find(self.law)
        given = {"n_params": n_params, "d_tokens": d_tokens} | columns
        given = {name: value for name, value in given.items() if value is not None}
        params = dict(self.params)
        if self.schemes:  # their multipliers are numbers of the schemes, not coefficients
            eff = self.scheme(scheme).eff
            if eff is None:
                raise ValueError(f"scheme must be identified by the fit, got {scheme!r}")
            params[f"eff[{scheme}]"] = eff
        return law.predict(given, params, scheme)

    def to_dict(self) -> dict:
        """Plain dicts, lists, strings and numbers; `from_dict` gives the record back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping) -> Fit:
        """The record of `to_dict`, also after a round trip through JSON."""
        values = {}
        for entry in fields(cls):
            if entry.name in record:
                values[entry.name] = _tuples(_of_kind(entry, record[entry.name]))
            elif entry.default is MISSING and entry.default_factory is MISSING:
                raise ValueError(f"fit must have a field {entry.name!r}, got {sorted(record)}")
        values["schemes"] = tuple(
            _restated(_typed(SchemeFit, entry)) for entry in values["schemes"]
        )
        values["draws"] = {
            name: tuple(map(_searched, row)) if name.startswith("eff[") else row
            for name, row in values.get("draws", {}).items()
        }
        values["eff_against_b"] = tuple(_typed(AtB, x) for x in values.get("eff_against_b", ()))
        for name, kind in (("profiles", Profile), ("references", Reference), ("drifts", Drift)):
            values[name] = tuple(_typed(kind, entry) for entry in values.get(name, ()))
        if "minimised" in values:
            values["minimised"] = _typed(Objective, values["minimised"])
        if values.get("without_flagged") is not None:
            values["without_flagged"] = cls.from_dict(values["without_flagged"])
        return cls(**values)


def _searched(eff: float) -> float:
    """A multiplier within what is searched, as older versions did not keep it."""
    return min(max(eff, 1 / LARGEST_EFF), LARGEST_EFF)


def _restated(entry: SchemeFit) -> SchemeFit:
    """An entry in today's words: "bound hit: eff" of older versions says neither side nor value.

    It meant that the scheme's amplitude was at its least, so that eff is more. A multiplier beyond
    what is searched said nothing.
    """
    if entry.eff is None or entry.low is None or entry.bound:
        return entry
    old, eff = "bound hit: eff" in entry.status, _searched(entry.eff)
    if not old and eff == entry.eff:
        return entry
    side = ">" if old or eff > 1 else "<"
    others = tuple(reason for reason in entry.status if reason not in ("ok", "bound hit: eff"))
    status = (f"bound hit: eff {side} {eff:.4g}", *others)
    low, high = _searched(entry.low), _searched(entry.high)
    return replace(entry, eff=eff, low=low, high=high, mdd=None, status=status)


def _of_kind(entry: Field, value: object) -> object:
    """The value of a field, once it is known to be of the field's kind. Raises ValueError."""
    kind = KINDS.get(re.match(r"\w+", entry.type)[0], object)
    if not isinstance(value, kind) and not (value is None and entry.type.endswith("None")):
        raise ValueError(f"{entry.name} must be of type {entry.type}, got {str(value)[:40]!r}")
    return value


def _typed(kind, values: Mapping):
    """``kind(**values)`` with lists as tuples, which is all that JSON changes."""
    return kind(**_tuples(values))


def _tuples(value):
    if isinstance(value, Mapping):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
