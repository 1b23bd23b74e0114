"""saved_bytes counts what autodiff keeps."""

import jax
import jax.numpy as jnp

import bitlaw


def test_it_counts_each_residual_once():
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    matrix = 64 * 64 * 4
    assert bitlaw.saved_bytes(lambda x: 3 * x, x) <= 8  # a constant
    assert bitlaw.saved_bytes(jnp.sin, x) == matrix
    # sin(x) . x keeps cos(x), sin(x) and x itself
    assert bitlaw.saved_bytes(jax.jit(lambda x: jnp.sin(x) @ x), x) == 3 * matrix
    layers = lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=4)[0]
    assert bitlaw.saved_bytes(layers, x) == 4 * matrix


def test_a_trust_mask_is_one_bit_per_element():
    x = jnp.ones((64, 1024))
    kept = bitlaw.saved_bytes(lambda x: bitlaw.fake_quantize(x, "quest4/row"), x)
    assert x.size // 8 <= kept <= x.size // 8 + 64
