"""The table of number formats: the rows of cpp/core/formats.hpp and what follows from them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from bitlaw import _core
from bitlaw.ops.grid import NF4

# Bits of a stored scale.
SCALE_BITS = {"f32": 32, "bf16": 16, "pow2": 8, "e8m0_floor": 8, "e8m0_rceil": 8, "e4m3": 8}


@dataclasses.dataclass(frozen=True)
class Format:
    """One number format, or a preset: an element format with other defaults.

    Attributes:
        name: as in a spec string.
        kind: the map of an element: "uniform", "affine", "float" or "nf4" (`bitlaw.ops.grid`).
        bits: bits of a code.
        qmin, qmax, offset: uniform and affine: levels (code + offset) * scale.
        largest: the largest level, in units of the scale.
        smallest_normal, epsilon: float: the smallest normal level, and 2^-mantissa bits.
        granularity, block: what shares a scale unless the spec says otherwise.
        rule, scaling, estimator: how the scale is taken and stored, and how the gradient passes,
            unless the spec says otherwise.
        gauss_clip: the MSE-optimal largest level for N(0, 1), in units of its RMS; 0 if there is
            none.
    """

    name: str
    kind: str
    bits: int
    qmin: int
    qmax: int
    offset: float
    largest: float
    smallest_normal: float
    epsilon: float
    granularity: str
    block: int
    rule: str
    scaling: str
    estimator: str
    gauss_clip: float

    @property
    def grid_levels(self) -> np.ndarray:
        """Every level in units of the scale, ascending (affine: with zero point 0)."""
        if self.kind == "nf4":
            return NF4.astype(np.float64)
        if self.kind != "float":
            return np.arange(self.qmin, self.qmax + 1) + self.offset
        steps = round(1 / self.epsilon)
        normals, power = [], self.smallest_normal
        while power <= self.largest:
            normals += [power * (1 + i / steps) for i in range(steps)]
            power *= 2
        subnormals = [self.smallest_normal * i / steps for i in range(steps)]
        positive = [level for level in (*subnormals, *normals) if level <= self.largest]
        return np.array([-level for level in positive[:0:-1]] + positive)

    @property
    def levels(self) -> int:
        """How many levels there are; the two zeros of a float format are one."""
        return len(self.grid_levels)

    @property
    def smallest(self) -> float:
        """The smallest level above zero, in units of the scale."""
        levels = self.grid_levels
        return float(levels[levels > 0].min())

    @property
    def scale_bits(self) -> float:
        """Bits of scales per element: 0 where the group is not of fixed size."""
        zero_point = 8 if self.kind == "affine" else 0
        return (SCALE_BITS[self.scaling] + zero_point) / self.block if self.block else 0.0

    @property
    def best_gauss_mse(self) -> float:
        """Mean squared error on N(0, 1) with the best scale for it."""
        clip = self.gauss_clip or best_clip(self)
        return gauss_mse(clip / self.largest, self)


def gauss_mse(step: float, fmt: Format) -> float:
    """Mean squared error on N(0, 1) of the format's levels times `step`, in closed form.

    A cell [a, b] with level l adds the integral of (x - l)^2 phi(x), which is
    (1 + l^2) (Phi(b) - Phi(a)) + a phi(a) - b phi(b) - 2 l (phi(a) - phi(b)).
    """
    level = fmt.grid_levels
    if fmt.kind == "affine":  # the zero point in the middle
        level = level - (fmt.qmax + 1) // 2
    level = level * step
    edge = (level[1:] + level[:-1]) / 2
    phi = np.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    cdf = np.array([0.5 * math.erfc(-e / math.sqrt(2)) for e in edge])
    # At the outer edges, -inf and inf, phi and edge * phi vanish.
    mass = np.diff(cdf, prepend=0, append=1)
    first = -np.diff(phi, prepend=0, append=0)
    second = mass - np.diff(edge * phi, prepend=0, append=0)
    return float((second - 2 * level * first + level**2 * mass).sum())


def best_clip(fmt: Format) -> float:
    """The largest level, in units of the RMS, of least error on N(0, 1), by a fine search.

    The error of a float format has a minimum in every octave of the scale.
    """
    clips = np.geomspace(0.5, 4096, 400) if fmt.kind == "float" else np.geomspace(0.5, 8, 200)
    for _ in range(4):
        errors = [gauss_mse(clip / fmt.largest, fmt) for clip in clips]
        at = int(np.argmin(errors))
        clips = np.geomspace(clips[max(at - 1, 0)], clips[min(at + 1, len(clips) - 1)], 40)
    return float(clips[np.argmin([gauss_mse(clip / fmt.largest, fmt) for clip in clips])])


def _row(name: str, kind: str, numbers: tuple, **row) -> Format:
    uniform = kind in ("uniform", "affine")
    qmin, qmax, offset = numbers if uniform else (0, 0, 0.0)
    largest, smallest_normal, epsilon = (qmax + offset, 0.0, 0.0) if uniform else numbers
    return Format(
        name=name,
        kind=kind,
        qmin=int(qmin),
        qmax=int(qmax),
        offset=offset,
        largest=largest,
        smallest_normal=smallest_normal,
        epsilon=epsilon,
        **row,
    )


FORMATS: dict[str, Format] = {row["name"]: _row(**row) for row in _core.formats()}
