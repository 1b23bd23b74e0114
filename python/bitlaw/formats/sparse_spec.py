"""The sparse part of a scheme as a string: `s=0.5`.

sparse := level
"""

from __future__ import annotations

import dataclasses

from bitlaw.formats.spec_error import SpecError, exact


@dataclasses.dataclass(frozen=True)
class SparseSpec:
    """Unstructured magnitude pruning of every block matrix to `level`, in [0, 1)."""

    level: float

    def __post_init__(self):
        if not 0 <= self.level < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.level:g}")

    def __str__(self) -> str:
        return exact(self.level)

    @classmethod
    def parse(cls, text: str) -> SparseSpec:
        """The spec a string names; a `SpecError` shows a caret under the wrong word."""
        try:
            return cls(float(text))
        except ValueError as error:
            known = "must be in" in str(error)
            what = str(error) if known else f"sparsity must be a number in [0, 1), got {text!r}"
            raise SpecError(text, 0, text, what, []) from None
