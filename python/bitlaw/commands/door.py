"""What the user typed, checked before anything runs."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence


class UsageError(Exception):
    """The command line is wrong: exit code 2."""


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Turns the ValueError of a check on the user's arguments into exit code 2.

    Only what judges the user's input goes inside: a ValueError from anywhere else is a defect of
    ours and keeps its traceback.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_schemes(argument: str, texts: Sequence[str]) -> None:
    """Raises UsageError, in one line, for the first text that is no scheme."""
    from bitlaw.formats import Scheme

    for text in texts:
        try:
            Scheme.parse(text)
        except ValueError as error:  # its lines: what, the text, carets, the nearest
            what, *below = str(error).splitlines()
            hints = [line.strip() for line in below if line.lstrip().startswith("nearest:")]
            nearest = f" ({hints[0]})" if hints else ""
            raise UsageError(f"{argument}: {what} in {text!r}{nearest}") from error


def find_law(name: str) -> None:
    """Raises ValueError where there is no such law; your own is looked for where you are, too."""
    from bitlaw.laws import forms

    if ":" in name and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    forms.find(name)


def source(data: tuple[str, ...]) -> str | tuple[str, ...]:
    """What `train.data.load` takes: the name of one of its sources, or paths."""
    return data[0] if data in (("stdlib",), ("installed",)) else data
