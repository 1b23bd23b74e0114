"""Keys of stochastic rounding: two words, of a jax key or as they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def key_words(key):
    """u32[2] of a key: of a jax key, or as they are."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    if tuple(np.shape(key)) != (2,) or str(key.dtype) != "uint32":
        raise ValueError(
            f"key must be u32[2] or a threefry key of jax, got {key.dtype}{list(np.shape(key))}"
        )
    return key


def derived_key(key, number: int):
    """u32[2]: a key of its own for each number."""
    words = jnp.asarray(key_words(key))
    wrapped = jax.random.wrap_key_data(words, impl="threefry2x32")
    return jax.random.key_data(jax.random.fold_in(wrapped, number))
