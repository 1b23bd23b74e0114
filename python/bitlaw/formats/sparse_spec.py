"""The sparsity of the weights as a string: `0.5`, `2:4`, `0.75/global`, `0.9/rigl`, `0.5/block4x4`.

    sparse := (level | N ":" M) ("/" smod)*
    smod   := layer | global                                   what shares a count of weights
            | blockHxW | transposable                          which weights go together
            | oneshot | static | ste | sr_ste | s_ste          when and how they are chosen;
            | rigl | set | acdc                                gradually if nothing is said

N:M keeps N of every M consecutive weights along the contraction axis. Defaults are omitted in the
canonical form, whose order is pattern, scope, method. `parse_sparse(str(spec)) == spec`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re

from bitlaw.formats.spec_error import SpecError

METHODS = ("gradual", "oneshot", "static", "ste", "sr_ste", "s_ste", "rigl", "set", "acdc")
SCOPES = ("layer", "global")
_REGROWING = ("rigl", "set")
_SCHEDULES = ("gradual", "oneshot", "static", "acdc")  # differ in when, not in how
_MODS = ["layer", "global", "block4x4", "transposable", *METHODS[1:]]


@dataclasses.dataclass(frozen=True)
class SparseSpec:
    """Which share of every block matrix is pruned, in which pattern, and how it is chosen.

    Attributes:
        level: sparsity, in [0, 1); of n:m it is 1 - n / m.
        n, m: keep n of every m; 0 without.
        scope: "layer" (every matrix keeps the same share) or "global" (one count for all).
        block: rows and columns of a block that is kept or pruned whole; (0, 0) without.
        transposable: n:m along both axes.
        method: "gradual" (a cubic ramp), "oneshot", "static" (a fixed mask from the start), "ste",
            "sr_ste" and "s_ste" (dense weights behind a mask made every step), "rigl" and "set"
            (pruned weights regrow by gradient or at random), "acdc" (dense and sparse by turns).
    """

    level: float = 0.0
    n: int = 0
    m: int = 0
    scope: str = "layer"
    block: tuple[int, int] = (0, 0)
    transposable: bool = False
    method: str = "gradual"

    def __post_init__(self):
        if self.m or self.n:
            if not 1 <= self.m <= 64:
                raise ValueError(f"m must be in [1, 64], got {self.m}")
            if not 1 <= self.n <= self.m:
                raise ValueError(f"n must be in [1, m], got {self.n}:{self.m}")
            object.__setattr__(self, "level", 1 - self.n / self.m)
        if not 0 <= self.level < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {self.level:g}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {self.scope!r}")
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        object.__setattr__(self, "block", tuple(self.block))
        self._check_combination()

    def _check_combination(self) -> None:
        """Raises ValueError for what no method does."""
        blocks = self.block != (0, 0)
        if blocks and min(self.block) < 1:
            raise ValueError(f"block must have at least 1 row and column, got {self.block}")
        refused = {
            "transposable is for n:m alone": self.transposable and (not self.m or blocks),
            "block is not for n:m": blocks and self.m,
            "global is not for blocks, whose counts are local": self.scope == "global" and blocks,
            "s_ste is for n:m": self.method == "s_ste"
            and (not self.m or self.transposable or self.scope == "global"),
            "rigl and set keep unstructured counts per layer": self.method in _REGROWING
            and (self.m or blocks or self.scope == "global"),
        }
        for rule, broken in refused.items():
            if broken:
                raise ValueError(f"{rule}, got {self}")

    @property
    def structure(self) -> SparseSpec:
        """What is compiled into a program: the spec at a level and schedule that stand for all."""
        method = "gradual" if self.method in _SCHEDULES else self.method
        return dataclasses.replace(self, level=0.5, method=method)

    def __str__(self) -> str:
        words = [f"{self.n}:{self.m}" if self.m else repr(float(self.level)).removesuffix(".0")]
        if self.block != (0, 0):
            words.append("block{}x{}".format(*self.block))
        words += ["transposable"] * self.transposable + ["global"] * (self.scope == "global")
        return "/".join(words + [self.method] * (self.method != "gradual"))


def parse_sparse(text: str, at: int, value: str) -> SparseSpec:
    """The spec that `value` names, which stands at column `at` of `text`.

    Raises:
        SpecError: a ValueError with a caret under the wrong word.
    """
    head, *mods = value.split("/")
    column = at + len(head) + 1
    fields: dict = {}
    for word in mods:
        field = _mod(word)
        if field is None:
            near = difflib.get_close_matches(word, _MODS, n=3, cutoff=0.5) or _MODS
            raise SpecError(text, column, word, "modifier", near)
        if repeated := [name for name in field if name in fields]:
            raise SpecError(text, column, word, f"second {repeated[0]}", [])
        fields |= field
        column += len(word) + 1
    try:
        if match := re.fullmatch(r"(\d+):(\d+)", head):
            return SparseSpec(n=int(match[1]), m=int(match[2]) or -1, **fields)
        return SparseSpec(_level(head), **fields)
    except ValueError as error:
        raise SpecError(text, at, value, str(error), []) from None


def _level(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(
            f"sparsity must be a number in [0, 1), got {word!r}; or N:M, which keeps N of every M"
        ) from None


def _mod(word: str) -> dict | None:
    """The field that a modifier sets, or None."""
    if word in SCOPES:
        return {"scope": word}
    if word in METHODS[1:]:
        return {"method": word}
    if word == "transposable":
        return {"transposable": True}
    if match := re.fullmatch(r"block([1-9]\d*)x([1-9]\d*)", word):
        return {"block": (int(match[1]), int(match[2]))}
    return None
