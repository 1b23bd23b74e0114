"""Delayed scales: the history goes in and comes out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitlaw
from bitlaw.formats import QuantSpec, delayed_fake_quantize, delayed_history

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32))


def test_the_scale_is_that_of_the_largest_past_magnitude():
    history = delayed_history(3)
    for factor in (4.0, 1.0, 2.0):
        y, history = jax.jit(lambda x, h: delayed_fake_quantize(x, h, "e4m3/delayed"))(
            factor * X, history
        )
    amax = np.abs(X).max()
    np.testing.assert_array_equal(history, np.float32([2 * amax, amax, 4 * amax]))
    want = bitlaw.fake_quantize(np.append(2 * np.asarray(X), 4 * amax)[None], "e4m3/row")[0, :-1]
    np.testing.assert_array_equal(np.asarray(y).ravel(), want)


def test_the_first_step_takes_its_own_scale():
    y, history = delayed_fake_quantize(X, delayed_history(), "e5m2/delayed")
    np.testing.assert_array_equal(y, bitlaw.fake_quantize(X, "e5m2"))
    np.testing.assert_array_equal(history, [np.abs(X).max(), *[0.0] * 15])


def test_in_a_model_the_gradient_of_the_history_is_the_new_one():
    spec = QuantSpec.parse("int8/delayed")
    history = jnp.arange(16.0)
    loss = lambda x, h: (2 * spec.structure(x, spec.grid, state=h)).sum()
    dx, new = jax.jit(jax.grad(loss, argnums=(0, 1)))(X, history)
    np.testing.assert_array_equal(dx, jnp.full(X.shape, 2.0))
    np.testing.assert_array_equal(new, [np.abs(X).max(), *range(15)])


def test_specs_without_delayed_scales_are_refused():
    with pytest.raises(ValueError, match="spec must have delayed scales, got e4m3"):
        delayed_fake_quantize(X, delayed_history(), "e4m3")
    with pytest.raises(ValueError, match="delayed_fake_quantize"):
        bitlaw.fake_quantize(X, "e4m3/delayed")
