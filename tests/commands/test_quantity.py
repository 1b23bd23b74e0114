"""Amounts as people type them."""

import pytest

from bitlaw.commands import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [("8GB", 8e9), ("8 GB", 8e9), ("8GiB", 8 * 2**30), ("1.5MB", 1.5e6), ("500", 500.0),
     ("2kB", 2e3), ("3B", 3.0), ("1e9", 1e9)],
)  # fmt: skip
def test_memory(text, value):
    assert quantity.memory("memory", text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e21", 1e21), ("3.5e9", 3.5e9), ("20B", 2e10), ("20B tokens", 2e10), ("20 B", 2e10),
     ("7M tokens", 7e6), ("1 token", 1.0), ("250k", 250e3), ("1T", 1e12)],
)  # fmt: skip
def test_tokens(text, value):
    assert quantity.count("tokens", text, "tokens") == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("1e21 FLOPs", 1e21), ("2 EFLOP", 2e18), ("3P", 3e15)])
def test_flops(text, value):
    assert quantity.count("budget-flops", text, "FLOPs") == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "GB", "-8GB", "0", "1e999", "nan", "8 XB", "1.2.3", "8 GB GB"]
)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ValueError, match="memory must be an amount such as 8GB"):
        quantity.memory("memory", text)
    with pytest.raises(ValueError, match="tokens must be an amount such as 1e21"):
        quantity.count("tokens", text, "tokens")
