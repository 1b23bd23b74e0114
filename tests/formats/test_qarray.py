"""Arrays in codes: there and back to the bit, the memory they take, files."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import bitlaw
from bitlaw.formats import FORMATS, QuantSpec, load, save

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 128)).astype(np.float32)
X[3, :] = 0
X[5, 7] = -0.0
X[9] *= 1e-40
SPECS = [
    *FORMATS, "int4/channel", "int3/row", "int5/block16x8/scale_bf16", "uint3/row", "int8/full/row",
    "quest3/block32/scale_pow2", "mxfp4/e8m0_rceil", "nvfp4/hadamard16/block32", "int4/row/away",
    "int2/block32/mse_search", "int6/fixed(0.1)", "mxfp6/toward_zero", "ternary/channel/hadamard16",
    "mxfp8/stochastic",
]  # fmt: skip
KEY = np.array([3, 4], np.uint32)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape
    unsigned = np.uint32 if a.dtype == np.float32 else np.uint16
    nan = np.isnan(a.astype(np.float32)) & np.isnan(b.astype(np.float32))
    np.testing.assert_array_equal(
        np.where(nan, 0, a.view(unsigned)), np.where(nan, 0, b.view(unsigned))
    )


@pytest.mark.parametrize("text", SPECS)
def test_dequantize_of_quantize_is_fake_quantize_to_the_bit(text):
    for x in (X, X.astype(ml_dtypes.bfloat16), X[:0]):
        got = bitlaw.dequantize(bitlaw.quantize(x, text, key=KEY))
        same_bits(got, bitlaw.fake_quantize(x, text, key=KEY))
    poisoned = X.copy()
    poisoned[20, 5], poisoned[40, 50] = np.nan, np.inf
    same_bits(
        bitlaw.dequantize(bitlaw.quantize(poisoned, text, key=KEY)),
        bitlaw.fake_quantize(poisoned, text, key=KEY),
    )


@pytest.mark.parametrize("text", ["nvfp4", "mxfp4/stochastic", "uint4", "quest4/channel"])
def test_jit_makes_the_codes_of_numpy(text):
    host = bitlaw.quantize(X, text, key=KEY)
    both = jax.jit(lambda x: (q := bitlaw.quantize(x, text, key=KEY), bitlaw.dequantize(q)))(X)
    device, back = both
    for name in ("codes", "zero", "scale"):
        a, b = np.asarray(getattr(device, name)), np.asarray(getattr(host, name))
        if text.startswith("quest"):  # sums are 2 ulp apart
            continue
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
    rtol = 3e-7 if text.startswith("quest") else 0
    np.testing.assert_allclose(back, bitlaw.dequantize(host), rtol=rtol, atol=0)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("int4/channel", 4 + 32 / 256), ("int4/block32/scale_bf16", 4.5), ("mxfp4", 4.25),
        ("mxfp6", 6.25), ("mxfp8", 8.25), ("nvfp4", 4.5 + 32 / 2**18), ("int3", 3 + 32 / 2**18),
        ("ternary", 2 + 32 / 2**18), ("binary/row", 1 + 32 / 1024), ("uint4/block64", 4 + 40 / 64),
        ("nf4", 4.5),
    ],
)  # fmt: skip
def test_nbytes_is_codes_and_scales_and_nothing_else(text, bits):
    q = bitlaw.quantize(RNG.normal(size=(256, 1024)).astype(np.float32), text)
    assert q.nbytes * 8 == pytest.approx(bits * 2**18, rel=1e-9)
    assert q.nbytes == sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(q))


@pytest.mark.parametrize(
    "text", ["int4/learned", "e4m3/delayed", "bitlaw.formats.switched:switched_fp8"]
)
def test_specs_without_codes_are_refused(text):
    with pytest.raises(ValueError, match="spec must have codes and scales of its own data"):
        bitlaw.quantize(X, text)


def test_a_tree_survives_a_file_to_the_bit(tmp_path):
    tree = {
        "blocks": [{"up": X, "down": X.T.copy()}, {"up": 2 * X, "down": X.T.copy()}],
        "norm": np.ones(128, np.float32),
        "steps": np.int32(7),
    }
    rules = {"*/0/up": "nvfp4", "*/up": "int4/block32/scale_bf16", "*/down": "mxfp8"}
    compressed = bitlaw.compress_params(tree, rules)
    save(compressed, tmp_path / "model.safetensors")
    back = load(tmp_path / "model.safetensors")
    assert isinstance(back["blocks"], list) and back["steps"] == 7
    assert back["blocks"][1]["up"].spec == QuantSpec.parse("int4/block32/scale_bf16", axis=-2)
    assert jax.tree.structure(back) == jax.tree.structure(compressed)
    want = jax.tree.leaves(bitlaw.quantize_params(tree, rules))
    for one, other in zip(jax.tree.leaves(bitlaw.decompress_params(back)), want, strict=True):
        np.testing.assert_array_equal(one, other)
    stored = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(compressed))
    assert stored <= (tmp_path / "model.safetensors").stat().st_size <= stored + 4096


def test_files_that_are_not_ours_or_cut_short_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match="must be a file written by"):
        load(tmp_path / "other")
    save({"a": bitlaw.quantize(X, "int4")}, tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-9])
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load(tmp_path / "cut")


def test_a_qarray_passes_through_jit_and_tree_map():
    q = bitlaw.quantize(jnp.asarray(X), "mxfp4")
    again = jax.tree.map(lambda leaf: leaf, q)
    same_bits(jax.jit(bitlaw.dequantize)(again), bitlaw.fake_quantize(X, "mxfp4"))
