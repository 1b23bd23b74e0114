"""A compression of a model as a string: `dense`, `w=quest4/channel a=quest4/row`, `s=0.5`.

    scheme := "dense" | part (" " part)*        part := ("w" | "a") "=" quant | "s=" sparse

w are the weights of the block matrices, a their input activations, s the sparsity of the weights.
The canonical string labels every row, table and plot; `Scheme.parse(str(s)) == s`.
"""

from __future__ import annotations

import dataclasses
import re

from bitlaw.formats.sparse_spec import SparseSpec
from bitlaw.formats.spec import QuantSpec
from bitlaw.formats.spec_error import SpecError

# Weights are [in, out]: blocks run along the contraction axis.
_AXIS = {"w": -2, "a": -1}


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What is compressed, and how. Empty is dense.

    Attributes:
        w: quantization of the weights.
        a: quantization of the activations that enter the same matrices.
        s: sparsity of the weights; they are pruned first, and the survivors quantized.
    """

    w: QuantSpec | None = None
    a: QuantSpec | None = None
    s: SparseSpec | None = None

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """The scheme a string names; a ValueError shows a caret under the wrong word."""
        if text.strip() == "dense":
            return cls()
        parts: dict = {}
        for match in re.finditer(r"\S+", text):
            word, at = match[0], match.start()
            key, equals, value = word.partition("=")
            if not equals or key not in ("w", "a", "s"):
                raise SpecError(text, at, word, "part", ["w=...", "a=...", "s=...", "dense"])
            if key in parts:
                raise SpecError(text, at, word, f"{key} is given twice", [])
            try:
                parts[key] = _part(key, value)
            except SpecError as error:
                raise error.within(text, at + 2) from None
        if not parts:
            raise SpecError(text or " ", 0, text, "scheme is empty: write dense", [])
        if parts.get("s") == SparseSpec(0.0):
            del parts["s"]
        return cls(**parts)

    def __str__(self) -> str:
        parts = [f"{k}={v}" for k, v in (("w", self.w), ("a", self.a), ("s", self.s)) if v]
        return " ".join(parts) or "dense"

    @property
    def sparsity(self) -> float:
        """The fraction of the block matrices' weights that is pruned at the end."""
        return self.s.level if self.s else 0.0

    @property
    def bits_per_weight(self) -> float:
        """Bits stored per weight, scales excluded: 16 unquantized; a mask bit where pruned."""
        bits = self.w.bits if self.w else 16.0
        return (1 - self.sparsity) * bits + (1.0 if self.s else 0.0)


def _part(key: str, value: str) -> QuantSpec | SparseSpec:
    return SparseSpec.parse(value) if key == "s" else QuantSpec.parse(value, axis=_AXIS[key])
