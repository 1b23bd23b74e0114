"""Leaves of any pytree by the pattern of their paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitlaw
from bitlaw.formats import QuantSpec

RNG = np.random.default_rng(0)
TREE = {
    "layers": [
        {"kernel": RNG.normal(size=(64, 8)).astype(np.float32), "bias": np.ones(8, np.float32)},
        {"kernel": RNG.normal(size=(64, 4)).astype(np.float32), "bias": np.ones(4, np.float32)},
    ]
}


def test_the_first_pattern_that_matches_counts():
    found = bitlaw.quantize_params(
        TREE, {"layers/1/*": None, "*/kernel": "int4/block32", "*": "int8"}
    )
    first, second = found["layers"]
    want = bitlaw.fake_quantize(
        TREE["layers"][0]["kernel"], QuantSpec.parse("int4/block32", axis=-2)
    )
    np.testing.assert_array_equal(first["kernel"], want)
    np.testing.assert_array_equal(
        first["bias"], bitlaw.fake_quantize(np.ones(8, np.float32), "int8")
    )
    assert second["kernel"] is TREE["layers"][1]["kernel"]


def test_gradients_pass_and_leaves_draw_their_own_random_numbers():
    rules = {"*/kernel": "int3/channel/stochastic"}
    equal = {"a": {"kernel": jnp.ones((8, 8)) * 0.3}, "b": {"kernel": jnp.ones((8, 8)) * 0.3}}
    equal = jax.tree.map(lambda x: x.at[0].set(1.0), equal)
    key = jax.random.key(0)
    loss = lambda tree: sum(
        x.sum() for x in jax.tree.leaves(bitlaw.quantize_params(tree, rules, key=key))
    )
    np.testing.assert_array_equal(jax.grad(loss)(equal)["a"]["kernel"], np.ones((8, 8)))
    found = bitlaw.quantize_params(equal, rules, key=key)
    assert (found["a"]["kernel"] != found["b"]["kernel"]).any()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"*/kernal": "int4"}, "rules must match leaves, got '*/kernal', which matches none of"),
        ({"*/bias": "int4/channel"}, "layers/0/bias: x must have at least 2 axes for channel"),
        ({"*/kernel": "int4/block48"}, "layers/0/kernel: block must divide axis 0 of x, got 48"),
        ({"*/kernel": "int4/chanel"}, "unknown modifier 'chanel'"),
    ],
)
def test_bad_rules_are_refused_by_name(rules, message):
    with pytest.raises(ValueError) as error:
        bitlaw.quantize_params(TREE, rules)
    assert message in str(error.value)
