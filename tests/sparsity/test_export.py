"""Export: every layout gives the same weights back, bit for bit, at the size it promises."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from bitlaw.sparsity import NM, BitMask, OneShot, nm_mask, pruned
from bitlaw.sparsity.export import load_sparse, report, save_sparse


def weights(n=2, m=4, axis=-2):
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(16, 24)).astype(np.float32)
    hard[0, :4], hard[1, :2], hard[2, 0] = np.nan, -np.inf, 1e-40
    params = {
        "a": hard,
        "b": [rng.normal(size=(3, 8, 16)).astype(ml_dtypes.bfloat16)],
        "c": rng.normal(size=(8, 8)).astype(np.float16),
        "norm": np.array([1.0, -0.0], np.float32),
    }
    masks = jax.tree.map(lambda w: nm_mask(w, n, m, axis) if w.ndim > 1 else None, params)
    none = lambda x: x is None or isinstance(x, BitMask)
    apply = lambda mask, w: w if mask is None else mask.apply(w)
    params = jax.tree.map(apply, masks, params, is_leaf=none)
    params["b"][0].view(np.uint16)[np.asarray(masks["b"][0].to_bool())] |= 0x8000  # keeps -0 too
    return params, masks


@pytest.mark.parametrize("layout", ["bitmask", "csr", "n:m"])
@pytest.mark.parametrize("nm", [(2, 4, -2), (1, 4, -1), (3, 8, -1)])
def test_loading_gives_the_same_bits(tmp_path, layout, nm):
    params, masks = weights(*nm)
    save_sparse(tmp_path / "w.safetensors", params, masks, layout, nm=nm)
    got = load_sparse(tmp_path / "w.safetensors")
    for path, w in jax.tree_util.tree_leaves_with_path(params):
        one = got[jax.tree_util.keystr(path)]
        assert one.dtype == w.dtype and one.shape == w.shape
        assert one.tobytes() == np.ascontiguousarray(w).tobytes(), (path, layout)


def test_2_4_is_half_the_values_and_2_bits_for_each(tmp_path):
    params, masks = weights()
    save_sparse(tmp_path / "w.safetensors", params, masks, "n:m")
    stored = load_file(tmp_path / "w.safetensors")
    assert stored["['a'].values"].size == 16 * 24 // 2
    assert stored["['a'].metadata"].nbytes == 16 * 24 // 2 * 2 // 8
    save_sparse(tmp_path / "w.safetensors", params, masks)
    assert load_file(tmp_path / "w.safetensors")["['a'].mask"].nbytes == 16 * 24 // 8


def test_metadata_by_hand(tmp_path):
    w = np.array([[0, 5, 0, 7], [1, 2, 0, 0]], np.float32)
    save_sparse(tmp_path / "w", [w], [nm_mask(w, 2, 4, -1)], "n:m", nm=(2, 4, -1))
    stored = load_file(tmp_path / "w")
    assert stored["[0].metadata"].tolist() == [0b0100_1101]  # 1, 3, then 0, 1: lowest bits first
    assert stored["[0].values"].view(np.float32).tolist() == [[5, 7], [1, 2]]


def test_bad_input_is_refused_by_name(tmp_path):
    params, masks = weights()
    with pytest.raises(ValueError, match="layout must be one of bitmask, csr, n:m, got 'coo'"):
        save_sparse(tmp_path / "w", params, masks, "coo")
    with pytest.raises(ValueError, match=r"mask of \['a'\] must keep 1 of every 4 along axis -2"):
        save_sparse(tmp_path / "w", params, masks, "n:m", nm=(1, 4, -2))
    with pytest.raises(ValueError, match=r"mask of \['a'\] must have the shape \(16, 24\)"):
        save_sparse(tmp_path / "w", params, masks | {"a": masks["c"]})
    with pytest.raises(ValueError, match=r"\['a'\] must be \+0 where its mask prunes, got 192"):
        save_sparse(tmp_path / "w", params | {"a": np.ones((16, 24), np.float32)}, masks)
    from safetensors.numpy import save_file

    save_file({"x": np.ones(2)}, tmp_path / "x")
    with pytest.raises(ValueError, match="path must be a file of bitlaw's sparse arrays"):
        load_sparse(tmp_path / "x")


def test_report_counts_every_array_in_exact_integers():
    tx = pruned(optax.sgd(0.1), OneShot(0.5, 1), pattern=NM(2, 4))
    params = {"w": jnp.ones((8, 4)), "bias": jnp.zeros(3)}
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    params = optax.apply_updates(params, updates)
    assert report(params, state) == [
        {"path": "['bias']", "shape": (3,), "size": 3, "kept": 3, "nonzero": 0},
        {"path": "['w']", "shape": (8, 4), "size": 32, "kept": 16, "nonzero": 16},
    ]
