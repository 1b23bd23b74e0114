"""The table of number formats: one row each.

A row is a uniform grid: levels (code + offset) * scale for whole codes qmin..qmax. Offset 0 has a
zero level; offset 1/2 (mid-rise) has 2^b levels, none of them zero. `gauss_clip` is the largest
level, in units of the RMS, that makes the mean squared error on N(0, 1) smallest.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Format:
    """One number format.

    Attributes:
        name: as in a spec string.
        qmin, qmax: smallest and largest code.
        offset: levels are (code + offset) * scale.
        gauss_clip: the MSE-optimal largest level for N(0, 1), in units of its RMS.
        rule: how the scale is taken unless the spec says otherwise.
        estimator: how the gradient passes unless the spec says otherwise.
    """

    name: str
    qmin: int
    qmax: int
    offset: float
    gauss_clip: float
    rule: str
    estimator: str

    @property
    def levels(self) -> int:
        return self.qmax - self.qmin + 1

    @property
    def bits(self) -> float:
        """log2 of the number of levels: the information in one code."""
        return math.log2(self.levels)

    @property
    def largest(self) -> float:
        """The largest level, in units of the scale."""
        return self.qmax + self.offset


def gauss_mse(step: float, fmt: Format) -> float:
    """Mean squared error on N(0, 1) of the format's grid with this step, in closed form.

    A cell [a, b] with level l adds the integral of (x - l)^2 phi(x), which is
    (1 + l^2) (Phi(b) - Phi(a)) + a phi(a) - b phi(b) - 2 l (phi(a) - phi(b)).
    """
    level = (np.arange(fmt.qmin, fmt.qmax + 1) + fmt.offset) * step
    edge = (level[1:] + level[:-1]) / 2
    phi = np.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    cdf = np.array([0.5 * math.erfc(-e / math.sqrt(2)) for e in edge])
    # At the outer edges, -inf and inf, phi and edge * phi vanish.
    mass = np.diff(cdf, prepend=0, append=1)
    first = -np.diff(phi, prepend=0, append=0)
    second = mass - np.diff(edge * phi, prepend=0, append=0)
    return float((second - 2 * level * first + level**2 * mass).sum())


# MSE-optimal clips of the narrow symmetric grids, re-derived by tests/formats/test_format.py.
_NARROW_CLIP = {
    2: 1.22400636, 3: 1.95230911, 4: 2.47387921, 5: 2.89872787,
    6: 3.27011517, 7: 3.60746069, 8: 3.92050093,
}  # fmt: skip
# QuEST's published clips (arXiv:2502.05003, code); at 8 bits 0.15 % above the smallest error.
_QUEST_CLIP = {
    1: 0.79788456, 2: 1.49353462, 3: 2.05106835, 4: 2.51393058,
    5: 2.91609388, 6: 3.27659728, 7: 3.60104972, 8: 3.88493868,
}  # fmt: skip


def _rows():
    for b, clip in _NARROW_CLIP.items():
        half = 2 ** (b - 1)
        yield Format(f"int{b}", 1 - half, half - 1, 0.0, clip, "absmax", "clip_rounded")
    for b, clip in _QUEST_CLIP.items():
        half = 2 ** (b - 1)
        yield Format(f"quest{b}", -half, half - 1, 0.5, clip, "gauss_mse", "trust")


FORMATS: dict[str, Format] = {row.name: row for row in _rows()}
