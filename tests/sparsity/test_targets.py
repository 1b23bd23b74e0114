"""Distributions of a sparsity over leaves, and scores of weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.sparsity import distribute
from bitlaw.sparsity.scores import score_of

SHAPES = {"['embedding']": (256, 32), "['up']": (32, 128), "['small']": (4, 4)}


def test_uniform_is_the_same_everywhere():
    assert distribute(0.7, SHAPES, "uniform") == dict.fromkeys(SHAPES, 0.7)


def test_erk_is_the_closed_form_with_the_total_exact():
    levels = distribute(0.9, SHAPES, "erk")
    sizes = {path: math.prod(shape) for path, shape in SHAPES.items()}
    kept = sum(sizes[path] * (1 - level) for path, level in levels.items())
    assert kept == pytest.approx(0.1 * sum(sizes.values()), rel=1e-12)
    # By hand: small would be denser than 1, so it is dense; the others share one epsilon.
    epsilon = (0.1 * sum(sizes.values()) - 16) / ((256 + 32) + (32 + 128))
    assert levels["['small']"] == 0
    for path in ("['embedding']", "['up']"):
        want = 1 - epsilon * sum(SHAPES[path]) / sizes[path]
        assert levels[path] == pytest.approx(want, rel=1e-12)


def test_paths_may_have_levels_of_their_own_and_auto_is_milder():
    levels = distribute(0.75, SHAPES, {"*embedding*": "auto", "*small*": 0.0})
    assert levels == {"['embedding']": 0.5, "['up']": 0.75, "['small']": 0.0}
    assert distribute(0.5, SHAPES, lambda path, shape: 1 / shape[0])["['up']"] == 1 / 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, SHAPES, "erk"), "sparsity must be in [0, 1), got 1.0"),
        ((0.5, SHAPES, "even"), "distribution must be 'uniform', 'erk', a mapping or a function"),
        ((0.5, SHAPES, {"*up*": 1.0}), "sparsity of ['up'] must be in [0, 1), got 1.0"),
    ],
)
def test_bad_distributions_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        distribute(*arguments)
    assert message in str(error.value)


def test_scores_by_name_and_by_function():
    w, g, key = jnp.array([1.0, -2.0]), jnp.array([-3.0, 0.5]), jax.random.key(0)
    assert score_of("magnitude")(w, None, key).tolist() == [1, -2]
    assert score_of("saliency")(w, g, key).tolist() == [-3, -1]
    drawn = score_of("random")(jnp.zeros(10_000), None, key)
    assert float(drawn.min()) > 0 and float(drawn.max()) <= 1
    assert abs(float(drawn.mean()) - 0.5) < 0.02
    assert score_of(lambda w, g: w + g)(w, g, key).tolist() == [-2, -1.5]
    with pytest.raises(ValueError, match="scores must be one of magnitude, saliency, random"):
        score_of("size")
    with pytest.raises(ValueError, match="gradients must be given for saliency"):
        score_of("saliency")(w, None, key)
    assert np.isnan(score_of("magnitude")(jnp.array([jnp.nan]), None, key)).all()
