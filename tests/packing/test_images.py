"""Images into patches and rows: aspect ratios, dropping, coordinates, and nothing lost."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlaw.packing import images

SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=12)


def numbered(sizes):
    """Images whose every pixel has its own number."""
    ends = np.cumsum([h * w for h, w in sizes])
    return [
        np.arange(end - h * w, end).reshape(h, w) + 1.0
        for end, (h, w) in zip(ends, sizes, strict=True)
    ]


def test_grids_by_hand():
    sizes = [[64, 64], [64, 128], [7, 9], [1000, 10], [10, 1000], [8, 8]]
    assert images.grids(sizes, 8).tolist() == [[8, 8], [8, 16], [1, 2], [125, 2], [2, 125], [1, 1]]
    # sqrt(16 * 64 / 128) = 2.8, sqrt(16 * 128 / 64) = 5.7; sqrt(1600) = 40 is cut to 16.
    expected = [[4, 4], [2, 5], [1, 2], [16, 1], [1, 16], [1, 1]]
    assert images.grids(sizes, 8, max_tokens=16).tolist() == expected
    assert images.grids([[2**31, 2**31]], 1, max_tokens=100).tolist() == [[10, 10]]


@given(SIZES, st.integers(1, 9), st.integers(1, 60))
def test_a_grid_keeps_to_its_limit_and_to_its_aspect_ratio(sizes, patch, most):
    for (h, w), (rows, cols) in zip(sizes, images.grids(sizes, patch, most).tolist(), strict=True):
        native = math.ceil(h / patch), math.ceil(w / patch)
        assert rows * cols <= most
        if native[0] * native[1] <= most:
            assert (rows, cols) == native
        elif min(rows, cols) > 1:  # neither side by more than the patch that was rounded off
            assert rows / (cols + 1) < h / w < (rows + 1) / cols


def test_patches_by_hand():
    image = np.arange(1, 13).reshape(3, 4)
    assert images.patches(image, (2, 2), 2).tolist() == [
        [1, 2, 5, 6],
        [3, 4, 7, 8],
        [9, 10, 0, 0],
        [11, 12, 0, 0],
    ]
    colours = np.stack([image, -image], axis=2)
    assert images.patches(colours, (2, 2), 2)[0].tolist() == [1, -1, 2, -2, 5, -5, 6, -6]
    # Resampled to 2 x 2 pixels: the means over 1.5 x 2 pixels, (1 + 2 + 2.5 + 3) / 3 for the first.
    assert images.patches(image, (2, 2), 1)[:, 0] == pytest.approx(
        [8.5 / 3, 14.5 / 3, 8.167, 10.167], abs=1e-3
    )


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_resampling_keeps_the_mean_and_constants(h, w, height, width):
    image = np.random.default_rng(h * w).normal(size=(h, w, 2))
    again = images.resample(image, height, width)
    np.testing.assert_allclose(again.mean((0, 1)), image.mean((0, 1)), atol=1e-5)  # f32 out
    np.testing.assert_allclose(images.resample(0 * image + 3, height, width), 3, rtol=1e-6)


def test_coordinates_by_hand():
    absolute, fractional = images.coordinates((2, 3))
    assert absolute.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert np.allclose(fractional[:, 0], [1 / 4] * 3 + [3 / 4] * 3)
    assert np.allclose(fractional[:3, 1], [1 / 6, 1 / 2, 5 / 6])


@given(SIZES, st.integers(0, 5), st.floats(0, 0.99), st.integers(0, 99))
def test_every_kept_patch_lands_once_in_the_segment_of_its_image(sizes, extra, rate, seed):
    given_images, grid = numbered(sizes), images.grids(sizes, 3)
    tokens = grid.prod(axis=1)
    keep = images.keep_counts(tokens, np.full(len(sizes), rate))
    capacity = int(keep.max()) + extra
    batch = images.pack(given_images, capacity, patch=3, rates=rate, seed=seed)
    ids, owner = batch["patches_segment_ids"], batch["images"]
    assert sorted(owner[owner >= 0].tolist()) == list(range(len(sizes)))
    for i, image in enumerate(given_images):
        ((row, segment),) = np.argwhere(owner == i)
        here = ids[row] == segment + 1
        absolute, fractional = images.coordinates(grid[i])
        whole = images.patches(image, grid[i], 3)
        found = batch["patches_positions"][row][here]
        places = (found[:, 0] * grid[i][1] + found[:, 1]).tolist()
        # As many as planned, each another patch of this image, in order, with its coordinates.
        assert len(places) == keep[i] and places == sorted(set(places))
        assert np.array_equal(batch["patches"][row][here], whole[places])
        assert np.array_equal(batch["patches_fractions"][row][here], fractional[places])
        assert np.array_equal(found, absolute[places])
    assert (ids > 0).sum() == keep.sum() and not batch["patches"][ids == 0].any()


def test_dropping_follows_the_seed_and_reaches_every_patch():
    image = [np.ones((12, 12))]
    one, same, other = (
        images.pack(image, 9, patch=3, rates=0.5, seed=s)["patches_positions"] for s in (0, 0, 1)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([images.kept(rng, 16, 4) for _ in range(4000)]))
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000))  # 5 standard deviations


def test_rates_by_hand_and_in_distribution():
    assert images.constant_rates(3, 0.25).tolist() == [0.25] * 3
    assert images.resolution_rates([10, 20, 30], 0.2, 0.8).tolist() == pytest.approx(
        [0.2, 0.5, 0.8]
    )
    assert images.resolution_rates([7, 7], 0.2, 0.8).tolist() == [0.2, 0.2]
    rates = images.beta_rates(np.random.default_rng(0), 200_000, 0.4)
    assert rates.mean() == pytest.approx(0.4, abs=0.003)  # 5 standard errors
    assert rates.var() == pytest.approx(0.3 * 0.4 * 0.6, abs=0.0015)
    assert images.beta_rates(np.random.default_rng(0), 3, 0.0).tolist() == [0, 0, 0]
    curve = [images.scheduled_rate(t, begin=0.8, end=0.2, middle=50, width=5) for t in (0, 50, 100)]
    assert curve == pytest.approx([0.8, 0.5, 0.2], abs=1e-4)
    assert images.scheduled_rate(0, begin=0.8, end=0.2, middle=1e9, width=1) == pytest.approx(0.8)
    assert images.keep_counts([10, 10, 5, 3], [0.25, 0.75, 0.5, 0.99]).tolist() == [8, 2, 2, 1]


def test_pooling_is_the_mean_of_each_segment():
    rng = np.random.default_rng(0)
    x, ids = (
        rng.normal(size=(2, 7, 3)).astype(np.float32),
        np.array([[1, 1, 2, 2, 2, 0, 0], [1] * 7]),
    )
    pooled = np.asarray(images.pool(x, ids, 3))
    for b, s in np.ndindex(2, 3):
        mean = x[b, ids[b] == s + 1].mean(0) if (ids[b] == s + 1).any() else 0 * x[0, 0]
        np.testing.assert_allclose(pooled[b, s], mean, atol=1e-6)  # sums of 7 terms near 1


def test_no_images_give_no_rows():
    batch = images.pack([], 8, patch=2)
    assert batch["patches"].shape == (0, 8, 4) and batch["images"].shape == (0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: images.grids([[4, 0]], 2), "sizes must be at least 1, got [4, 0] at 0"),
        (lambda: images.grids([4, 4], 2), "sizes must be integers [n, 2], got int64[2]"),
        (lambda: images.grids([[4, 4]], 0), "patch must be at least 1, got 0"),
        (lambda: images.grids([[4, 4]], 2, 0), "max_tokens must be at least 1, got 0"),
        (lambda: images.patches(np.ones(4), (1, 1), 2), "image must be [height, width] or"),
        (lambda: images.kept(np.random.default_rng(0), 4, 5), "keep must be in 1..4, got 5"),
        (lambda: images.keep_counts([4], [1.0]), "rates must be in [0, 1), got 1"),
        (lambda: images.keep_counts([4], [np.nan]), "rates must be in [0, 1), got nan"),
        (lambda: images.constant_rates(2, -0.1), "rate must be in [0, 1), got -0.1"),
        (lambda: images.pack([np.ones((9, 9))], 4, patch=3), "got 9 at 0"),
        (
            lambda: images.pack([np.ones((2, 2)), np.ones((2, 2, 3))], 4, patch=2),
            "images must have as many channels each, got patches of [4, 12]",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
