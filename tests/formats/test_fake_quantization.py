"""`nonfinite="raise"`: what is not finite is refused, under transformations by checkify."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import bitlaw

X = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
BAD = X.copy()
BAD[2, 3], BAD[4, 1] = np.nan, -np.inf
MESSAGE = r"x must be finite, got {} NaN or infinite elements"


def quantize(x, nonfinite="raise"):
    return bitlaw.fake_quantize(x, "quest4/row", nonfinite=nonfinite)


@pytest.mark.parametrize("door", [np.asarray, jnp.asarray])
def test_outside_jit_it_raises(door):
    with pytest.raises(ValueError, match=MESSAGE.format(2)):
        quantize(door(BAD))
    with pytest.raises(ValueError, match=MESSAGE.format(2)):
        bitlaw.quantize(door(BAD), "int4/row", nonfinite="raise")
    np.testing.assert_allclose(quantize(door(X)), bitlaw.fake_quantize(X, "quest4/row"), rtol=3e-7)


def gradient(quantize):
    return jax.grad(lambda x: quantize(x).sum())


@pytest.mark.parametrize(
    ("transform", "bad"),
    [
        (jax.jit, 2),
        (gradient, 2),
        (jax.vmap, 1),  # of the first example that has any
        (lambda quantize: jax.jit(jax.vmap(gradient(quantize))), 1),
    ],
)
def test_under_transformations_checkify_reports_it(transform, bad):
    checked = checkify.checkify(transform(quantize))
    with pytest.raises(ValueError, match=MESSAGE.format(bad)):
        checked(jnp.asarray(BAD))[0].throw()
    error, y = checked(jnp.asarray(X))
    error.throw()
    poisoning = transform(functools.partial(quantize, nonfinite="poison"))
    np.testing.assert_array_equal(y, poisoning(jnp.asarray(X)))


def test_other_words_are_refused_by_name():
    with pytest.raises(ValueError, match="nonfinite must be one of poison, raise, got 'ignore'"):
        bitlaw.fake_quantize(X, "int4", nonfinite="ignore")
