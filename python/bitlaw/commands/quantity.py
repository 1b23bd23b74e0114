"""Amounts as people type them: 8GB, 1e21, 3.5e9, 20B tokens."""

import math
import re

BYTES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
         "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}  # fmt: skip
COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15,
          "E": 1e18, "Z": 1e21, "Y": 1e24}  # fmt: skip
AMOUNT = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(.*?)\s*", re.IGNORECASE)


def memory(argument: str, text: str) -> float:
    """Bytes: 8GB is 8e9, 8GiB is 8 * 2^30, a bare number is bytes."""
    return _amount(argument, text, BYTES, "B", "8GB, 500MB, 8GiB")


def count(argument: str, text: str, unit: str = "", examples: str = "1e21, 20B") -> float:
    """A count, with a suffix (B and G are 1e9) and a unit that may be left out: "20B tokens"."""
    return _amount(argument, text, COUNTS, unit, examples)


def _amount(argument: str, text: str, suffixes: dict, unit: str, examples: str) -> float:
    wrong = ValueError(f"{argument} must be an amount such as {examples}, got {text!r}")
    match = AMOUNT.fullmatch(text)
    if not match:
        raise wrong
    rest = match[2]
    if unit and rest.lower() not in (s.lower() for s in suffixes):
        for name in (unit, unit.removesuffix("s")):
            if rest.lower().endswith(name.lower()):
                rest = rest[: -len(name)].strip()
                break
    if rest not in suffixes:
        raise wrong
    try:
        value = float(match[1]) * suffixes[rest]
    except ValueError:
        raise wrong from None
    if not (math.isfinite(value) and value > 0):
        raise wrong
    return value
