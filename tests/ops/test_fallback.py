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


def through_xla(name, arrays, attributes):
    outs = jax.jit(functools.partial(OPS[name].definition, **attributes))(*map(jnp.asarray, arrays))
    return tuple(map(np.asarray, outs if isinstance(outs, tuple) else (outs,)))


@pytest.mark.parametrize("name", EXACT)
def test_selection_is_exact_by_xla_too(name):
    for arrays, attributes in doors.cases(name):
        if arrays[0].size and np.any((arrays[0] != 0) & (np.abs(arrays[0]) < TINY)):
            continue  # subnormals: XLA may flush them
        for g, w in zip(
            through_xla(name, arrays, attributes),
            doors.definition(name, arrays, attributes),
            strict=True,
        ):
            doors.assert_same_bits(g, w, f"{name} {attributes} {arrays[0].shape}")


@pytest.mark.parametrize("name", ["group_statistic", "statistic_scale"])
def test_scales_are_within_2_ulp(name):
    for arrays, attributes in doors.cases(name):
        (got,) = through_xla(name, arrays, attributes)
        (want,) = doors.definition(name, arrays, attributes)
        normal = ~(want < 8 * TINY)  # NaN stays in
        if name == "statistic_scale":
            normal &= ~(arrays[0] < TINY)
        got, want = np.where(normal, got, 0), np.where(normal, want, 0)
        assert doors.ulps_apart(got, want) <= 2, attributes


@pytest.mark.parametrize("name", ["fake_quantize", "fake_quantize_scaled"])
def test_values_are_equal_but_at_rounding_boundaries(name):
    for arrays, attributes in doors.cases(name):
        x, grid, block = arrays[0], arrays[-1], attributes["block"]
        got, want = (
            through_xla(name, arrays, attributes),
            doors.definition(name, arrays, attributes),
        )
        scale = want[1] if name == "fake_quantize" else arrays[1]
        step, offset = np.repeat(scale, block, axis=1).astype(np.float64), grid[:, 2, None]
        if x.ndim == 3:
            step, offset = step[:, None, :], offset[:, None]
        with np.errstate(all="ignore"):
            v = x.astype(np.float64) / step - offset
            # A rounding boundary is a half-integer; 4 ulp of the quotient, or of what it adds to.
            ulp = np.spacing(np.maximum(np.abs(v), 1).astype(np.float32))
            near = np.abs(v - np.floor(v) - 0.5) <= 4 * ulp
        exempt = near | (step < 8 * TINY) | (np.abs(x.astype(np.float32)) < TINY)
        g, w = got[0].astype(np.float64), want[0].astype(np.float64)
        # Equal codes give equal values, up to the scale's 2 ulp (and a bfloat16's rounding).
        ulps = 2.0**-7 if x.dtype != np.float32 else 2.0**-21
        with np.errstate(all="ignore"):
            same = (np.abs(g - w) <= ulps * np.abs(w)) | (np.isnan(g) & np.isnan(w)) | (g == w)
        assert (same | exempt).all(), (attributes, x.shape, x.dtype)


@pytest.mark.parametrize("name", [n for n, it in OPS.items() if not it.host])
def test_tpu_gets_the_definition_and_cpu_the_custom_call(name):
    arrays, attributes = next(c for c in doors.cases(name) if c[0][0].size > 100)
    traced = jax.jit(functools.partial(OPS[name], **attributes)).trace(*map(jnp.asarray, arrays))
    target = f"bitlaw.{name}.v1"
    assert target in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert target not in traced.lower(lowering_platforms=("tpu",)).as_text()
