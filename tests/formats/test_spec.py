"""Spec and scheme strings: parsing inverts printing, errors point at the word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlaw.formats import FORMATS, QuantSpec, Scheme, SparseSpec


@st.composite
def specs(draw, axis=-1):
    name = draw(st.sampled_from(sorted(FORMATS)))
    fields = {"format": name, "axis": axis}
    fields["granularity"] = draw(st.sampled_from(["tensor", "channel", "row", "block", "tile"]))
    if fields["granularity"] in ("block", "tile"):
        fields["block"] = draw(st.integers(1, 4096))
    if fields["granularity"] == "tile":
        fields["tile"] = draw(st.integers(1, 4096))
    fields["full"] = name.startswith("int") and draw(st.booleans())
    rules = ["absmax", "absmax_half", "rms"] + ([] if fields["full"] else ["gauss_mse"])
    fields["rule"] = draw(st.sampled_from(rules))
    if fields["rule"] == "rms":
        fields["k"] = draw(st.floats(1e-9, 1e9))
    fields["estimator"] = draw(st.sampled_from(["identity", "clip_rounded", "trust"]))
    return QuantSpec(**fields)


@given(specs())
def test_parse_inverts_str(spec):
    assert QuantSpec.parse(str(spec)) == spec


@given(
    w=st.none() | specs(axis=-2),
    a=st.none() | specs(),
    s=st.none() | st.floats(1e-9, 1, exclude_max=True).map(SparseSpec),
)
def test_parse_inverts_str_of_schemes(w, a, s):
    scheme = Scheme(w, a, s)
    assert Scheme.parse(str(scheme)) == scheme


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("quest4/gauss_mse/trust/channel", "quest4/channel"),
        ("int4/clip_rounded/row/absmax", "int4/row"),
        ("quest4/gauss", "quest4"),
        ("int4/full/block32", "int4/block32/full"),
        ("int8/rms(2.50)", "int8/rms(2.5)"),
    ],
)
def test_the_canonical_form_omits_defaults_and_aliases(text, canonical):
    assert str(QuantSpec.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "word", "nearest"),
    [
        ("w=quest9/channel", "quest9", "quest8"),
        ("w=quest4/chanel s=0.5", "chanel", "channel"),
        ("a=int4/blok32", "blok32", "block32"),
        ("w=int4 q=int4", "q=int4", None),
    ],
)
def test_errors_show_a_caret_under_the_word_and_the_nearest(text, word, nearest):
    with pytest.raises(ValueError) as error:
        Scheme.parse(text)
    lines = str(error.value).splitlines()
    assert lines[1][2:] == text
    caret = lines[2].index("^") - 2
    assert text[caret : caret + lines[2].count("^")] == word
    assert nearest is None or nearest in lines[3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s=1.5", "sparsity must be in [0, 1), got 1.5"),
        ("s=-0.1", "sparsity must be in [0, 1), got -0.1"),
        ("s=half", "sparsity must be a number in [0, 1), got 'half'"),
        ("", "scheme is empty: write dense"),
        ("w=int4 w=int8", "w is given twice"),
        ("w=int4/row/channel", "second granularity"),
        ("w=quest4/full", "full is for integer formats, got quest4"),
        ("w=int4/block0", "unknown modifier 'block0'"),
    ],
)
def test_bad_schemes_are_refused_by_name(text, message):
    with pytest.raises(ValueError) as error:
        Scheme.parse(text)
    assert message in str(error.value)


def test_bits_per_weight():
    assert Scheme.parse("dense").bits_per_weight == 16
    assert Scheme.parse("w=quest4/channel a=quest4/row").bits_per_weight == 4
    assert Scheme.parse("s=0.75").bits_per_weight == 5  # a quarter of 16, and the mask
    assert Scheme.parse("s=0") == Scheme.parse("dense")
