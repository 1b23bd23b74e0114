"""Images of any size as patches in packed rows (Patch n' Pack, arXiv:2307.06304).

An image keeps its aspect ratio: its size gives a grid of patches, some of the patches may be
dropped, and those that stay are one segment of a row, as a document is in packed text:

    sizes --grids--> patches per image --keep_counts--> tokens per image --pack--> rows

Coordinates are factorised: a patch knows its row and its column, as numbers (`absolute`) and as
fractions of its image's height and width (`fractional`). Nothing here depends on a model.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import isqrt

import jax.numpy as jnp
import numpy as np

from bitlaw.packing.plan import plan
from bitlaw.packing.rows import materialize


def grids(sizes, patch: int, max_tokens: int | None = None) -> np.ndarray:
    """Patches down and across each image; at most `max_tokens` of them, in its aspect ratio.

        ceil(height / patch), ceil(width / patch)        where so many fit, else
        floor(sqrt(max_tokens * height / width)), floor(sqrt(max_tokens * width / height))

    each at least 1 and at most max_tokens (as in Pix2Struct, arXiv:2210.03347, section 2).

    Args:
        sizes: [n, 2], height and width in pixels, each at least 1.
        patch: side of a patch in pixels.
        max_tokens: the most patches of one image; None for no limit.
    Returns:
        i64[n, 2]
    Raises:
        ValueError: a size, the patch or the limit is no integer above 0.
    """
    sizes = np.asarray(sizes)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or (sizes.dtype.kind not in "iu" and sizes.size):
        raise ValueError(f"sizes must be integers [n, 2], got {sizes.dtype}{list(sizes.shape)}")
    sizes = sizes.astype(np.int64)
    if sizes.size and sizes.min() < 1:
        i = int(np.argmax(sizes.min(axis=1) < 1))
        raise ValueError(f"sizes must be at least 1, got {sizes[i].tolist()} at {i}")
    _at_least_one("patch", patch)
    native = -(-sizes // patch)
    if max_tokens is None:
        return native
    _at_least_one("max_tokens", max_tokens)
    fits = native[:, 0] <= max_tokens // native[:, 1]
    scaled = [  # exact: floor(sqrt(x)) is isqrt(floor(x))
        [isqrt(max_tokens * h // w), isqrt(max_tokens * w // h)] for h, w in sizes[~fits].tolist()
    ]
    native[~fits] = np.array(scaled, np.int64).reshape(-1, 2).clip(1, max_tokens)
    return native


def _at_least_one(name: str, value: int) -> None:
    if operator.index(value) < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def patches(image, grid, patch: int) -> np.ndarray:
    """The patches of one image, row by row of its grid.

    An image that fits its grid with less than a patch to spare is padded with zeros below and to
    the right; any other is first resampled to the grid's size (`resample`).

    Args:
        image: [height, width] or [height, width, channels], of numbers.
        grid: patches down and across, as `grids` gives them.
        patch: side of a patch in pixels.
    Returns:
        f32[rows * cols, patch * patch * channels]
    """
    image = np.asarray(image, np.float32)
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            f"image must be [height, width] or [height, width, channels] of at least one pixel, "
            f"got {list(image.shape)}"
        )
    image = image.reshape(*image.shape[:2], -1)
    rows, cols = map(operator.index, grid)
    if (-(-image.shape[0] // patch), -(-image.shape[1] // patch)) != (rows, cols):
        image = resample(image, rows * patch, cols * patch)
    below, right = rows * patch - image.shape[0], cols * patch - image.shape[1]
    image = np.pad(image, [(0, below), (0, right), (0, 0)])
    tiles = image.reshape(rows, patch, cols, patch, -1).swapaxes(1, 2)
    return tiles.reshape(rows * cols, -1)


def resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each new pixel the mean of the image over the area it covers, f32[height, width, channels].

    Exact for any ratio of sizes; a constant image stays constant.
    """

    def weights(new: int, old: int) -> np.ndarray:
        edges = np.linspace(0, old, new + 1)
        pixels = np.arange(old)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return overlap.clip(0) * (new / old)

    down, across = weights(height, image.shape[0]), weights(width, image.shape[1])
    return np.einsum("ih,hwc,jw->ijc", down, image, across, optimize=True).astype(np.float32)


def coordinates(grid) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each patch of a grid, absolute and fractional.

        absolute = (i, j)       fractional = ((i + 1/2) / rows, (j + 1/2) / cols)

    Returns:
        i32[rows * cols, 2], f32[rows * cols, 2]
    """
    rows, cols = map(operator.index, grid)
    absolute = np.indices((rows, cols), np.int32).reshape(2, -1).T
    return absolute, ((absolute + 0.5) / (rows, cols)).astype(np.float32)


# --- Token dropping: how large a share of an image's patches is left out -------------------------


def constant_rates(n: int, rate: float) -> np.ndarray:
    """The same drop rate for each of n images, f64[n]."""
    return np.full(n, _rate("rate", rate))


def beta_rates(rng: np.random.Generator, n: int, mean: float) -> np.ndarray:
    """Drop rates drawn from Beta(a, b) of this mean u and variance 0.3 u (1 - u), f64[n].

        a + b = 1 / 0.3 - 1,   a = u (a + b)         (arXiv:2307.06304, section 3.3)

    A mean of 0 drops nothing.
    """
    if not _rate("mean", mean):
        return np.zeros(n)
    total = 1 / 0.3 - 1
    # 1 itself would leave an image nothing to keep.
    return np.minimum(rng.beta(mean * total, (1 - mean) * total, n), np.nextafter(1, 0))


def resolution_rates(tokens, lowest: float, highest: float) -> np.ndarray:
    """Drop rates from `lowest`, of the smallest image, to `highest`, of the largest, f64[n].

    Linear in the number of patches (arXiv:2307.06304, section 3.3, without its noise).

    Args:
        tokens: patches per image, i64[n].
    """
    tokens = np.asarray(tokens, np.float64)
    _rate("lowest", lowest), _rate("highest", highest)
    if not tokens.size:
        return np.zeros(0)
    spread = max(float(np.ptp(tokens)), 1.0)
    return lowest + (highest - lowest) * (tokens - tokens.min()) / spread


def scheduled_rate(step, *, begin: float, end: float, middle: float, width: float):
    """The drop rate of a training step, from `begin` to `end` along a logistic curve.

        rate(t) = end + (begin - end) / (1 + exp((t - middle) / width))

    Half way at `middle`; nearly all of the change within 4 widths of it. A rate that falls lets
    the last steps see whole images.
    """
    _rate("begin", begin), _rate("end", end)
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width}")
    x = np.clip((np.asarray(step, np.float64) - middle) / width, -700, 700)  # exp overflows at 710
    return end + (begin - end) / (1 + np.exp(x))


def _rate(name: str, rate: float) -> float:
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be in [0, 1), got {rate:g}")
    return float(rate)


def keep_counts(tokens, rates) -> np.ndarray:
    """Patches that stay: max(1, round_half_even(tokens * (1 - rate))), i64[n]."""
    tokens, rates = np.asarray(tokens, np.int64), np.asarray(rates, np.float64)
    bad = ~((rates >= 0) & (rates < 1))  # NaN is neither
    if bad.any():
        raise ValueError(f"rates must be in [0, 1), got {rates[bad].flat[0]:g}")
    return np.maximum(1, np.rint(tokens * (1 - rates))).astype(np.int64)


def kept(rng: np.random.Generator, tokens: int, keep: int) -> np.ndarray:
    """Which patches of an image stay: a uniform draw without replacement, ascending, i64[keep]."""
    if not 1 <= keep <= tokens:
        raise ValueError(f"keep must be in 1..{tokens}, got {keep}")
    return np.sort(rng.permutation(tokens)[:keep])


# --- Packed rows ---------------------------------------------------------------------------------


def pack(
    images: Sequence,
    capacity: int,
    *,
    patch: int,
    max_tokens: int | None = None,
    rates=None,
    seed: int = 0,
    **planning,
) -> dict[str, np.ndarray]:
    """Images as patches in packed rows; every patch that was kept lies in one place.

    Args:
        images: [height, width] or [height, width, channels] each, as many channels in all.
        capacity: tokens per row.
        patch, max_tokens: as in `grids`.
        rates: drop rate of each image, [n]; None keeps every patch.
        seed: of the choice of the patches that are dropped.
        planning: as `packing.plan` takes it.

    Returns:
        patches: f32[rows, capacity, patch * patch * channels], padding 0
        patches_segment_ids: i32[rows, capacity], from 1 in each row, padding 0
        patches_positions: i32[rows, capacity, 2], row and column of the patch in its image
        patches_fractions: f32[rows, capacity, 2], the same as fractions of the image
        images: i64[rows, segments], the image of each segment; -1 where a row has fewer
    Raises:
        ValueError: as `grids`, `patches` and `packing.plan`; an image has other channels.
    """
    sizes = np.array([np.shape(image)[:2] for image in images], np.int64).reshape(-1, 2)
    grid = grids(sizes, patch, max_tokens)
    tokens = grid.prod(axis=1)
    keep = tokens if rates is None else keep_counts(tokens, np.broadcast_to(rates, tokens.shape))
    rng = np.random.default_rng(seed)
    parts = []
    for image, shape, n, k in zip(images, grid, tokens, keep, strict=True):
        values, stay = patches(image, shape, patch), slice(None) if k == n else kept(rng, n, k)
        parts.append([array[stay] for array in (values, *coordinates(shape))])
    return _rows(parts, keep, capacity, patch, planning)


def _rows(parts, lengths, capacity: int, patch: int, planning) -> dict[str, np.ndarray]:
    """The rows of `pack`, from each image's patches and their coordinates."""
    empty = np.zeros((0, patch**2), np.float32), np.zeros((0, 2), np.int32), np.zeros((0, 2))
    widths = {part[0].shape[1] for part in parts}
    if len(widths) > 1:
        raise ValueError(f"images must have as many channels each, got patches of {sorted(widths)}")
    places = plan(lengths, capacity, **planning)
    rows = materialize(places, np.arange(lengths.sum()))
    segments = rows["tokens_segment_ids"]

    def placed(arrays) -> np.ndarray:
        values = np.concatenate(arrays)
        found = np.zeros((*segments.shape, values.shape[1]), values.dtype)
        found[segments > 0] = values[rows["tokens"][segments > 0]]
        return found

    values, absolute, fractional = map(placed, zip(*(parts or [empty]), strict=True))
    owner = np.full((len(segments), segments.max(initial=0)), -1, np.int64)
    r, at = np.nonzero((segments > 0) & (rows["tokens_positions"] == 0))
    owner[r, segments[r, at] - 1] = np.repeat(np.arange(len(lengths)), lengths)[
        rows["tokens"][r, at]
    ]
    return {
        "patches": values,
        "patches_segment_ids": segments,
        "patches_positions": absolute,
        "patches_fractions": fractional.astype(np.float32),
        "images": owner,
    }


def pool(x_BxLxD, segment_ids_BxL, segments: int):
    """The mean of x over each segment; 0 where a row has no such segment.

        y[b, s] = mean of x[b, l] over the l with segment_ids[b, l] = s + 1

    Args:
        segments: S, the most segments of a row.
    Returns:
        f32[B, S, D]
    """
    member = segment_ids_BxL[..., None] == jnp.arange(1, segments + 1)
    member_BxLxS = member.astype(x_BxLxD.dtype)
    count_BxS = jnp.maximum(jnp.sum(member_BxLxS, axis=1), 1)
    return jnp.einsum("bls,bld->bsd", member_BxLxS, x_BxLxD) / count_BxS[..., None]
