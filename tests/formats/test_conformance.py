"""Formats x granularities x roundings x estimators: every door gives the definition's bits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.formats import FORMATS, QuantSpec
from bitlaw.ops import OPS, statistic
from bitlaw.ops.scale import outer_scale, statistic_scale
from ops import doors

GRANULARITIES = ("tensor", "channel", "row", "block32", "block16x8")
ROUNDINGS = ("nearest", "stochastic", "toward_zero", "away")
ESTIMATORS = ("identity", "clip_value", "clip_rounded", "trust")
KEY = np.array([3, 4], np.uint32)


def pairwise():
    """Every pair of choices at least once: see the first test."""
    for (i, name), (g, granularity) in itertools.product(
        enumerate(FORMATS), enumerate(GRANULARITIES)
    ):
        yield name, granularity, ROUNDINGS[(i + g) % 4], ESTIMATORS[(i + i // 4 + 3 * g) % 4]


def test_pairwise_has_every_pair():
    choices = [tuple(FORMATS), GRANULARITIES, ROUNDINGS, ESTIMATORS]
    cases = list(pairwise())
    for i, j in itertools.combinations(range(4), 2):
        met = {(case[i], case[j]) for case in cases}
        assert met == set(itertools.product(choices[i], choices[j]))


@functools.cache
def jitted(op, attributes):
    return jax.jit(functools.partial(OPS[op], **dict(attributes)))


def through_jit(op, arrays, attributes):
    outs = jitted(op, tuple(attributes.items()))(*map(jnp.asarray, arrays))
    return tuple(map(np.asarray, outs))


def call_of(spec, x):
    """(op, arrays, attributes) that quantize x."""
    q = spec.structure
    flat = q.view(x)
    items, rows = flat.shape[0], flat.shape[1] if flat.ndim == 3 else 1
    _, block = q.layout(x.shape)
    attributes = q.attributes() | {"block": block, "pruned": False, "estimator": spec.estimator}
    noise = q.noise(KEY, items, rows, np)
    grids = np.repeat(spec.grid[None], items, axis=0)
    if spec.scaling == "e4m3":
        amax = np.abs(x).max().reshape(1, 1)
        grids[:, 4] = outer_scale(amax, grids[:1])
    if spec.granularity != "tensor":
        return "fake_quantize", (flat, grids, noise), attributes | {"statistic": q.statistic}
    high, low = statistic.group_statistic(
        flat, block=block, statistic=q.statistic, pruned=False, hadamard=0
    )
    high, low = high.max(axis=0, keepdims=True), low.max(axis=0, keepdims=True)
    scale, zero = statistic_scale(
        high, low, np.ones_like(high), grids[:1], kind=q.kind, scaling=q.scaling
    )
    scale, zero = (np.repeat(v, items, axis=0) for v in (scale, zero))
    return "fake_quantize_scaled", (flat, scale, zero, grids, noise), attributes


def check(name, granularity, rounding, estimator):
    words = [name, granularity, "absmax", estimator]
    spec = QuantSpec.parse("/".join(words + [rounding] * (rounding != "nearest")))
    x = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
    x[0, :4], x[5, 7] = (0.0, -0.0, 1e-40, 300.0), 40.0
    op, arrays, attributes = call_of(spec, x)
    want = doors.definition(op, arrays, attributes)
    for door in (doors.through_numpy, through_jit):
        for got, w in zip(door(op, arrays, attributes), want, strict=True):
            doors.assert_same_bits(got, w, f"{spec} {door.__name__}")
    codes_give_the_same(spec, arrays, attributes, op, want[0])


def codes_give_the_same(spec, arrays, attributes, op, y):
    """dequantize(quantize(x)) is fake_quantize(x), -0 included."""
    attributes = {k: v for k, v in attributes.items() if k != "pruned"}
    quantize = "quantize" if op == "fake_quantize" else "quantize_scaled"
    packed, *rest = OPS[quantize](*arrays, bits=spec.row.bits, **attributes)
    scale, zero, grid = (*rest[:2], arrays[1]) if op == "fake_quantize" else arrays[1:4]
    back = OPS["dequantize"](
        packed,
        scale,
        zero,
        grid,
        block=attributes["block"],
        cols=y.shape[-1],
        bits=spec.row.bits,
        kind=attributes["kind"],
        hadamard=0,
        dtype="float32",
    )
    doors.assert_same_bits(back, y, str(spec))


@pytest.mark.parametrize("name", FORMATS)
def test_every_pair_of_choices_equals_the_definition(name):
    for case in pairwise():
        if case[0] == name:
            check(*case)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", FORMATS)
def test_every_choice_equals_the_definition(name, granularity):
    for rounding, estimator in itertools.product(ROUNDINGS, ESTIMATORS):
        check(name, granularity, rounding, estimator)
