"""One quantization as a string: `int4/channel`, `mxfp4`, `quest4/row/hadamard128/stochastic`.

    quant := (format | module ":" function) ("/" mod)*
    mod   := tensor | channel | row | blockN | blockNxM          what shares a scale
           | absmax | absmax_half | rms(k) | gauss_mse | mse_search | learned | delayed | fixed(s)
                                                                 how the scale is taken
           | scale_bf16 | scale_pow2 | e8m0_floor | e8m0_rceil   how it is stored
           | stochastic | toward_zero | away                     how values are rounded
           | identity | clip_value | clip_rounded | trust | lsq | lsq_plus | pact
                                                                 what the gradient passes
           | hadamardN                                           rotated in runs of N before
           | full                                                the full integer range

Defaults belong to the format's row; the canonical form omits them. `parse(str(spec)) == spec`,
given the spec's axis and gradient, which are the caller's and not in the string. A function of the
user, `module:function` (ste.py), takes no modifiers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import numpy as np

from bitlaw.formats.delayed import DelayedQuantizer
from bitlaw.formats.format import FORMATS, Format
from bitlaw.formats.learned import LearnedQuantizer
from bitlaw.formats.quantizer import GRANULARITIES, Quantizer
from bitlaw.formats.spec_error import SpecError, exact

RULES = (
    *("absmax", "absmax_half", "rms", "gauss_mse", "mse_search"),
    *("learned", "delayed", "fixed"),
)
SCALINGS = {
    "scale_bf16": "bf16",
    "scale_pow2": "pow2",
    "e8m0_floor": "e8m0_floor",
    "e8m0_rceil": "e8m0_rceil",
}
ROUNDINGS = ("stochastic", "toward_zero", "away")  # besides nearest
LEARNED = ("lsq", "lsq_plus", "pact")  # estimators of learned scales
ESTIMATORS = ("identity", "clip_value", "clip_rounded", "trust", *LEARNED)
HADAMARDS = tuple(2**k for k in range(4, 13))
ALIASES = {"gauss": "gauss_mse", "e4m3fn": "e4m3"}

# Word -> the field it sets. Words with a number in them are read by `_numbered`.
_MODS: dict[str, dict[str, Any]] = {
    **{word: {"granularity": word} for word in ("tensor", "channel", "row")},
    **{word: {"rule": word} for word in RULES if word not in ("rms", "fixed")},
    **{word: {"scaling": scaling} for word, scaling in SCALINGS.items()},
    **{word: {"rounding": word} for word in ROUNDINGS},
    **{word: {"estimator": word} for word in ESTIMATORS},
    **{f"hadamard{n}": {"hadamard": n} for n in HADAMARDS},
    "full": {"full": True},
}
_SHOWN = [*_MODS, "block32", "block16x16", "rms(3)", "fixed(0.1)"]
_NUMBER = r"((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"


@dataclasses.dataclass(frozen=True)
class QuantSpec:
    """A quantization: a format, what shares a scale, how it is taken, what the gradient passes.

    Empty strings are the defaults of the format's row.

    Attributes:
        format: a name in `FORMATS`.
        granularity: "tensor", "channel", "row", "block" or "tile".
        block, tile: elements per block; rows and columns of a tile.
        rule: "absmax" (scale = absmax / largest level), "absmax_half" (/ (largest + 1/2)), "rms"
            (k RMS / largest), "gauss_mse" (k is the format's MSE-optimal clip for N(0, 1)),
            "mse_search" (the best of 8 fractions of absmax), "learned" (a parameter), "delayed" (of
            the largest values of past steps), "fixed" (k is the scale).
        k: of rms(k) and fixed(k); else 0.
        scaling: how a scale is stored: "f32", "bf16", "pow2", "e8m0_floor", "e8m0_rceil", "e4m3".
        rounding: "nearest", "stochastic", "toward_zero" or "away".
        estimator: one of ESTIMATORS.
        hadamard: columns of a rotated run, 16..4096; 0 for none.
        full: integers from -2^(b-1) rather than 1 - 2^(b-1).
        axis: the axis blocks run along; a scheme sets -2, the contraction axis, for weights.
        gradient: of a scheme's g: the preset fp8 is then e5m2.
    """

    format: str
    granularity: str = ""
    block: int = 0
    tile: int = 0
    rule: str = ""
    k: float = 0.0
    scaling: str = ""
    rounding: str = "nearest"
    estimator: str = ""
    hadamard: int = 0
    full: bool = False
    axis: int = -1
    gradient: bool = False

    def __post_init__(self):
        _among("format", self.format, tuple(FORMATS))
        row = FORMATS[self.format]
        if not self.granularity:
            object.__setattr__(self, "granularity", row.granularity)
            object.__setattr__(self, "block", self.block or row.block)
        if self.estimator in LEARNED and not self.rule:
            object.__setattr__(self, "rule", "learned")
        object.__setattr__(self, "rule", self.rule or row.rule)
        object.__setattr__(self, "estimator", self.estimator or self._default_estimator)
        object.__setattr__(self, "scaling", self.scaling or row.scaling)
        for name, choices in (
            ("granularity", GRANULARITIES),
            ("rule", RULES),
            ("scaling", (*SCALINGS.values(), row.scaling)),
            ("rounding", ("nearest", *ROUNDINGS)),
            ("estimator", ESTIMATORS),
            ("hadamard", (0, *HADAMARDS)),
            ("axis", (-1, -2)),
        ):
            _among(name, getattr(self, name), choices)
        self._check_sizes()
        self._check_scale(row)

    @property
    def _default_estimator(self) -> str:
        row = FORMATS[self.format]
        if self.rule == "learned":
            return "lsq_plus" if row.kind == "affine" else "lsq"
        return row.estimator

    def _check_sizes(self) -> None:
        wanted = {
            "block": self.block >= 1 and not self.tile,
            "tile": self.block >= 1 and self.tile >= 1,
        }
        if not wanted.get(self.granularity, not self.block and not self.tile):
            raise ValueError(
                f"block must be at least 1 with blocks and 0 without, got {self.block} and "
                f"{self.tile} with {self.granularity}"
            )

    def _check_scale(self, row: Format) -> None:
        """What the format, the rule and the rest allow together."""
        uniform, name = row.kind in ("uniform", "affine"), self.format
        if self.full and not (row.kind == "uniform" and row.name.startswith("int")):
            raise ValueError(f"full is for integer formats, got {name}")
        if self.rule == "gauss_mse" and (self.full or not row.gauss_clip):
            raise ValueError(f"gauss_mse has no constant for {name}{'/full' * self.full}")
        if (self.rule in ("rms", "fixed")) != (self.k > 0) or not math.isfinite(self.k):
            raise ValueError(f"rms must have a finite factor above 0, as in rms(3), got {self.k}")
        if (self.rule == "learned") != (self.estimator in LEARNED):
            raise ValueError(
                f"learned must have one of the estimators {', '.join(LEARNED)}, and they need it, "
                f"got {self.rule} and {self.estimator}"
            )
        if self.rule == "learned" and not (uniform and self.scaling == "f32" and not self.hadamard):
            raise ValueError(
                f"learned must be of an integer or quest format with f32 scales and no hadamard, "
                f"got {name} with {self.scaling} scales and hadamard {self.hadamard}"
            )
        if self.estimator == "lsq_plus" and row.offset:
            raise ValueError(f"lsq_plus must be of an integer format, got {name}")
        if self.estimator == "pact" and row.kind != "affine":
            raise ValueError(f"pact must be of an unsigned format such as uint4, got {name}")
        if self.rule == "absmax_half" and row.kind == "nf4":
            raise ValueError(f"absmax_half needs levels of one distance, got {name}")
        if self.rule in ("delayed", "fixed") and self.granularity != "tensor":
            raise ValueError(f"{self.rule} must have one scale per tensor, got {self.granularity}")
        if row.kind == "affine" and self.rule not in ("absmax", "learned"):
            raise ValueError(f"{name} must have the rule absmax or learned, got {self.rule}")

    @property
    def row(self) -> Format:
        """The format's row of the table, for the range this spec uses."""
        row = FORMATS[self.format]
        if self.gradient and self.format == "fp8":
            e5m2 = FORMATS["e5m2"]
            numbers = ("largest", "smallest_normal", "epsilon")
            return dataclasses.replace(row, **{name: getattr(e5m2, name) for name in numbers})
        return dataclasses.replace(row, qmin=row.qmin - 1) if self.full else row

    @property
    def bits(self) -> float:
        """Bits per element, scales excluded: log2 of the number of levels."""
        return math.log2(self.row.levels)

    @property
    def _passes_all(self) -> bool:
        """Whether no element is masked, so that no mask need be kept: absmax clips nothing.

        Not so with clip_value, past whose end an ulp is too much, nor where scales are rounded.
        """
        exact = self.rule == "absmax" and self.scaling == "f32" and self.rounding == "nearest"
        clips_nothing = exact and self.row.kind in ("uniform", "float")
        return self.estimator in LEARNED or (
            clips_nothing and self.estimator in ("clip_rounded", "trust")
        )

    @functools.cached_property
    def structure(self) -> Quantizer | LearnedQuantizer | DelayedQuantizer:
        """What is static under jit; equal for all formats that share a compiled program."""
        statistic = {
            "absmax": "range" if self.row.kind == "affine" else "absmax",
            "absmax_half": "absmax",
            "mse_search": "mse_search",
            "rms": "rms",
            "gauss_mse": "rms",
        }
        quantizer = Quantizer(
            granularity=self.granularity,
            statistic=statistic.get(self.rule, "given"),
            estimator="identity" if self._passes_all else self.estimator,
            block=self.block,
            tile=self.tile,
            axis=self.axis,
            kind="affine" if self.estimator == "lsq_plus" else self.row.kind,
            rounding=self.rounding,
            scaling=self.scaling,
            hadamard=self.hadamard,
        )
        if self.rule == "learned":
            return LearnedQuantizer(quantizer, self.estimator)
        return DelayedQuantizer(quantizer) if self.rule == "delayed" else quantizer

    @functools.cached_property
    def grid(self) -> np.ndarray:
        """f32[5], an operand: three numbers of the element map, span and 1.

        qmin, qmax, offset, or largest, smallest normal and epsilon of a float format; span is how
        many steps the statistic covers (of fixed(s): s itself).
        """
        row, half = self.row, 0.5
        if row.kind == "float":  # half a step at the largest level
            half = row.epsilon * 2.0 ** math.floor(math.log2(row.largest)) / 2
        numbers = {
            "float": (row.largest, row.smallest_normal, row.epsilon),
            "nf4": (row.largest, 0, 0),
        }.get(row.kind, (row.qmin, row.qmax, row.offset))
        span = {
            "absmax_half": row.largest + half,
            "rms": row.largest / (self.k or 1.0),
            "gauss_mse": row.largest / (row.gauss_clip or 1.0),
            "fixed": self.k,
        }.get(self.rule, row.largest)
        return np.array([*numbers, span, 1.0], np.float32)

    def __str__(self) -> str:
        row = FORMATS[self.format]
        words = [self.format]
        if (self.granularity, self.block) != (row.granularity, row.block) or self.tile:
            sizes = {"block": f"block{self.block}", "tile": f"block{self.block}x{self.tile}"}
            words.append(sizes.get(self.granularity, self.granularity))
        estimator = [self.estimator] * (self.estimator != self._default_estimator)
        if self.rule != row.rule and not set(estimator) & set(LEARNED):  # these say learned
            words.append(f"{self.rule}({exact(self.k)})" if self.k else self.rule)
        if self.scaling != row.scaling:
            words += [word for word, scaling in SCALINGS.items() if scaling == self.scaling]
        if self.rounding != "nearest":
            words.append(self.rounding)
        words += estimator
        words += [f"hadamard{self.hadamard}"] * bool(self.hadamard) + ["full"] * self.full
        return "/".join(words)

    @classmethod
    def parse(cls, text: str, *, axis: int = -1, gradient: bool = False) -> QuantSpec:
        """The spec a string names; a ValueError shows a caret under the wrong word."""
        first, *words = text.split("/")
        name = ALIASES.get(first, first)
        if name not in FORMATS:
            raise SpecError(text, 0, first, "format", list(FORMATS))
        fields, at = {"format": name, "axis": axis, "gradient": gradient}, len(first) + 1
        for word in words:
            field = _MODS.get(ALIASES.get(word, word)) or _numbered(word)
            if field is None:
                raise SpecError(text, at, word, "modifier", _SHOWN)
            repeated = [name for name in field if name in fields]
            if repeated:
                raise SpecError(text, at, word, f"second {repeated[0]}", [])
            fields |= field
            at += len(word) + 1
        try:
            return cls(**fields)
        except ValueError as error:
            raise SpecError(text, 0, text, str(error), []) from None


def _among(name: str, value: Any, choices: tuple) -> None:
    if value not in choices:
        shown = ", ".join(map(str, dict.fromkeys(choices)))
        raise ValueError(f"{name} must be one of {shown}, got {value!r}")


def _numbered(word: str) -> dict[str, Any] | None:
    """The fields of a modifier with a number in it, or None."""
    if match := re.fullmatch(r"block([1-9]\d*)", word):
        return {"granularity": "block", "block": int(match[1])}
    if match := re.fullmatch(r"block([1-9]\d*)x([1-9]\d*)", word):
        return {"granularity": "tile", "block": int(match[1]), "tile": int(match[2])}
    if match := re.fullmatch(rf"(rms|fixed)\({_NUMBER}\)", word):
        return {"rule": match[1], "k": float(match[2])}
    return None
