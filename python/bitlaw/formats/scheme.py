"""A compression of a model as a string: `dense`, `w=quest4/channel a=quest4/row`, `s=0.5`.

    scheme := "dense" | part (" " part)*        part := ("w" | "a" | "g") "=" quant | "s=" sparse

w are the weights of the block matrices, a their input activations, g the gradients of their
outputs, s the sparsity of the weights. The canonical string labels every row, table and plot;
`Scheme.parse(str(s)) == s`.
"""

from __future__ import annotations

import dataclasses
import re

from bitlaw.formats.sparse_spec import SparseSpec, parse_sparse
from bitlaw.formats.spec import QuantSpec
from bitlaw.formats.spec_error import SpecError
from bitlaw.formats.ste import UserSpec

# Weights are [in, out]: blocks run along the contraction axis.
_ROLES = {"w": {"axis": -2}, "a": {"axis": -1}, "g": {"axis": -1, "gradient": True}}


def parse_quant(
    spec: QuantSpec | UserSpec | str | None, *, axis: int = -1, gradient: bool = False
) -> QuantSpec | UserSpec | None:
    """The quantization a string names, a format's or a user's `module:function`.

    Specs pass as they are, and None.
    """
    if not isinstance(spec, str):
        return spec
    if ":" in spec.split("/")[0]:
        return UserSpec.parse(spec)
    return QuantSpec.parse(spec, axis=axis, gradient=gradient)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What is compressed, and how. Empty is dense.

    Attributes:
        w: quantization of the weights.
        a: quantization of the activations that enter the same matrices.
        s: sparsity of the weights; they are pruned first, and the survivors quantized.
        g: quantization of the gradients that arrive at the outputs of the same matrices.
    """

    w: QuantSpec | UserSpec | None = None
    a: QuantSpec | UserSpec | None = None
    s: SparseSpec | None = None
    g: QuantSpec | UserSpec | None = None

    def __post_init__(self):
        rule, granularity = getattr(self.a, "rule", ""), getattr(self.a, "granularity", "")
        if rule == "learned" and granularity != "tensor":
            raise ValueError(
                f"a must learn one scale per tensor, as its rows are new at every step, "
                f"got {granularity}"
            )
        if self.s is not None and getattr(self.w, "hadamard", 0):
            raise ValueError(
                f"w must not be rotated where it is pruned, as zeros do not last, got {self.w}"
            )
        if getattr(self.g, "rule", "") in ("learned", "delayed"):
            raise ValueError(f"g must not have learned or delayed scales, got {self.g}")

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """The scheme a string names; a ValueError shows a caret under the wrong word."""
        if text.strip() == "dense":
            return cls()
        parts: dict = {}
        for match in re.finditer(r"\S+", text):
            word, at = match[0], match.start()
            key, equals, value = word.partition("=")
            if not equals or key not in (*_ROLES, "s"):
                valid = [*(f"{key}=..." for key in (*_ROLES, "s")), "dense"]
                raise SpecError(text, at, word, "part", valid)
            if key in parts:
                raise SpecError(text, at, word, f"{key} is given twice", [])
            if key == "s":
                parts[key] = parse_sparse(text, at + 2, value)
                continue
            try:
                parts[key] = parse_quant(value, **_ROLES[key])
            except SpecError as error:
                raise error.within(text, at + 2) from None
        if not parts:
            raise SpecError(text or " ", 0, text, "scheme is empty: write dense", [])
        if parts.get("s") == SparseSpec(0.0):
            del parts["s"]
        try:
            return cls(**parts)
        except ValueError as error:
            raise SpecError(text, 0, text, str(error), []) from None

    def __str__(self) -> str:
        parts = [f"{k}={v}" for k in ("w", "a", "g", "s") if (v := getattr(self, k)) is not None]
        return " ".join(parts) or "dense"

    @property
    def sparsity(self) -> float:
        """The fraction of the block matrices' weights that is pruned at the end."""
        return self.s.level if self.s else 0.0

    @property
    def digests(self) -> tuple[str, ...]:
        """The sources of the user's quantizers in the scheme, as sha256."""
        specs = (self.w, self.a, self.g)
        return tuple(spec.digest for spec in specs if isinstance(spec, UserSpec))

    @property
    def bits_per_weight(self) -> float:
        """Bits stored per weight, scales excluded: 16 unquantized; a mask bit where pruned."""
        bits = self.w.bits if self.w else 16.0
        return (1 - self.sparsity) * bits + (1.0 if self.s else 0.0)
