"""Patterns: exact counts in every group, the best pattern of all, gradual n:m."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitlaw.ops.block import block_sum
from bitlaw.ops.transposable import tile_patterns
from bitlaw.sparsity import NM, Block, Channel, Cubic, Unstructured, transposable_mask

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def tiles_of(mask, m):
    rows, cols = mask.shape
    return mask.reshape(rows // m, m, cols // m, m).swapaxes(1, 2).reshape(-1, m, m)


def test_there_are_90_patterns_of_2_4_and_they_are_all_there_are():
    rows = [r for r in itertools.product([0, 1], repeat=4) if sum(r) == 2]
    brute = {
        p
        for p in itertools.product(rows, repeat=4)
        if all(sum(c) == 2 for c in zip(*p, strict=True))
    }
    ours = {tuple(map(tuple, p.reshape(4, 4).astype(int))) for p in tile_patterns(2)}
    assert len(brute) == 90 and ours == brute
    assert len(tile_patterns(1)) == len(tile_patterns(3)) == math.factorial(4)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("door", [np.asarray, jnp.asarray])
def test_transposable_4_by_4_is_the_best_of_all_patterns_by_brute_force(n, door):
    x = normal(24, 32)
    mask = np.asarray(transposable_mask(door(x), n, 4).to_bool())
    patterns = tile_patterns(n).reshape(-1, 4, 4)
    sums = np.einsum("tij,pij->tp", np.abs(tiles_of(x, 4)).astype(np.float64), patterns)
    got = (np.abs(tiles_of(x, 4)) * tiles_of(mask, 4)).sum((1, 2))
    np.testing.assert_allclose(got, sums.max(1), rtol=1e-6)  # f32 sums of at most 16 numbers


@given(m=st.integers(1, 12), part=st.floats(0.05, 1), ties=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_transposable_has_n_ones_in_every_row_and_column(m, part, ties, seed):
    n = max(1, round(part * m))
    x = np.random.default_rng(seed).normal(size=(3 * m, 2 * m)).astype(np.float32)
    x = np.round(x) if ties else x
    x[np.random.default_rng(seed).random(x.shape) < 0.1] = np.nan
    tiles = tiles_of(transposable_mask(x, n, m).to_bool(), m)
    assert (tiles.sum(1) == n).all() and (tiles.sum(2) == n).all()


def test_greed_is_at_least_half_of_the_best():
    x = normal(16, 16)
    got = np.abs(x)[transposable_mask(x, 1, 8).to_bool()].sum()
    from scipy.optimize import linear_sum_assignment

    best = sum(
        tile[linear_sum_assignment(tile, maximize=True)].sum() for tile in np.abs(tiles_of(x, 8))
    )
    assert best / 2 <= got <= best * (1 + 1e-6)


@pytest.mark.parametrize("door", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 8), NM(2, 4, -1), NM(2, 4, transposable=True)])
def test_gradual_n_m_always_keeps_the_top_n_and_ends_as_n_m(pattern, door):
    x = normal(16, 24)
    x[0, 0], x[3, 3] = np.nan, np.inf
    final = 1 - pattern.n / pattern.m
    schedule = Cubic(final, 0, 10, 3)
    end = np.asarray(pattern._mask(x).to_bool())
    for keep in pattern.keep_counts(schedule, x.shape, final):
        mask = np.asarray(pattern.mask(door(x), int(keep)).to_bool())
        assert mask.sum() == keep and mask[end].all()
        others = np.nan_to_num(np.abs(x[~end]), nan=-1, posinf=1e30)
        kept = mask[~end]
        assert others[kept].min(initial=1e30) >= others[~kept].max(initial=-1)
    np.testing.assert_array_equal(mask, end)


def test_blocks_are_kept_whole_by_the_sum_of_their_magnitudes():
    x = normal(2, 8, 12)
    mask = Block(4, 3).mask(x, 5 * 12).to_bool()
    blocks = mask.reshape(2, 2, 4, 4, 3).swapaxes(2, 3).reshape(-1, 12)
    assert set(blocks.sum(1)) == {0, 12} and blocks.any(1).sum() == 5
    sums = np.abs(x).reshape(2, 2, 4, 4, 3).swapaxes(2, 3).reshape(-1, 12).sum(1)
    assert sums[blocks.any(1)].min() > sums[~blocks.any(1)].max()


@pytest.mark.parametrize("scale", [1, 1e-40])
def test_block_sums_and_so_their_masks_have_the_same_bits_through_both_doors(scale):
    """Blocks of the same numbers in any order: the last bit of a sum decides between them."""
    tiles = RNG.permuted(np.tile(normal(96) * np.float32(scale), (200, 1)), axis=1)
    x = tiles.reshape(4, 50, 12, 8).swapaxes(1, 2).reshape(48, 400)
    pattern, keep = Block(12, 8), 40 * 96
    mask = lambda x: pattern.mask(x, keep).to_bool()
    np.testing.assert_array_equal(jax.jit(mask)(jnp.asarray(x)), mask(x))
    sums = block_sum(x[None], rows=12, cols=8).ravel()
    exact = np.abs(tiles.astype(np.float64)).sum(1)
    naive = np.cumsum(np.abs(tiles), axis=1)[:, -1]  # f32, one after another
    assert np.abs(sums - exact).max() <= 2 * np.abs(naive - exact).max()


@pytest.mark.parametrize("axis", [-1, -2])
def test_channels_are_kept_whole(axis):
    x = normal(6, 10)
    size = x.shape[-1 if axis == -2 else -2]
    mask = Channel(axis).mask(x, 3 * size).to_bool()
    whole = mask.all(axis=-2 if axis == -1 else -1)
    assert whole.sum() == 3 and mask.sum() == 3 * size
    kept = np.argsort(-np.abs(x).sum(axis=-2 if axis == -1 else -1))[:3]
    assert set(np.flatnonzero(whole)) == set(kept)


def test_counts_of_patterns_are_whole_groups():
    schedule = Cubic(0.5, 0, 4)
    assert Block(4, 4).keep_counts(schedule, (8, 12), 0.5).tolist()[-1] == 3 * 16
    assert NM(2, 4).keep_counts(schedule, (8, 12), 0.5).tolist()[-1] == 48
    assert Channel().keep_counts(schedule, (8, 11), 0.5).tolist()[-1] == 6 * 8  # half to even
    assert Unstructured().keep_counts(schedule, (3, 3), 0.5).tolist()[-1] == 4


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x: Block(4, 4).mask(x, 16), "block must divide axis 1 of x, got 4 and (8, 6)"),
        (lambda x: Block(4, 4).mask(x[0], 16), "x must have at least 2 axes for block4x4"),
        (lambda x: NM(5, 4), "n must be in [1, m], got 5:4"),
        (lambda x: NM(2, 100), "m must be in [1, 64], got 100"),
        (lambda x: Block(0, 4), "block must have at least 1 row and column, got block0x4"),
        (lambda x: Channel(0), "axis must be -1 or -2, got 0"),
        (lambda x: transposable_mask(x, 2, 4), "m must divide axis 2 of x, got 4 and (1, 8, 6)"),
        (lambda x: transposable_mask(x, 2, 33), "m must divide axis 0 of x, got 33 and (8, 6)"),
        (lambda x: transposable_mask(x[:0, :0], 2, 65), "m must be in [1, 64], got 65"),
        (lambda x: transposable_mask(x, 3, 2), "n must be in [1, m]"),
        (
            lambda x: NM(2, 4).keep_counts(Cubic(0.4, 0, 1), x.shape, 0.4),
            "final sparsity must be 1 - n/m for 2:4, got 0.4",
        ),
    ],
)
def test_bad_patterns_are_refused_by_name(run, message):
    with pytest.raises(ValueError) as error:
        run(normal(8, 6))
    assert message in str(error.value)


def test_masks_under_vmap_are_those_of_each_array():
    x = normal(3, 8, 8)
    for pattern in (NM(2, 4), NM(1, 4, transposable=True), Block(2, 2), Channel()):
        keep = 32 if pattern != NM(1, 4, transposable=True) else 16
        make = lambda x, pattern=pattern, keep=keep: pattern.mask(x, keep).to_bool()
        got = jax.vmap(make)(jnp.asarray(x))
        np.testing.assert_array_equal(got, np.stack([make(one) for one in x]))
