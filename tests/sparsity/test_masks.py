"""Masks: exact counts, ties by index, NaN first, packed bits, n:m along any axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitlaw
from bitlaw.sparsity import select_threshold

HARD = {
    "zero": np.zeros(999),
    "equal": np.full(999, -2.5),
    "nan": np.full(999, np.nan),
    "normal": np.random.default_rng(0).normal(size=999),
    "few values": np.random.default_rng(1).integers(-2, 3, 999),
}


@pytest.mark.parametrize("door", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("name", HARD)
def test_counts_are_exact_also_under_ties(name, door):
    x = door(HARD[name].astype(np.float32).reshape(27, 37))
    for keep in [0, 1, 500, 998, 999]:
        mask = bitlaw.top_k_mask(x, keep)
        assert int(mask.count()) == keep
        assert mask.shape == (27, 37)


def test_equals_a_stable_argsort():
    x = np.random.default_rng(2).integers(-9, 10, 40_000).astype(np.float32)
    order = np.argsort(-np.abs(x), kind="stable")
    want = np.zeros(x.size, bool)
    want[order[:12_345]] = True
    np.testing.assert_array_equal(bitlaw.top_k_mask(x, 12_345).to_bool(), want)


@pytest.mark.parametrize("zeros", [0.3, 0.5, 0.999])
def test_equals_a_stable_argsort_of_weights_that_are_pruned_already(zeros):
    """Counts just below, at and above that of the non-zeros: their zeros are counted apart."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=50_000).astype(np.float32)
    x[np.abs(x) < np.quantile(np.abs(x), zeros)] = 0
    x[:20] = np.nan
    order = np.argsort(-np.nan_to_num(np.abs(x), nan=-1), kind="stable")
    nonzero = np.count_nonzero(np.nan_to_num(x))
    for keep in (nonzero // 2, nonzero - 1, nonzero, nonzero + 1, nonzero + 100, 49_990):
        want = np.zeros(x.size, bool)
        want[order[:keep]] = True
        np.testing.assert_array_equal(bitlaw.top_k_mask(x, keep).to_bool(), want)


def test_nan_is_pruned_first_and_infinity_last():
    x = np.array([1.0, np.nan, -np.inf, 0.0, np.inf], np.float32)
    assert bitlaw.top_k_mask(x, 2).to_bool().tolist() == [False, False, True, False, True]
    assert bitlaw.top_k_mask(x, 4).to_bool().tolist() == [True, False, True, True, True]


def test_bits_are_little_endian_in_memory_order():
    x = np.arange(1, 12, dtype=np.float32)
    assert bitlaw.top_k_mask(x, 3).bits.tolist() == [0, 0b111]
    assert bitlaw.top_k_mask(x[::-1], 3).bits.tolist() == [0b111, 0]


def test_apply_prunes_to_plus_zero_and_checks_the_shape():
    x = np.array([[-1.0, np.nan], [3.0, -0.5]], np.float32)
    got = bitlaw.top_k_mask(x, 2).apply(x)
    assert got.tolist() == [[-1, 0], [3, 0]] and not np.signbit(got[1, 1])
    with pytest.raises(ValueError, match=r"x must have the mask's shape \(2, 2\), got \(4,\)"):
        bitlaw.top_k_mask(x, 2).apply(x.reshape(4))


def test_keep_may_be_traced_and_one_program_serves_all():
    x = jnp.asarray(np.random.default_rng(3).normal(size=50_000).astype(np.float32))
    run = jax.jit(lambda x, keep: bitlaw.top_k_mask(x, keep))
    for keep in (7, 25_000):
        got = run(x, keep)
        np.testing.assert_array_equal(got.bits, bitlaw.top_k_mask(np.asarray(x), keep).bits)
    assert run._cache_size() == 1


@pytest.mark.parametrize("keep", [-1, 1000])
def test_keep_outside_the_array_is_refused(keep):
    with pytest.raises(ValueError, match=rf"keep must be a whole number in \[0, 999\], got {keep}"):
        bitlaw.top_k_mask(HARD["normal"].astype(np.float32), keep)
    with pytest.raises(ValueError, match=r"keep must be a whole number in \[0, 999\], got 0.5"):
        select_threshold(HARD["normal"].astype(np.float32), 0.5)
    with pytest.raises(jax.errors.JaxRuntimeError, match=rf"keep must be in .* got {keep}"):
        jax.jit(bitlaw.top_k_mask)(jnp.ones(999), jnp.int32(keep)).bits.block_until_ready()


@given(
    m=st.integers(1, 64), part=st.floats(0.01, 1), axis=st.sampled_from([-3, -2, -1]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_n_of_every_m_along_any_axis(m, part, axis, seed):
    n = max(1, int(part * m))
    shape = [2, 3, 5]
    shape[axis] *= m
    x = np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)
    mask = bitlaw.nm_mask(x, n, m, axis).to_bool()
    groups = np.moveaxis(mask, axis, -1).reshape(-1, m)
    assert (groups.sum(1) == n).all()
    kept = np.abs(np.moveaxis(x, axis, -1).reshape(-1, m))
    assert (np.where(groups, kept, 9).min(1) >= np.where(groups, -1, kept).max(1)).all()


def test_2_4_by_hand():
    x = np.array([[1, -2, 2, 0.5, 3, 3, 3, 3]], np.float32)
    assert bitlaw.nm_mask(x, 2, 4, axis=-1).to_bool().tolist() == [
        [False, True, True, False, True, True, False, False]
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 2, -1), "n must be in [1, m] (n:m keeps n of every m), got 3:2"),
        ((1, 65, -1), "m must be in [1, 64], got 65"),
        ((1, 3, -2), "m must divide axis -2 of x, got 3 and (4, 8)"),
        ((1, 0, -1), "m must be in [1, 64], got 0"),
        ((1, 2, 5), "axis must be an axis of x, got 5 and (4, 8)"),
    ],
)
def test_bad_patterns_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        bitlaw.nm_mask(np.ones((4, 8), np.float32), *arguments)
    assert message in str(error.value)


def test_empty_arrays_have_empty_masks():
    for shape in [(0, 4), (4, 0), (0,)]:
        x = np.zeros(shape, np.float32)
        assert int(bitlaw.top_k_mask(x, 0).count()) == 0
    assert bitlaw.nm_mask(np.zeros((0, 4), np.float32), 2, 4).shape == (0, 4)
    assert bitlaw.nm_mask(np.zeros((4, 0), np.float32), 2, 4).shape == (4, 0)


def test_a_mask_is_a_pytree_of_one_bit_per_weight():
    mask = bitlaw.top_k_mask(jnp.ones((1000, 1000)), 5)
    (leaf,) = jax.tree.leaves(mask)
    assert leaf.nbytes == 125_000
    assert jax.tree.map(lambda x: x, mask).shape == (1000, 1000)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("door", [np.asarray, jnp.asarray])
def test_a_threshold_and_its_ties_say_the_same_as_the_mask(door, dtype):
    x = door(HARD["few values"].astype(dtype))
    for keep in (1, 300, 999):
        magnitude, ties = select_threshold(x, keep)
        above, equal = jnp.abs(x) > magnitude, jnp.abs(x) == magnitude
        want = np.asarray(above) | (np.asarray(equal) & (np.cumsum(equal) <= ties))
        np.testing.assert_array_equal(bitlaw.top_k_mask(x, keep).to_bool(), want)
    magnitude, ties = select_threshold(door(HARD["nan"].astype(dtype)), 5)
    assert np.isnan(magnitude) and ties == 5
    magnitude, ties = select_threshold(x, 0)
    assert np.isinf(magnitude) and ties == 0
