"""What a fit minimises: a record that every fit states and every published table brings along."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESIDUALS = ("log", "log10", "loss")
REDUCTIONS = ("sum", "mean")
DEFAULT_DELTA = 0.01  # 1 % of the loss: about the seed noise of a small model
HUBER_EFFICIENCY = 1.345  # delta in standard deviations: 95 % efficient on normal noise
SQUARES = 1e100  # as a delta: no residual is an outlier


@dataclass(frozen=True)
class Objective:
    """Huber's loss of the residuals r = f(L_hat) - f(L), summed or averaged over the runs.

        Huber(r) = r^2 / 2 where |r| <= delta, delta (|r| - delta / 2) elsewhere

    residual   f: "log", "log10", or "loss" (the loss itself)
    delta      Huber's; None is least squares
    reduction  "sum" or "mean": the same optimum, another printed value
    """

    residual: str = "log"
    delta: float | None = None
    reduction: str = "sum"

    def __post_init__(self):
        if self.residual not in RESIDUALS:
            raise ValueError(f"residual must be one of {RESIDUALS}, got {self.residual!r}")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, got {self.reduction!r}")
        if self.delta is not None and not self.delta > 0:
            raise ValueError(f"delta must be positive, got {self.delta}")

    @property
    def huber_delta(self) -> float:
        """delta as a number."""
        return SQUARES if self.delta is None else self.delta

    def of_loss(self, loss: Array) -> Array:
        """f(loss); NaN where the logarithm of a predicted loss does not exist."""
        with np.errstate(all="ignore"):
            return {"log": np.log, "log10": np.log10, "loss": np.asarray}[self.residual](loss)

    def value(self, loss: Array, fitted: Array) -> float:
        """The objective of these predictions."""
        size = np.abs(self.of_loss(fitted) - self.of_loss(loss))
        delta = self.huber_delta
        huber = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
        return float(np.sum(huber) if self.reduction == "sum" else np.mean(huber))

    def __str__(self) -> str:
        name = {"log": "log L", "log10": "log10 L", "loss": "L"}[self.residual]
        kind = "squares / 2" if self.delta is None else f"Huber, delta = {self.delta:.4g},"
        return f"{self.reduction} of {kind} of the residuals of {name}"


def replicate_delta(cells: Sequence[Hashable], loss: Array) -> tuple[float, str]:
    """Huber's delta on log residuals, and where it came from.

    1.345 pooled standard deviations of log loss over the runs of equal ``cells``.
    """
    groups: dict[Hashable, list[float]] = {}
    for cell, one in zip(cells, loss, strict=True):
        groups.setdefault(cell, []).append(math.log(one))
    freedom = len(loss) - len(groups)
    if freedom:
        squares = sum(float(np.var(group)) * len(group) for group in groups.values())
        sd = math.sqrt(squares / freedom)
        if sd > 1e-6:  # identical replicates are copies, not noise
            source = f"{HUBER_EFFICIENCY} x replicate sd {sd:.2%} ({freedom} degrees of freedom)"
            return HUBER_EFFICIENCY * sd, source
    return DEFAULT_DELTA, "default (no replicates in the table)"
