"""Spec and scheme strings: parsing inverts printing, errors point at the word."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bitlaw.formats import FORMATS, QuantSpec, Scheme, SparseSpec

GRANULARITIES = ["tensor", "channel", "row", "block", "tile"]
RULES = ["absmax", "absmax_half", "rms", "gauss_mse", "mse_search", "learned", "delayed", "fixed"]
ESTIMATORS = ["identity", "clip_value", "clip_rounded", "trust", "lsq", "lsq_plus", "pact"]


@st.composite
def specs(draw, axis=-1, gradient=False):
    """Any valid spec: the combinations that a QuantSpec refuses are thrown away."""
    granularity = draw(st.sampled_from(["", *GRANULARITIES]))
    rule = draw(st.sampled_from(["", *RULES]))
    name = draw(st.sampled_from(sorted(FORMATS)))
    fields = {
        "format": name,
        "axis": axis,
        "gradient": gradient,
        "granularity": granularity,
        "block": draw(st.integers(1, 4096)) if granularity in ("block", "tile") else 0,
        "tile": draw(st.integers(1, 4096)) if granularity == "tile" else 0,
        "rule": rule,
        "k": draw(st.floats(1e-9, 1e9)) if rule in ("rms", "fixed") else 0.0,
        "scaling": draw(st.sampled_from(["", "bf16", "pow2", "e8m0_floor", "e8m0_rceil"])),
        "rounding": draw(st.sampled_from(["nearest", "stochastic", "toward_zero", "away"])),
        "estimator": draw(st.sampled_from(["", *ESTIMATORS])),
        "hadamard": draw(st.sampled_from([0, 16, 128, 4096])),
        "full": name.startswith("int") and draw(st.booleans()),
    }
    try:
        return QuantSpec(**fields)
    except ValueError:
        assume(False)


@given(specs())
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_parse_inverts_str(spec):
    assert QuantSpec.parse(str(spec)) == spec


@given(
    w=st.none() | specs(axis=-2),
    a=st.none() | specs(),
    g=st.none() | specs(gradient=True),
    s=st.none() | st.floats(1e-9, 1, exclude_max=True).map(SparseSpec),
)
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_parse_inverts_str_of_schemes(w, a, g, s):
    try:
        scheme = Scheme(w=w, a=a, g=g, s=s)
    except ValueError:
        assume(False)
    assert Scheme.parse(str(scheme)) == scheme


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_word_of_the_grammar_parses_with_some_format(name):
    """And every format by itself: its canonical form is its name."""
    assert str(QuantSpec.parse(name)) == name
    words = "tensor channel row block32 block16x16 absmax absmax_half rms(3) gauss_mse mse_search "
    words += "learned delayed fixed(0.1) scale_bf16 scale_pow2 e8m0_floor e8m0_rceil stochastic "
    words += "toward_zero away identity clip_value clip_rounded trust lsq lsq_plus pact "
    words += "hadamard16 full"
    refused = set()
    for word in words.split():
        try:
            spec = QuantSpec.parse(f"{name}/{word}")
        except ValueError:
            refused.add(word)
        else:
            assert QuantSpec.parse(str(spec)) == spec
    narrow = {"absmax_half", "gauss_mse", "mse_search", "rms(3)", "fixed(0.1)", "delayed", "full"}
    assert refused <= narrow | {"learned", "lsq", "lsq_plus", "pact", "block16x16", "hadamard16"}
    if name == "int4":
        assert refused == {"pact"}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("quest4/gauss_mse/trust/channel", "quest4/channel"),
        ("int4/clip_rounded/row/absmax", "int4/row"),
        ("quest4/gauss", "quest4"),
        ("int4/full/block32", "int4/block32/full"),
        ("int8/rms(2.50)", "int8/rms(2.5)"),
        ("e4m3fn", "e4m3"),
        ("mxfp4/e8m0_floor/block32/absmax", "mxfp4"),
        ("e2m1/e8m0_floor/block32", "e2m1/block32/e8m0_floor"),
        ("mxfp4/block16", "mxfp4/block16"),
        ("int4/lsq", "int4/learned"),
        ("uint4/learned", "uint4/learned"),
        ("uint4/learned/pact", "uint4/pact"),
        ("int4/full/hadamard16/stochastic/row", "int4/row/stochastic/hadamard16/full"),
        ("int8/fixed(0.10)", "int8/fixed(0.1)"),
        ("nvfp4/scale_pow2", "nvfp4/scale_pow2"),
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
        ("g=fp8/stochastc", "stochastc", "stochastic"),
        ("w=mxfp4 a=mxpf8", "mxpf8", "mxfp8"),
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
        ("w=mxfp4/full", "full is for integer formats, got mxfp4"),
        ("w=e4m3/learned", "learned must be of an integer or quest format"),
        ("w=int4/learned/identity", "learned must have one of the estimators lsq, lsq_plus, pact"),
        ("w=int4/pact", "pact must be of an unsigned format such as uint4, got int4"),
        ("w=int4/row/delayed", "delayed must have one scale per tensor, got row"),
        ("a=int4/row/learned", "a must learn one scale per tensor"),
        ("w=uint4/rms(3)", "uint4 must have the rule absmax or learned, got rms"),
        ("w=int4/hadamard24", "unknown modifier 'hadamard24'"),
        ("w=int4/hadamard16 s=0.5", "w must not be rotated where it is pruned"),
        ("g=int4/learned", "g must not have learned or delayed scales"),
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


def test_fp8_is_e5m2_for_gradients():
    scheme = Scheme.parse("w=fp8 a=fp8 g=fp8")
    assert str(scheme) == "w=fp8 a=fp8 g=fp8"
    assert scheme.w.grid[0] == 448 and scheme.g.grid[0] == 57344


def test_weights_block_along_the_contraction_axis_and_gradients_along_the_last():
    scheme = Scheme.parse("w=mxfp4 a=mxfp4 g=mxfp4")
    assert (scheme.w.axis, scheme.a.axis, scheme.g.axis) == (-2, -1, -1)
