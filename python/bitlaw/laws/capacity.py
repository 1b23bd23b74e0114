"""The multiplier of a compression that was never trained, from its error on normal numbers.

    eff = tanh(F * log_{1/4} GMSE)^K

GMSE is the mean squared error of the compression on N(0, 1), its scale the best one. The curve goes
through the measured multipliers of its kind (weights, activations, sparsity); the multipliers of
several kinds multiply. What comes out is a prediction, and is called one wherever it is shown.

Source: arXiv:2506.01863 (multiplicativity holds there to about 1e-2, except at 2 bits).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, optimize, stats

from bitlaw.laws.optimum import golden

Array = NDArray[np.float64]

FACTORS = (0.02, 20.0)  # of F
POINTS = 2  # measured multipliers that a curve needs


def grid_gmse(levels: ArrayLike) -> float:
    """Mean squared error on N(0, 1) of rounding to the nearest of these levels times a scale.

        min over scale of  sum over cells of  integral (x - scale * level)^2 phi(x) dx

    Args:
        levels: f64[k], k >= 2 distinct levels of any grid: integers, half-integers, a float format.
    """
    level = np.unique(np.asarray(levels, np.float64))
    if len(level) < 2 or not np.isfinite(level).all():
        raise ValueError(f"levels must hold at least two finite numbers, got {levels}")

    def error(log_scale: float) -> float:
        at = level * np.exp(log_scale)
        edge = (at[1:] + at[:-1]) / 2
        phi = stats.norm.pdf(edge)
        mass = np.diff(stats.norm.cdf(edge), prepend=0, append=1)
        first = -np.diff(phi, prepend=0, append=0)
        second = mass - np.diff(edge * phi, prepend=0, append=0)
        return float(np.sum(second - 2 * at * first + at**2 * mass))

    largest = np.log(np.abs(level).max())
    return float(optimize.minimize_scalar(error, bounds=(-5 - largest, 3 - largest)).fun)


def pruning_gmse(sparsity: float) -> float:
    """Mean squared error on N(0, 1) of setting the smallest magnitudes to zero.

    S - 2 t phi(t),   t = Phi^-1((1 + S) / 2)
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity:g}")
    t = stats.norm.ppf((1 + sparsity) / 2)
    return float(sparsity - 2 * t * stats.norm.pdf(t))


def nm_gmse(n: int, m: int) -> float:
    """Mean squared error on N(0, 1) of keeping the n largest magnitudes of every m.

    integral x^2 phi(x) P(at most m - n - 1 of m - 1 others are smaller than |x|) dx
    """
    if not 1 <= n <= m:
        raise ValueError(f"n must be in 1..m, got {n}:{m}")

    def density(x: float) -> float:
        smaller = 2 * stats.norm.cdf(x) - 1
        return 2 * x**2 * stats.norm.pdf(x) * stats.binom.cdf(m - n - 1, m - 1, smaller)

    return float(integrate.quad(density, 0, 12)[0])


def capacity(gmse: ArrayLike, *, f: ArrayLike, k: ArrayLike) -> Array:
    """tanh(F * log_{1/4} GMSE)^K, 1 for an error of 0."""
    gmse = np.asarray(gmse, np.float64)
    if np.any((gmse < 0) | (gmse >= 1)):
        raise ValueError(f"gmse must be in [0, 1), got {gmse}")
    with np.errstate(divide="ignore"):
        bits = -np.log(gmse) / np.log(4)
    return np.tanh(np.asarray(f) * bits) ** np.asarray(k)


def fit_capacity(gmse: ArrayLike, eff: ArrayLike) -> tuple[Array, Array]:
    """(F, K) of the curve closest to these multipliers, least squares of log eff.

    For fixed F it is linear in K, so the search is over F alone.

    Args:
        gmse: f64[points]; at least two different ones.
        eff: f64[..., points], above 0: one curve for each row.
    """
    gmse, eff = np.asarray(gmse, np.float64), np.asarray(eff, np.float64)
    if len(np.unique(gmse)) < POINTS:
        raise ValueError(f"gmse must hold at least two different errors, got {gmse}")
    log_eff = np.log(eff)

    def projected(log_f: Array) -> tuple[Array, Array]:
        log_tanh = np.log(capacity(gmse, f=np.exp(log_f)[..., None], k=1.0))
        k = np.sum(log_eff * log_tanh, axis=-1) / np.maximum(np.sum(log_tanh**2, axis=-1), 1e-300)
        k = np.maximum(k, 0)
        return k, np.sum((log_eff - k[..., None] * log_tanh) ** 2, axis=-1)

    # The sum of squares may have a second, shallow valley: the best of a grid first.
    grid = np.linspace(*np.log(FACTORS), 60)
    rows = log_eff.shape[:-1]
    errors = np.stack([projected(np.full(rows, value))[1] for value in grid])
    best, step = grid[np.argmin(errors, axis=0)], grid[1] - grid[0]
    log_f = golden(lambda x: projected(x)[1], best - step, best + step)
    return np.exp(log_f), projected(log_f)[0]


@dataclass(frozen=True)
class Predicted:
    """A multiplier that was not measured: eff f64[rows of the measured ones], and how it came."""

    eff: Array
    how: str


def parts(scheme: str) -> list[str]:
    """The compressions that a scheme composes: "w=int4/row s=0.5" gives two, dense none."""
    return [] if scheme == "dense" else scheme.split()


def predict(
    scheme: str, measured: Mapping[str, ArrayLike], gmse: Callable[[str], float]
) -> Predicted:
    """The multiplier of a scheme from those of others.

    Args:
        scheme: its string.
        measured: f64[rows] per scheme; rows are resamples, or the fit alone.
        gmse: the error on N(0, 1) of one part ("w=int4/row", "s=0.5"); ValueError if unknown.
    Raises:
        ValueError: a part has neither been measured nor enough others of its kind, or has no GMSE.
    """
    singles = _single_parts(measured)
    product, how = np.ones_like(np.asarray(next(iter(measured.values())), np.float64)), []
    for part in parts(scheme):
        if part in singles:
            product = product * singles[part]
            how.append(f"{part} measured")
            continue
        kind = part.partition("=")[0]
        known = {p: e for p, e in singles.items() if p.partition("=")[0] == kind}
        errors = {p: gmse(p) for p in known}
        if len(set(errors.values())) < POINTS:
            raise ValueError(
                f"scheme must have measured parts or at least {POINTS} measured ones of each kind "
                f"({kind}=...), got {scheme!r} and {sorted(known) or 'none'}"
            )
        effs = np.stack(list(known.values()), axis=-1)
        f, k = fit_capacity(list(errors.values()), effs)
        product = product * capacity(gmse(part), f=f, k=k)
        curve = capacity(list(errors.values()), f=f[..., None], k=k[..., None])
        off = f", missed by up to {np.max(np.abs(np.log(curve / effs)[0])):.0%}"
        through = f"the curve through {', '.join(known)}{off if len(known) > POINTS else ''}"
        how.append(f"{part} from its GMSE by {through}")
    if not how:
        raise ValueError(f"scheme must be a compression, got {scheme!r}")
    return Predicted(product, "; times ".join(how))


def _single_parts(measured: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """The multipliers of single parts: measured alone, or by division by the other parts' own."""
    values = {name: np.asarray(eff, np.float64) for name, eff in measured.items()}
    singles = {name: eff for name, eff in values.items() if len(parts(name)) == 1}
    for name, eff in values.items():
        unknown = [part for part in parts(name) if part not in singles]
        if len(unknown) == 1 and len(parts(name)) > 1:
            others = [singles[part] for part in parts(name) if part in singles]
            singles[unknown[0]] = eff / np.prod(others, axis=0)
    return singles


@dataclass(frozen=True)
class Composition:
    """A measured composition beside the product of its measured parts, with an interval.

    log_ratio  log(eff of the whole / product of the parts): 0 if they multiply
    """

    scheme: str
    eff: float
    product: float
    log_ratio: float
    low: float | None
    high: float | None


def compositions(
    measured: Mapping[str, ArrayLike],
    intervals: Callable[[Array], tuple[float | None, float | None]],
) -> list[Composition]:
    """Every measured scheme whose parts were all measured alone: do the multipliers multiply?

    Args:
        measured: f64[1 + draws] per scheme, the fit first.
        intervals: (low, high) of a quantity from its f64[1 + draws].
    """
    alone: Iterable[str] = [name for name in measured if len(parts(name)) == 1]
    found = []
    for name, eff in measured.items():
        if len(parts(name)) < 2 or not set(parts(name)) <= set(alone):
            continue
        eff = np.asarray(eff, np.float64)
        product = np.prod([np.asarray(measured[part]) for part in parts(name)], axis=0)
        ratio = np.log(eff / product)
        low, high = intervals(ratio)
        found.append(
            Composition(name, float(eff[0]), float(product[0]), float(ratio[0]), low, high)
        )
    return found
