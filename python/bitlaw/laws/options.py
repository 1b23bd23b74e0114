"""What a fit leaves to choose from: its schemes as options of a plan, and schemes never trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bitlaw.laws import capacity, forms
from bitlaw.laws.optimum import LARGEST_SPARSITY, golden
from bitlaw.laws.plan import Array, Budget, Option, Trained, cost_of, optimum
from bitlaw.laws.record import Fit

LAWS = ("effective", "sparse", "gamma", "chinchilla", "average")
SIZES = ("n_params", "n_nonzero", "n_average")


@dataclass(frozen=True)
class Described:
    """What a planner must know of a scheme.

    bits_per_weight  stored per weight of all, with scales and masks
    sparsity         share of the weights that is zero at the end
    """

    bits_per_weight: float
    sparsity: float = 0.0


Describe = Callable[[str], Described]  # of a scheme's string; ValueError where it is not known
Gmse = Callable[[str], float]  # of one part of a scheme; ValueError where it is not known


def trained_range(fit: Fit) -> Trained:
    """The ranges of N and D in a fit's table.

    Raises:
        ValueError: the record holds no table.
    """
    size = next((name for name in SIZES if name in fit.table), None)
    if size is None or "d_tokens" not in fit.table:
        raise ValueError("fit must hold the table of its runs, got a record without; fit it again")
    n, d = fit.table[size], fit.table["d_tokens"]
    return Trained((min(n), max(n)), (min(d), max(d)))


def options(
    fit: Fit, describe: Describe, gmse: Gmse, extra: Sequence[str] = (), zeros: str = "skipped"
) -> list[Option]:
    """The schemes of a fit, and further ones: trained ones as measured, others as predicted.

    Args:
        fit: with numbers, of one of LAWS.
        describe: bits per weight and sparsity of a scheme.
        gmse: error of a part of a scheme on N(0, 1), for what was never trained (law effective).
        extra: schemes that were not trained.
        zeros: as in `plan.cost_of`.
    Raises:
        ValueError: the law is not one of LAWS or not identified, a scheme is unknown or cannot be
            predicted.
    """
    if fit.law not in LAWS:
        raise ValueError(f"law of the fit must be one of {', '.join(LAWS)}, got {fit.law!r}")
    if not fit.params:
        raise ValueError(f"fit must have identified the law, got {'; '.join(fit.status)}")
    if asked := [scheme for scheme in extra if scheme in fit.bounds]:
        raise ValueError(
            f"scheme must have a multiplier that is no bound, got {asked[0]!r}: "
            f"{fit.bounds[asked[0]]}"
        )
    if fit.law == "effective":
        return _of_schemes(fit, describe, gmse, extra, zeros)
    if fit.law == "sparse":
        trained = sorted(set(fit.table["sparsity"]))
        asked = [_sparsity(scheme, describe) for scheme in extra]
        return [sparse_option(fit, s, describe, zeros) for s in dict.fromkeys([*trained, *asked])]
    if fit.law == "gamma":
        return _of_gamma(fit, describe, extra, zeros)
    if extra:
        raise ValueError(f"schemes must be left out with the law {fit.law}, got {list(extra)}")
    size = next(name for name in SIZES if name in fit.table)
    return [Option("dense", _renamed(fit.law, size), _coefficients(fit), cost_of(zeros=zeros))]


def _coefficients(fit: Fit) -> dict[str, Array]:
    """f64[1 + draws] of every coefficient of the law itself, the fit first."""
    return {
        name: np.r_[value, fit.draws.get(name, ())]
        for name, value in fit.params.items()
        if "[" not in name
    }


def _renamed(law: str, size: str, **fixed: float) -> Callable[..., Array]:
    """The law's form with its size and budget first."""
    form = forms.find(law).form

    def loss(n_params, d_tokens, **coefficients):
        return form(**{size: n_params, "d_tokens": d_tokens}, **fixed, **coefficients)

    return loss


def measured(fit: Fit) -> dict[str, Array]:
    """f64[1 + draws] of every multiplier of an effective law that is no bound, dense first."""
    found = {
        entry.scheme: np.r_[entry.eff, fit.draws.get(f"eff[{entry.scheme}]", ())]
        for entry in fit.schemes
        if entry.eff is not None and not entry.bound
    }
    return found | {"dense": np.ones(max(map(len, found.values()), default=1))}


def _of_schemes(
    fit: Fit, describe: Describe, gmse: Gmse, extra: Sequence[str], zeros: str
) -> list[Option]:
    shared, effs, found = _coefficients(fit), measured(fit), []
    for scheme in dict.fromkeys([*effs, *extra]):
        eff, how = effs.get(scheme), ""
        if eff is None:
            predicted = capacity.predict(scheme, effs, gmse)
            eff, how = predicted.eff, predicted.how
        found.append(_option(scheme, "effective", shared | {"eff": eff}, describe, zeros, how))
    return found


def _of_gamma(fit: Fit, describe: Describe, extra: Sequence[str], zeros: str) -> list[Option]:
    schemes = dict.fromkeys(fit.table["scheme"])
    unknown = [scheme for scheme in extra if scheme not in schemes]
    if unknown:
        raise ValueError(f"schemes must be trained ones with the law gamma, got {unknown}")
    found = []
    for scheme in schemes:
        if scheme in fit.bounds:
            continue
        own = {
            name: np.r_[fit.params[f"{name}[{scheme}]"], fit.draws.get(f"{name}[{scheme}]", ())]
            for name in ("eff_n", "eff_d")
            if scheme != "dense"
        }
        found.append(_option(scheme, "gamma", _coefficients(fit) | own, describe, zeros, ""))
    return found


def _option(
    scheme: str, law: str, coefficients: dict, describe: Describe, zeros: str, how: str
) -> Option:
    about = describe(scheme)
    cost = cost_of(about.sparsity, about.bits_per_weight, "total", zeros)
    return Option(scheme, _renamed(law, "n_params"), coefficients, cost, how)


def _sparsity(scheme: str, describe: Describe) -> float:
    kind, _, value = scheme.partition("=")
    if scheme != "dense" and (kind != "s" or " " in value):
        raise ValueError(f"schemes must be s=... with the law sparse, got {scheme!r}")
    return describe(scheme).sparsity


def sparse_option(fit: Fit, sparsity: float, describe: Describe, zeros: str) -> Option:
    """A sparse law's option at one sparsity; N counts non-zeros."""
    scheme, exact = (f"s={sparsity:.4g}", f"s={sparsity}") if sparsity else ("dense", "dense")
    trained = set(fit.table["sparsity"])
    near = any(abs(sparsity - s) < 1e-9 for s in trained)
    beyond = "extrapolated" if sparsity > max(trained) else "interpolated"
    return Option(
        scheme,
        _renamed("sparse", "n_nonzero", sparsity=sparsity),
        _coefficients(fit),
        cost_of(sparsity, describe(exact).bits_per_weight, "nonzero", zeros),
        "" if near else f"sparsity {beyond} by the law",
    )


def best_sparsity(fit: Fit, budget: Budget, describe: Describe, zeros: str = "skipped") -> Option:
    """The sparse law's option of the lowest loss under the budgets, over all sparsities."""

    def loss(sparsity: Array) -> Array:
        found = []
        for s in np.ravel(sparsity):
            option = sparse_option(fit, float(s), describe, zeros).fitted
            found.append(option.loss(*optimum(option, budget))[0])
        return np.array(found).reshape(np.shape(sparsity))

    grid = np.linspace(0, LARGEST_SPARSITY, 41)
    place = int(np.argmin(loss(grid)))
    low, high = grid[max(0, place - 1)], grid[min(len(grid) - 1, place + 1)]
    return sparse_option(fit, round(float(golden(loss, low, high)), 4), describe, zeros)
