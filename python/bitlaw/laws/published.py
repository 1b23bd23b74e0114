"""Effective parameter multipliers from the literature, by the scheme they come closest to.

Closest means: same bits for weights and activations, same sparsity, a scale per output channel for
weights and per token for activations. None of them was measured on models below 30M parameters, and
none with exactly our recipe: they stand beside a measurement, they do not check it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bitlaw.laws.runs import ordered

QUEST = "QuEST, arXiv:2502.05003"
CAPACITY = "arXiv:2506.01863"
UNIFIED = "arXiv:2502.16440, second-hand (as summarised by a third party; granularity not public)"

BITS = (1, 2, 3, 4, 16)
SPARSITIES = (0.0, 0.25, 0.5, 0.75)

# Weights only, with a Hadamard transform. By bits.
QUEST_WEIGHTS = {1: 0.138, 2: 0.414, 3: 0.653, 4: 0.840}
# Weights and activations, with a Hadamard transform. By bits.
QUEST_BOTH = {1: 0.02, 2: 0.16, 3: 0.43, 4: 0.70, 8: 1.02}
# Rows: weight bits, columns: activation bits, both as BITS.
CAPACITY_BOTH = (
    (0.09, 0.15, 0.19, 0.20, 0.21),
    (0.15, 0.30, 0.40, 0.45, 0.45),
    (0.19, 0.42, 0.62, 0.70, 0.74),
    (0.20, 0.46, 0.72, 0.85, 0.90),
    (0.21, 0.48, 0.76, 0.91, 1.00),
)
# By weight bits, columns as SPARSITIES.
CAPACITY_SPARSE = {
    2: (0.57, 0.54, 0.42, 0.33),
    3: (0.75, 0.66, 0.57, 0.35),
    4: (0.87, 0.81, 0.68, 0.46),
    8: (0.99, 0.90, 0.75, 0.51),
    16: (1.00, 0.84, 0.70, 0.50),
}
UNIFIED_VALUES = {
    "w=quest4/channel": 0.923,
    "w=quest8/channel a=quest8/row": 0.857,  # that it is weights and activations is inferred
    "w=quest4/channel a=quest4/row": 0.747,
    "w=quest1/channel a=quest1/row": 0.067,
    "s=0.5": 0.871,
}


class Published(NamedTuple):
    """One published multiplier and where it was published."""

    value: float
    source: str


def effective(scheme: str) -> list[Published]:
    """The published multipliers of this scheme, best match first; empty where there is none."""
    return list(_TABLE.get(scheme, ()))


def sources(schemes: Iterable[str]) -> list[str]:
    """The sources of these schemes' multipliers, each once; a table numbers them by their place.

    The place depends on the set of schemes alone, not on their order.
    """
    return list(dict.fromkeys(p.source for scheme in ordered(schemes) for p in effective(scheme)))


def _scheme(w: int = 16, a: int = 16, s: float = 0.0) -> str:
    """The scheme string of these bits and this sparsity."""
    parts = [f"w=quest{w}/channel"] if w < 16 else []
    parts += [f"a=quest{a}/row"] if a < 16 else []
    parts += [f"s={s:g}"] if s else []
    return " ".join(parts) or "dense"


def _table() -> dict[str, list[Published]]:
    entries = [(_scheme(w=k), v, f"{QUEST}, weights only") for k, v in QUEST_WEIGHTS.items()]
    entries += [(_scheme(w=k, a=k), v, QUEST) for k, v in QUEST_BOTH.items()]
    for w, row in zip(BITS, CAPACITY_BOTH, strict=True):
        entries += [(_scheme(w=w, a=a), v, CAPACITY) for a, v in zip(BITS, row, strict=True)]
    for w, row in CAPACITY_SPARSE.items():
        entries += [
            (_scheme(w=w, s=s), v, f"{CAPACITY}, sparse table")
            for s, v in zip(SPARSITIES, row, strict=True)
        ]
    entries += [(scheme, v, UNIFIED) for scheme, v in UNIFIED_VALUES.items()]
    table: dict[str, list[Published]] = {}
    for scheme, value, source in entries:
        if scheme != "dense":
            table.setdefault(scheme, []).append(Published(value, source))
    return table


_TABLE = _table()
