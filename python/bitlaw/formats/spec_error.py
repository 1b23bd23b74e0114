"""The error of a bad spec string, and the printing of numbers that parsing inverts."""

from __future__ import annotations

import difflib


class SpecError(ValueError):
    """A bad spec string: what was wrong, a caret under the word, and the nearest valid words.

    Attributes:
        text: the whole string; `at` and `word`: where in it the wrong word begins, and the word.
        what: what was expected, or the whole complaint where `valid` is empty.
        valid: the words that would do.
    """

    def __init__(self, text: str, at: int, word: str, what: str, valid: list[str]):
        self.text, self.at, self.word, self.what, self.valid = text, at, word, what, valid
        near = difflib.get_close_matches(word, valid, n=3, cutoff=0.5) or valid[:8]
        head = f"unknown {what} {word!r}" if valid else what
        hint = f"\n  nearest: {', '.join(near)}" if near else ""
        super().__init__(f"{head}\n  {text}\n  {' ' * at}{'^' * max(len(word), 1)}{hint}")

    def within(self, text: str, at: int) -> SpecError:
        """The same error in a longer string, of which this error's begins at `at`."""
        return SpecError(text, at + self.at, self.word, self.what, self.valid)


def exact(x: float) -> str:
    """The shortest text that parses to this very number: 3, 0.1, 1e-07."""
    return repr(float(x)).removesuffix(".0")
