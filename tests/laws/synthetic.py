"""Tables of runs drawn from a known law, with the quick study's design."""

from __future__ import annotations

import numpy as np

from bitlaw.laws import forms
from bitlaw.laws.runs import Runs

# The coefficients of a small-scale study: byte-level losses near 2 nats that fall 5 to 10 % per
# factor e of size.
COEFFICIENTS = {"a": 4.9, "b": 0.20, "c": 70.0, "d": 0.36, "e": 0.7}

EFFS = {
    "dense": 1.0,
    "w=quest4/channel": 0.80,
    "w=quest2/channel": 0.42,
    "w=quest4/channel a=quest4/row": 0.50,
    "s=0.5": 0.75,
    "s=0.75": 0.54,
}
SIZES = (6144, 13824, 36864)
BUDGETS = (2**19, 2**20, 2**21)
# The quick study: one size more, two seeds of every scheme but for that size, no budget of under 14
# tokens per parameter.
QUICK = {"sizes": (*SIZES, 57600), "least_ratio": 14, "seeds": dict.fromkeys(SIZES, 2) | {57600: 1}}


def quick_rows(
    sizes=SIZES, budgets=BUDGETS, effs=EFFS, seeds=None, coefficients=COEFFICIENTS, least_ratio=0
):
    """The rows of a crossed design without noise; dense has two seeds, the others one."""
    rows = []
    for n in sizes:
        for d in (d for d in budgets if d >= least_ratio * n):
            for scheme, eff in effs.items():
                count = seeds[n] if isinstance(seeds, dict) else seeds
                count = count or (2 if scheme == "dense" else 1)
                loss = float(forms.effective(n, d, eff, **coefficients))
                rows += [
                    {"scheme": scheme, "n_params": n, "n_total": n + 8192, "d_tokens": d,
                     "seed": seed, "loss": loss, "run_id": f"{scheme}-{n}-{d}-{seed}"}
                    for seed in range(count)
                ]  # fmt: skip
    return rows


def add_noise(rows, rng, sd, rho, paired=0.0):
    """The rows with noise of standard deviation ``sd`` on log loss.

    ``rho`` of the variance is common to the budgets of a (scheme, size, seed), as where they branch
    off one training trunk; ``paired`` of it is common to all schemes of a (size, seed), as where
    they share initialisation and data order.
    """

    def effect(share, key):
        labels, index = np.unique([str(key(row)) for row in rows], return_inverse=True)
        return sd * np.sqrt(share) * rng.standard_normal(len(labels))[index]

    noise = (
        effect(rho, lambda r: (r["scheme"], r["n_params"], r["seed"]))
        + effect(paired, lambda r: (r["n_params"], r["seed"]))
        + effect(1 - rho - paired, lambda r: r["run_id"])
    )
    return [
        {**row, "loss": row["loss"] * float(np.exp(x))} for row, x in zip(rows, noise, strict=True)
    ]


def quick_runs(rng=None, sd=0.0, rho=0.0, paired=0.0, **design):
    """The table as Runs."""
    rows = quick_rows(**design)
    return Runs.from_rows(add_noise(rows, rng, sd, rho, paired) if sd else rows)
