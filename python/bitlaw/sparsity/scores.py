"""What makes a weight worth keeping: the largest |score| stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (weights, gradients, random key) -> scores of the weights' shape
Score = Callable[[Any, Any, Any], Any]


def magnitude(w, g, key):
    """|w|"""
    del g, key
    return w


def saliency(w, g, key):
    """|w g|: what the loss loses to first order (SNIP, arXiv:1810.02340)."""
    del key
    if g is None:
        raise ValueError("gradients must be given for saliency: prune after step 0, got step 0")
    return w * g


def random(w, g, key):
    """Uniform on (0, 1], anew at every update."""
    del g
    return 1 - jax.random.uniform(key, jnp.shape(w), jnp.float32)


SCORES: dict[str, Score] = {"magnitude": magnitude, "saliency": saliency, "random": random}


def score_of(scores: str | Callable) -> Score:
    """A score by name, or a user's function (weights, gradients) -> scores.

    Raises:
        ValueError: no such name.
    """
    if callable(scores):
        return lambda w, g, key: scores(w, g)
    if scores not in SCORES:
        raise ValueError(f"scores must be one of {', '.join(SCORES)} or a function, got {scores!r}")
    return SCORES[scores]
