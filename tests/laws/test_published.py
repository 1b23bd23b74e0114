"""Published multipliers and their sources."""

import pytest

from bitlaw.laws import published


@pytest.mark.parametrize(
    ("scheme", "value", "source"),
    [
        ("w=quest4/channel", 0.840, "arXiv:2502.05003"),
        ("w=quest2/channel", 0.414, "arXiv:2502.05003"),
        ("w=quest2/channel", 0.45, "arXiv:2506.01863"),
        ("w=quest4/channel a=quest4/row", 0.70, "arXiv:2502.05003"),
        ("w=quest4/channel a=quest4/row", 0.85, "arXiv:2506.01863"),
        ("w=quest3/channel a=quest2/row", 0.42, "arXiv:2506.01863"),
        ("a=quest1/row", 0.21, "arXiv:2506.01863"),
        ("s=0.5", 0.70, "arXiv:2506.01863"),
        ("s=0.75", 0.50, "arXiv:2506.01863"),
        ("w=quest2/channel s=0.25", 0.54, "arXiv:2506.01863"),
    ],
)
def test_a_scheme_finds_its_published_value(scheme, value, source):
    assert any(p.value == value and source in p.source for p in published.effective(scheme))


def test_the_unified_laws_own_values_are_marked_second_hand():
    quoted = [p for scheme in published.UNIFIED_VALUES for p in published.effective(scheme)]
    quoted = [p for p in quoted if "2502.16440" in p.source]
    assert len(quoted) == len(published.UNIFIED_VALUES)
    assert all("second-hand" in p.source for p in quoted)


def test_nothing_is_published_for_other_granularities_or_dense():
    for scheme in ("dense", "w=quest4/block32", "s=0.9", "w=int4/channel"):
        assert published.effective(scheme) == []


def test_sources_are_numbered_once_in_order():
    schemes = ["s=0.5", "w=quest4/channel", "s=0.5"]
    found = published.sources(schemes)
    assert len(found) == len(set(found))
    assert found[0] == published.effective("s=0.5")[0].source
