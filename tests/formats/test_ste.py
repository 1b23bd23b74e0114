"""The straight-through estimator by hand, and quantizers of the user by name."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bitlaw
from bitlaw.formats.ste import UserQuantizer, UserSpec

MODULE = """
import jax, jax.numpy as jnp

def thirds(x):
    scale = jnp.max(jnp.abs(x)) / 3
    return jnp.round(x / scale) * scale

def stopped(x):
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x)) / 3)
    return jnp.round(x / scale) * scale

def clipped(x):
    inside = jnp.clip(x, -1, 1)
    return inside + jax.lax.stop_gradient(jnp.round(inside) - inside)

@jax.custom_vjp
def doubled(x):
    return jnp.round(x)

doubled.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (2 * g,))

def calls_doubled(x):
    return doubled(x) + 0

def shorter(x):
    return x[..., 1:]

thirds.bits = 2.8
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the working directory, which is not on sys.path."""
    (tmp_path / "a_user_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield "a_user_module"
    sys.modules.pop("a_user_module", None)


X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32))


def test_ste_keeps_the_value_to_the_bit_and_passes_the_gradient():
    through = bitlaw.ste(lambda x: jnp.round(x * 3) / 3)
    y, pull = jax.vjp(through, X)
    np.testing.assert_array_equal(y, jnp.round(X * 3) / 3)
    np.testing.assert_array_equal(pull(2 * X)[0], 2 * X)


@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        ("thirds", 1.0),  # its own gradient would be that of the scale alone
        ("stopped", 1.0),  # its own would be zero
        ("clipped", (np.abs(X) <= 1).astype(np.float32)),
        ("doubled", 2.0),
        ("calls_doubled", 2.0),
    ],
)
def test_functions_without_a_gradient_pass_the_identity_and_others_keep_theirs(
    module, name, gradient
):
    quantizer = UserSpec.parse(f"{module}:{name}").structure
    loss = jax.jit(lambda x: quantizer(x).sum())
    np.testing.assert_array_equal(jax.grad(loss)(X), np.broadcast_to(gradient, X.shape))
    function = getattr(sys.modules[module], name)
    np.testing.assert_array_equal(quantizer(X), function(X))


def test_a_scheme_names_a_users_quantizer(module):
    text = f"w={module}:thirds a=int8/row"
    scheme = bitlaw.Scheme.parse(text)
    assert str(scheme) == text and bitlaw.Scheme.parse(str(scheme)) == scheme
    assert scheme.bits_per_weight == 2.8
    assert isinstance(scheme.w.structure, UserQuantizer)


def test_pruned_zeros_stay_zero(module):
    quantizer = UserQuantizer(f"{module}:calls_doubled")
    x = jnp.asarray([[0.0, 0.7, -0.0]])
    np.testing.assert_array_equal(quantizer(x, pruned=True), [[0.0, 1.0, -0.0]])


def test_an_edited_module_is_another_quantizer(module, tmp_path):
    before = UserSpec.parse(f"{module}:thirds").digest
    (tmp_path / "a_user_module.py").write_text(MODULE + "\n# edited\n")
    assert UserSpec.parse(f"{module}:thirds").digest != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w=no_such_module:f", "module no_such_module cannot be imported"),
        ("w={module}:missing", "module {module} must have a function missing, got None"),
        ("w={module}:number", "module {module} must have a function number, got 3"),
        ("w={module}:thirds/channel", "a function of x alone and takes no modifiers"),
        ("w={module}:", "function must be named module:function, got '{module}:'"),
    ],
)
def test_bad_names_are_refused_with_a_caret(module, text, message):
    with pytest.raises(ValueError) as error:
        bitlaw.Scheme.parse(text.format(module=module))
    assert message.format(module=module) in str(error.value)
    assert "^" in str(error.value)


def test_a_function_that_changes_the_shape_is_refused(module):
    with pytest.raises(ValueError, match=r"the shape and dtype of x, got float32\[8, 15\]"):
        UserQuantizer(f"{module}:shorter")(X)
