"""One selection over a tree: exact counts, ties in tree order, the same over a mesh's shards."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import bitlaw
from bitlaw.ops import select
from bitlaw.sparsity import masks_keeping


def tree(seed=0, rounding=None):
    rng = np.random.default_rng(seed)
    make = lambda *shape: rng.normal(size=shape).astype(np.float32) * rng.uniform(0.1, 3)
    it = {"a": make(40, 30), "b": {"c": make(300, 400), "d": make(8)}, "e": make(4, 4)}
    if rounding:
        it = jax.tree.map(lambda x: np.round(x * rounding) / rounding, it)
    return it


def by_stable_argsort(it, keep, norms=None):
    """The oracle: all leaves end to end, sorted."""
    leaves = jax.tree.leaves(it)
    norms = norms or [np.float32(1)] * len(leaves)
    scaled = [np.abs(x.astype(np.float32) * s).ravel() for x, s in zip(leaves, norms, strict=True)]
    flat = np.concatenate(scaled)
    order = np.argsort(-np.where(np.isnan(flat), -1, flat), kind="stable")
    kept = np.zeros(flat.size, bool)
    kept[order[:keep]] = True
    parts = np.split(kept, np.cumsum([x.size for x in leaves])[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, leaves, strict=True)]


def bools(masks):
    is_mask = lambda x: isinstance(x, bitlaw.BitMask)
    return [np.asarray(m.to_bool()) for m in jax.tree.leaves(masks, is_leaf=is_mask)]


def assert_same(got, want):
    for g, w in zip(bools(got), want, strict=True):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("door", ["numpy", "jit"])
@pytest.mark.parametrize("rounding", [None, 4])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.99999])
def test_equals_a_stable_argsort_of_all_leaves(sparsity, rounding, door):
    it = tree(rounding=rounding)
    n = sum(x.size for x in jax.tree.leaves(it))
    run = lambda it: bitlaw.global_masks(it, sparsity)
    got = jax.jit(run)(it) if door == "jit" else run(it)
    assert_same(got, by_stable_argsort(it, max(1, round(n * (1 - sparsity)))))


@pytest.mark.parametrize("size", [77, 80])  # whose bits are whole bytes or not
def test_the_last_bits_of_a_leaf_are_its_own(size):
    rng = np.random.default_rng(5)
    it = [rng.normal(size=n).astype(np.float32) for n in (size, 0, 13)]
    assert_same(bitlaw.global_masks(it, 0.5), by_stable_argsort(it, round((size + 13) * 0.5)))


def test_keep_may_be_traced_down_to_none():
    it = jax.tree.map(jnp.asarray, tree(1))
    run = jax.jit(masks_keeping)
    for keep in (0, 1, 1000, 121_223, 121_224):
        assert sum(m.sum() for m in bools(run(it, keep))) == keep


@pytest.mark.parametrize("value", [0.0, -2.5, np.nan])
def test_counts_are_exact_when_all_are_equal(value):
    it = {"a": np.full((100, 50), value, np.float32), "b": np.full(80_000, value, np.float32)}
    got = bools(bitlaw.global_masks(it, 0.96))
    assert [m.sum() for m in got] == [3400, 0]  # the first leaf, the lowest indices
    assert got[0].ravel()[:3400].all()


def test_half_precision_leaves_mix_with_others():
    it = tree(2)
    it["a"], it["e"] = it["a"].astype(ml_dtypes.bfloat16), it["e"].astype(np.float16)
    assert_same(bitlaw.global_masks(it, 0.7), by_stable_argsort(it, round(121_224 * 0.3)))


@pytest.mark.parametrize("other", [np.int32, np.float64, np.complex64, bool])
def test_leaves_that_are_not_weights_are_refused_whatever_the_others_are(other):
    it = {"step": np.zeros(4, other), "w": np.ones(8, np.float32)}
    with pytest.raises(ValueError, match="x must be f32, bf16 or f16"):
        bitlaw.global_masks(it, 0.5)


@pytest.mark.parametrize("normalize", ["l2", "rms"])
def test_normalized_magnitudes_are_divided_by_their_leafs_norm(normalize):
    it = tree(3)
    norm = {"l2": np.linalg.norm, "rms": lambda x: np.sqrt(np.mean(x * x))}[normalize]
    scaled = jax.tree.map(lambda x: x / norm(x.astype(np.float64)), it)
    want = by_stable_argsort(scaled, round(121_224 * 0.2))
    got = bools(bitlaw.global_masks(it, 0.8, normalize=normalize))
    differ = sum((g != w).sum() for g, w in zip(got, want, strict=True))
    assert sum(g.sum() for g in got) == round(121_224 * 0.2)
    assert differ <= 4  # a norm's last bits may swap neighbours at the threshold


def test_norms_beyond_f32_leave_counts_exact():
    huge = np.full((3, 300), 1e30, np.float32)
    huge[0, :5] = np.inf
    it = {"a": huge, "b": np.full(70, 1e-40, np.float32), "c": np.zeros(30, np.float32)}
    for normalize in ("l2", "rms"):
        with np.errstate(over="ignore"):  # the squares
            got = bools(bitlaw.global_masks(it, 0.9, normalize=normalize))
        assert sum(m.sum() for m in got) == 100 and got[0][0, :5].all()


def test_a_scale_that_is_no_scale_is_refused_by_name():
    x = np.ones((1, 40_000), np.float32)
    keep = np.array([3], np.int32)
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="scale must be positive and finite, got"):
            select.joint_top_k_mask(keep, np.full((1, 1), bad, np.float32), x)
    with pytest.raises(ValueError, match="arrays must be of one dtype, got float32 and float16"):
        select.joint_top_k_mask(keep, np.ones((1, 2), np.float32), x, x.astype(np.float16))
    with pytest.raises(ValueError, match=r"arrays must be \[1, n\] each, got \[2, 5\]"):
        select.joint_top_k_mask(keep, np.ones((1, 2), np.float32), x, np.ones((2, 5), np.float32))
    with pytest.raises(ValueError, match=r"scale must be f32\[1, 1\], got float32\[1, 2\]"):
        select.joint_top_k_mask(keep, np.ones((1, 2), np.float32), x)


@pytest.mark.parametrize(("rounding", "axes"), [(None, "d"), (2, "d"), (2, ("d", "e"))])
def test_shards_of_a_mesh_give_the_masks_of_the_whole_without_gathering(rounding, axes):
    it = jax.tree.map(jnp.asarray, tree(4, rounding))
    kind = {"axis_types": (AxisType.Auto,) * len(axes)}
    mesh = jax.make_mesh((4,) if axes == "d" else (2, 2), axes, **kind)
    local = lambda it: jax.tree.map(
        lambda m: m.to_bool(),
        bitlaw.global_masks(it, 0.9, axis_name=axes),
        is_leaf=lambda x: isinstance(x, bitlaw.BitMask),
    )
    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P(axes), out_specs=P(axes)))
    for got, want in zip(
        jax.tree.leaves(run(it)), bools(bitlaw.global_masks(it, 0.9)), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    text = run.lower(it).compile().as_text()
    assert "all-gather" not in text and "all-reduce" in text


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got 1.0"):
        bitlaw.global_masks(tree(), 1.0)
    with pytest.raises(ValueError, match="normalize must be None, 'l2' or 'rms', got 'max'"):
        bitlaw.global_masks(tree(), 0.5, normalize="max")
    big = {"a": jax.ShapeDtypeStruct((2**30,), jnp.float32)}
    big["b"] = big["a"]
    with pytest.raises(ValueError, match=r"fewer than 2\^31 elements in all, got 2147483648"):
        jax.eval_shape(lambda t: bitlaw.global_masks(t, 0.5), big)
    assert bitlaw.global_masks({}, 0.5) == {}
