"""Checkpoints: what was saved comes back bit for bit, and another structure is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bitlaw.sparsity import NM, Cubic, Exchange, pruned, rigl, s_ste
from bitlaw.train import checkpoint
from bitlaw.train.state import State


def params():
    x = np.array([[1.5, -0.0, np.nan, 1e-40], [3, 4, 5, 6]], np.float32)
    return {"a": jnp.asarray(x), "blocks": [{"w": jnp.ones((4, 2), jnp.bfloat16)}]}


def state(level=0.5):
    tx = pruned(optax.adamw(1e-2), Cubic(level, 1, 4))
    p = params()
    return State(p, tx.init(p))


def same_bits(one, other):
    as_bytes = lambda tree: [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]
    return as_bytes(one) == as_bytes(other)


def test_parameters_come_back_bit_for_bit_as_the_plain_tree_they_were(tmp_path):
    checkpoint.save(tmp_path / "c", params(), {"steps": 3})
    got, meta = checkpoint.restore(tmp_path / "c")
    assert jax.tree.structure(got) == jax.tree.structure(params()) and same_bits(got, params())
    assert meta == {"steps": 3}


def test_an_optimizer_with_masks_comes_back_whole(tmp_path):
    checkpoint.save(tmp_path / "c", state(), {})
    got, _ = checkpoint.restore(tmp_path / "c", like=jax.eval_shape(state))
    assert jax.tree.structure(got) == jax.tree.structure(state()) and same_bits(got, state())


def test_another_structure_is_refused_by_name(tmp_path):
    checkpoint.save(tmp_path / "c", params(), {})
    other = params() | {"a": jnp.ones((4, 2))}
    with pytest.raises(
        ValueError, match=r"leaf \['a'\] of .* must be float32\[4, 2\], got float32"
    ):
        checkpoint.restore(tmp_path / "c", like=other)
    with pytest.raises(ValueError, match=r"leaf \['b'\] of .* must be float32\[1\], got absent"):
        checkpoint.restore(tmp_path / "c", like=params() | {"b": jnp.ones(1)})


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(
        ValueError, match=r"checkpoint must be a folder that bitlaw saved, got .*no"
    ):
        checkpoint.restore(tmp_path / "no")
    with pytest.raises(ValueError, match="checkpoint must be a folder that does not exist yet"):
        checkpoint.save(tmp_path, params(), {})
    with pytest.raises(ValueError, match="meta must hold plain JSON values"):
        checkpoint.save(tmp_path / "c", params(), {"x": object()})


def test_a_checkpoint_without_its_digest_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "digest", lambda state: None)
    checkpoint.save(tmp_path / "c", params(), {})
    with pytest.raises(ValueError, match=r"checkpoint must hold a digest of its arrays, got .*c"):
        checkpoint.read_digest(tmp_path / "c")


METHODS = {
    "gradual": lambda: pruned(optax.adamw(1e-2), Cubic(0.5, 1, 6), pattern=NM(2, 4, -1)),
    "rigl": lambda: rigl(optax.adamw(1e-2), 0.5, Exchange(1, 9, 2)),
    "s_ste": lambda: s_ste(optax.adamw(1e-2), 2, 4, axis=-1),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_restored_run_goes_on_as_if_never_stopped(method, tmp_path):
    tx = METHODS[method]()
    rng = np.random.default_rng(0)
    p = {"a": jnp.asarray(rng.normal(size=(8, 8)).astype(np.float32)), "bias": jnp.ones(3)}

    @jax.jit
    def step(state, k):
        gradients = jax.tree.map(lambda x: jnp.sin(3 * x + k) + 0.1, state.params)
        updates, optimizer = tx.update(gradients, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), optimizer)

    whole = State(p, tx.init(p))
    for k in range(8):
        if k == 4:
            checkpoint.save(tmp_path / "c", whole, {})
        whole = step(whole, k)
    like = jax.eval_shape(lambda: State(p, tx.init(p)))
    resumed, _ = checkpoint.restore(tmp_path / "c", like=like)
    for k in range(4, 8):
        resumed = step(resumed, k)
    assert same_bits(whole, resumed)


def test_a_checkpoint_of_another_pattern_is_refused(tmp_path):
    p = {"w": jnp.ones((8, 8))}
    of = lambda n: pruned(optax.sgd(0.1), Cubic(1 - n / 4, 1, 4), pattern=NM(n, 4)).init(p)
    checkpoint.save(tmp_path / "c", of(2), {})
    with pytest.raises(ValueError, match=r"must be \.\.\..*pruned 1:4.*, got \.\.\..*pruned 2:4"):
        checkpoint.restore(tmp_path / "c", like=of(1))
