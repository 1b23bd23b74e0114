"""One quantization as a string: `int4/channel`, `quest4/row`, `int4/block32/absmax_half`.

    quant := format ("/" mod)*
    mod   := tensor | channel | row | blockN | blockNxM          what shares a scale
           | absmax | absmax_half | rms(k) | gauss_mse           how the scale is taken
           | identity | clip_rounded | trust                     what the gradient passes
           | full                                                the full integer range

Defaults belong to the format's row; the canonical form omits them. `parse(str(spec)) == spec`,
given the spec's axis, which is the caller's and not in the string.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import numpy as np

from bitlaw.formats.format import FORMATS, Format
from bitlaw.formats.quantizer import GRANULARITIES, Quantizer
from bitlaw.formats.spec_error import SpecError, exact
from bitlaw.ops.quantize import ESTIMATORS

RULES = ("absmax", "absmax_half", "rms", "gauss_mse")
ALIASES = {"gauss": "gauss_mse"}
_MODS = ["tensor", "channel", "row", "block32", "block16x16", "absmax", "absmax_half", "rms(3)"]
_MODS += ["gauss_mse", *ESTIMATORS, "full"]


@dataclasses.dataclass(frozen=True)
class QuantSpec:
    """A quantization: a format, what shares a scale, how it is taken, what the gradient passes.

    Attributes:
        format: a name in `FORMATS`.
        granularity: "tensor", "channel", "row", "block" or "tile".
        block, tile: elements per block; rows and columns of a tile.
        rule: "absmax" (scale = absmax / largest level), "absmax_half" (/ (largest + 1/2)), "rms"
            (k RMS / largest), "gauss_mse" (k is the format's MSE-optimal clip for N(0, 1)).
        k: of rms(k); else 0.
        estimator: "identity", "clip_rounded" or "trust".
        full: integers from -2^(b-1) rather than 1 - 2^(b-1).
        axis: the axis blocks run along; a scheme sets -2, the contraction axis, for weights.
    """

    format: str
    granularity: str = "tensor"
    block: int = 0
    tile: int = 0
    rule: str = ""
    k: float = 0.0
    estimator: str = ""
    full: bool = False
    axis: int = -1

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        object.__setattr__(self, "rule", self.rule or self.row.rule)
        object.__setattr__(self, "estimator", self.estimator or self.row.estimator)
        if self.granularity not in GRANULARITIES:
            names = ", ".join(GRANULARITIES)
            raise ValueError(f"granularity must be one of {names}, got {self.granularity!r}")
        if self.rule not in RULES or self.estimator not in ESTIMATORS:
            raise ValueError(
                f"rule must be one of {', '.join(RULES)} and estimator one of "
                f"{', '.join(ESTIMATORS)}, got {self.rule!r} and {self.estimator!r}"
            )
        if self.axis not in (-1, -2):
            raise ValueError(f"axis must be -1 or -2, got {self.axis}")
        if self.full and self.row.offset:
            raise ValueError(f"full is for integer formats, got {self.format}")
        if self.full and self.rule == "gauss_mse":
            raise ValueError("gauss_mse has no constant for full-range integers, got full")
        if (self.rule == "rms") != (self.k > 0) or not math.isfinite(self.k):
            raise ValueError(f"rms must have a finite factor above 0, as in rms(3), got {self.k}")
        blocks = {"block": self.block >= 1 and not self.tile,
                  "tile": self.block >= 1 and self.tile >= 1}  # fmt: skip
        if not blocks.get(self.granularity, not self.block and not self.tile):
            raise ValueError(
                f"block must be at least 1 with blocks and 0 without, got {self.block} and "
                f"{self.tile} with {self.granularity}"
            )

    @property
    def row(self) -> Format:
        """The format's row of the table, for the range this spec uses."""
        row = FORMATS[self.format]
        return dataclasses.replace(row, qmin=row.qmin - 1) if self.full else row

    @property
    def bits(self) -> float:
        """Bits per element, scales excluded."""
        return self.row.bits

    @property
    def structure(self) -> Quantizer:
        """What is static under jit; equal for all formats that share a compiled program."""
        statistic = "absmax" if self.rule.startswith("absmax") else "rms"
        return Quantizer(
            self.granularity, statistic, self.estimator, self.block, self.tile, self.axis
        )

    @functools.cached_property
    def grid(self) -> np.ndarray:
        """f32[4], an operand: qmin, qmax, offset, and span, the steps that the statistic covers."""
        row = self.row
        span = {
            "absmax": row.largest,
            "absmax_half": row.largest + 0.5,
            "rms": row.largest / (self.k or 1.0),
            "gauss_mse": row.largest / row.gauss_clip,
        }[self.rule]
        return np.array([row.qmin, row.qmax, row.offset, span], np.float32)

    def __str__(self) -> str:
        size = {"tensor": "", "block": f"/block{self.block}"}
        size["tile"] = f"/block{self.block}x{self.tile}"
        text = self.format + size.get(self.granularity, f"/{self.granularity}")
        if self.rule == "rms":
            text += f"/rms({exact(self.k)})"
        elif self.rule != FORMATS[self.format].rule:
            text += f"/{self.rule}"
        if self.estimator != FORMATS[self.format].estimator:
            text += f"/{self.estimator}"
        return text + ("/full" if self.full else "")

    @classmethod
    def parse(cls, text: str, *, axis: int = -1) -> QuantSpec:
        """The spec a string names; a ValueError shows a caret under the wrong word."""
        words = text.split("/")
        if words[0] not in FORMATS:
            raise SpecError(text, 0, words[0], "format", list(FORMATS))
        fields, at = {"format": words[0], "axis": axis}, len(words[0]) + 1
        for word in words[1:]:
            field = _mod(ALIASES.get(word, word))
            if field is None:
                raise SpecError(text, at, word, "modifier", _MODS)
            repeated = [name for name in field if name in fields]
            if repeated:
                raise SpecError(text, at, word, f"second {repeated[0]}", [])
            fields |= field
            at += len(word) + 1
        try:
            return cls(**fields)
        except ValueError as error:
            raise SpecError(text, 0, text, str(error), []) from None


def _mod(word: str) -> dict | None:
    """The fields that a modifier sets, or None."""
    if word in ("tensor", "channel", "row"):
        return {"granularity": word}
    if word in ("absmax", "absmax_half", "gauss_mse"):
        return {"rule": word}
    if word in ESTIMATORS:
        return {"estimator": word}
    if word == "full":
        return {"full": True}
    if match := re.fullmatch(r"block([1-9]\d*)", word):
        return {"granularity": "block", "block": int(match[1])}
    if match := re.fullmatch(r"block([1-9]\d*)x([1-9]\d*)", word):
        return {"granularity": "tile", "block": int(match[1]), "tile": int(match[2])}
    if match := re.fullmatch(r"rms\(((\d+\.?\d*|\.\d+)(e[+-]?\d+)?)\)", word):
        return {"rule": "rms", "k": float(match[1])}
    return None
