"""The fourth door: the definition compiled by XLA, where no kernel is registered.

XLA turns x / constant into a multiplication, contracts a * b + c and flushes subnormals, so it is
close but not bitwise. Its rule: statistics and scales within 2 ulp; values equal except where the
code is a rounding boundary's width away; groups whose statistic or scale is subnormal are exempt.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.ops import OPS
from ops import doors

TINY = np.finfo(np.float32).tiny
EXACT = ["uniform", "pack_bits", "unpack_bits", "top_k_mask", "nm_mask", "prune"]
EXACT += ["select_threshold", "threshold_mask", "dispatch_plan", "dispatch_sort"]
# XLA compiles every example anew: some of them, or all.
SOME = pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])


def through_xla(name, arrays, attributes):
    outs = jax.jit(functools.partial(OPS[name].definition, **attributes))(*map(jnp.asarray, arrays))
    return tuple(map(np.asarray, outs if isinstance(outs, tuple) else (outs,)))


@SOME
@pytest.mark.parametrize("name", EXACT)
def test_selection_is_exact_by_xla_too(name, every):
    for arrays, attributes in doors.cases(name)[::every]:
        if arrays[0].size and np.any((arrays[0] != 0) & (np.abs(arrays[0]) < TINY)):
            continue  # subnormals: XLA may flush them
        for g, w in zip(
            through_xla(name, arrays, attributes),
            doors.definition(name, arrays, attributes),
            strict=True,
        ):
            doors.assert_same_bits(g, w, f"{name} {attributes} {arrays[0].shape}")


@SOME
def test_statistics_are_within_2_ulp(every):
    for arrays, attributes in doors.cases("group_statistic")[::every]:
        if attributes["hadamard"]:
            continue  # sums and differences that cancel
        got = through_xla("group_statistic", arrays, attributes)
        want = doors.definition("group_statistic", arrays, attributes)
        for g, w in zip(got, want, strict=True):
            normal = ~(w < 8 * TINY)  # NaN stays in
            g, w = np.where(normal, g, 0), np.where(normal, w, 0)
            assert doors.ulps_apart(g, w) <= 2, attributes


# How far a stored scale may move, as a ratio, if what is stored moves by 2 ulp.
STORED = {"f32": 1 + 2.0**-22, "bf16": 1 + 2.0**-7, "e4m3": 9 / 8 + 2.0**-20}


def test_scales_are_within_2_ulp_before_they_are_stored():
    for arrays, attributes in doors.cases("statistic_scale"):
        got = through_xla("statistic_scale", arrays, attributes)
        want = doors.definition("statistic_scale", arrays, attributes)
        (high, _, unit, _), most = arrays, STORED.get(attributes["scaling"], 2)
        with np.errstate(all="ignore"):
            subnormal = (want[0] < 64 * TINY) | (high < TINY) | (high * unit < TINY)
            ratio = got[0] / want[0]
            same = (np.isnan(got[0]) & np.isnan(want[0])) | (got[0] == want[0])
        # e8m0_rceil is NaN above the largest power of two: the edge may move too.
        edge = attributes["scaling"] == "e8m0_rceil" and np.isnan(got[0]) ^ np.isnan(want[0])
        near = (ratio <= most) & (ratio >= 1 / most)
        assert (same | near | subnormal | edge).all(), attributes
        if attributes["kind"] == "affine" and most < 1.1:
            assert (np.abs(got[1] - want[1]) <= 1)[~subnormal].all(), attributes


@pytest.mark.parametrize("name", ["fake_quantize", "fake_quantize_scaled"])
def test_values_are_equal_but_at_rounding_boundaries(name):
    """Of uniform grids and nearest rounding to the letter; of others, 1 in 100 may be elsewhere."""
    for arrays, attributes in doors.cases(name)[::2]:
        if attributes["hadamard"] or attributes.get("statistic") == "mse_search":
            continue
        x, grid, block = arrays[0], arrays[-2], attributes["block"]
        got = through_xla(name, arrays, attributes)
        want = doors.definition(name, arrays, attributes)
        scales = (got[1], want[1]) if name == "fake_quantize" else (arrays[1], arrays[1])
        g_step, step = (np.repeat(s, block, axis=1).astype(np.float64) for s in scales)
        offset = grid[:, 2, None]
        if x.ndim == 3:
            g_step, step, offset = g_step[:, None, :], step[:, None, :], offset[:, None]
        with np.errstate(all="ignore"):
            moved = np.abs(g_step - step) > 2.0**-21 * step  # a stored scale at its own boundary
            v = x.astype(np.float64) / step - offset
            # A rounding boundary is a half-integer; 4 ulp of the quotient, or of what it adds to.
            ulp = np.spacing(np.maximum(np.abs(v), 1).astype(np.float32))
            near = np.abs(v - np.floor(v) - 0.5) <= 4 * ulp
        exempt = moved | (step < 64 * TINY) | (np.abs(x.astype(np.float32)) < TINY)
        g, w = got[0].astype(np.float64), want[0].astype(np.float64)
        # Equal codes give equal values, up to the scale's 2 ulp (and a bfloat16's rounding).
        ulps = 2.0**-7 if x.dtype != np.float32 else 2.0**-21
        with np.errstate(all="ignore"):
            same = (np.abs(g - w) <= ulps * np.abs(w)) | (np.isnan(g) & np.isnan(w)) | (g == w)
        what = (attributes, x.shape, x.dtype)
        if attributes["kind"] == "uniform" and attributes["rounding"] == "nearest":
            assert (same | exempt | near).all(), what
        else:
            assert x.size < 200 or (~(same | exempt)).mean() <= 0.01, what


@pytest.mark.parametrize("name", [n for n, it in OPS.items() if not it.host])
def test_tpu_gets_the_definition_and_cpu_the_custom_call(name):
    arrays, attributes = next(c for c in doors.cases(name) if max(a.size for a in c[0]) > 100)
    traced = jax.jit(functools.partial(OPS[name], **attributes)).trace(*map(jnp.asarray, arrays))
    target = f"bitlaw.{name}.v1"
    assert target in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert target not in traced.lower(lowering_platforms=("tpu",)).as_text()
