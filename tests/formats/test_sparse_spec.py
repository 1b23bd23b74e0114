"""Sparse specs: parsing inverts printing, contradictions are refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlaw.formats import Scheme, SparseSpec
from bitlaw.formats.sparse_spec import METHODS


@st.composite
def specs(draw):
    fields = {"method": draw(st.sampled_from(METHODS)), "scope": draw(st.sampled_from(["layer"]))}
    if draw(st.booleans()):
        fields["m"] = draw(st.integers(1, 64))
        fields["n"] = draw(st.integers(1, fields["m"]))
        fields["transposable"] = draw(st.booleans())
        fields["scope"] = draw(st.sampled_from(["layer", "global"]))
    else:
        fields["level"] = draw(st.floats(1e-9, 1, exclude_max=True))
        fields["block"] = draw(st.sampled_from([(0, 0), (4, 4), (1, 128)]))
        fields["scope"] = draw(st.sampled_from(["layer", "global"]))
    try:
        return SparseSpec(**fields)
    except ValueError:
        return SparseSpec(0.5)


@given(specs())
def test_parse_inverts_str(spec):
    assert Scheme.parse(f"s={spec}").s == spec


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("s=0.75/global", "s=0.75/global"),
        ("s=2:4", "s=2:4"),
        ("s=2:4/global", "s=2:4/global"),
        ("s=1:4/transposable", "s=1:4/transposable"),
        ("s=0.9/rigl", "s=0.9/rigl"),
        ("s=0.5/block4x4", "s=0.5/block4x4"),
        ("s=.50/layer", "s=0.5"),
        ("s=0.5/oneshot/global", "s=0.5/global/oneshot"),
        ("s=2:4/ste w=int4/channel", "w=int4/channel s=2:4/ste"),
    ],
)
def test_the_canonical_form(text, canonical):
    assert str(Scheme.parse(text)) == canonical


def test_the_level_of_n_m_is_the_share_pruned():
    assert Scheme.parse("s=1:4").sparsity == 0.75


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s=3:2", "n must be in [1, m], got 3:2"),
        ("s=1:65", "m must be in [1, 64], got 65"),
        ("s=1:0", "m must be in [1, 64]"),
        ("s=0:4", "n must be in [1, m], got 0:4"),
        ("s=1.0", "sparsity must be in [0, 1), got 1"),
        ("s=nan", "sparsity must be in [0, 1), got nan"),
        ("s=0.5/transposable", "transposable is for n:m alone, got 0.5/transposable"),
        ("s=0.5/global/block4x4", "global is not for blocks"),
        ("s=2:4/global/s_ste", "s_ste is for n:m"),
        ("s=2:4/block4x4", "block is not for n:m"),
        ("s=2:4/rigl", "rigl and set keep unstructured counts per layer"),
        ("s=0.5/s_ste", "s_ste is for n:m"),
        ("s=0.5/ste/rigl", "second method"),
        ("s=0.5/block0x4", "unknown modifier 'block0x4'"),
    ],
)
def test_bad_specs_are_refused_by_name(text, message):
    with pytest.raises(ValueError) as error:
        Scheme.parse(text)
    assert message in str(error.value)


def test_the_caret_is_under_the_wrong_modifier():
    with pytest.raises(ValueError) as error:
        Scheme.parse("w=int4 s=0.5/globl")
    _, text, caret, nearest = str(error.value).splitlines()
    assert text[caret.index("^") :] == "globl" and "global" in nearest
