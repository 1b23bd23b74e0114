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


def parse_sparse(text: str, at: int, value: str) -> SparseSpec:
    """The spec that `value` names, which stands at column `at` of `text`.

    Raises:
        SpecError: a ValueError with a caret under the wrong word.
    """
    try:
        return SparseSpec(float(value))
    except ValueError as error:
        known = "must be in" in str(error)
        what = str(error) if known else f"sparsity must be a number in [0, 1), got {value!r}"
        raise SpecError(text, at, value, what, []) from None
