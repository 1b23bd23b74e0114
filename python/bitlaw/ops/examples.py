"""Arrays, grids and choices for the examples of the quantization ops."""

from __future__ import annotations

import itertools

import numpy as np

from bitlaw.ops.grid import ESTIMATORS, FLT_MAX, GRID_NUMBERS, ROUNDINGS, SCALINGS

HADAMARDS = tuple(2**k for k in range(4, 13))

GRIDS = {
    "uniform": [(-7, 7, 0, 7), (-2, 1, 0.5, 1.5 / 1.49353462), (-1, 1, 0, 1)],
    "affine": [(0, 15, 0, 15), (0, 255, 0, 255), (0, 3, 0, 3)],
    "float": [(6, 1, 0.5, 6), (448, 2**-6, 2**-3, 448), (28, 2**-2, 2**-2, 14)],
    "nf4": [(1, 0, 0, 1)],
}


def grids_of_kinds(rng: np.random.Generator, x: np.ndarray, kind: str, scaling: str) -> np.ndarray:
    """f32[items, 5]: grids of the kind, in turn."""
    rows = [GRIDS[kind][i % len(GRIDS[kind])] for i in range(x.shape[0])]
    outer = 2.0 ** rng.uniform(-3, 12, len(rows)) if scaling == "e4m3" else np.ones(len(rows))
    numbers = np.asarray(rows, np.float32).reshape(len(rows), GRID_NUMBERS - 1)
    return np.append(numbers, outer[:, None], axis=1).astype(np.float32)


def hard_values(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Normals with ties, both zeros, subnormals and huge values strewn in."""
    x = rng.normal(size=shape).astype(np.float32)
    strewn = [0.0, -0.0, 0.5, -1.5, 2.5, 1e-45, -1e-40, 1e-30, 1e30, 3.5]
    return np.where(rng.random(shape) < 0.05, rng.choice(np.float32(strewn), shape), x)


def arrays_and_blocks(rng: np.random.Generator):
    """(array, block) pairs of every layout; the last ones are large enough to reach threads."""
    import ml_dtypes

    for shape, block in [
        ((0, 1, 32), 32), ((2, 0, 8), 4), ((3, 1, 1), 1), ((1, 1, 7), 7), ((5, 1, 96), 32),
        ((4, 1, 48), 6), ((2, 33, 20), 1), ((2, 5, 12), 4), ((3, 4, 9), 9), ((64, 1, 1024), 1024),
        ((24, 1, 4096), 32), ((1, 300, 200), 1), ((2, 300, 300), 300), ((1, 1, 70001), 70001),
        ((2, 256, 257), 257), ((9, 1, 8224), 16), ((1, 1, 69632), 69632), ((2, 12, 4101), 1),
        ((2, 1, 6000), 48), ((1, 1, 6000), 5),
    ]:  # fmt: skip
        x = hard_values(rng, shape)
        yield x, block
        yield x.astype(ml_dtypes.bfloat16), block
    x = hard_values(rng, (48, 1000))
    yield x, 8
    yield x.astype(ml_dtypes.bfloat16), 1000
    poison = rng.normal(size=(40, 1, 2048)).astype(np.float32)
    poison[3, 0, 2047], poison[17, 0, 5], poison[30, 0, 0] = np.nan, np.inf, -np.inf
    poison[3, 0, 100], poison[9, 0, 7], poison[9, 0, 1400] = -np.nan, -np.nan, -np.nan
    yield poison, 2048
    yield poison, 64
    tiny = (2.0 ** -np.arange(120, 150)).astype(np.float32)[:, None, None]
    yield tiny * np.linspace(-1, 1, 16, dtype=np.float32), 16
    yield np.zeros((4, 1, 64), np.float32), 32
    yield np.full((2, 1, 64), FLT_MAX, np.float32), 64


def statistics_and_units(rng: np.random.Generator):
    """Pairs of statistics and of powers of two."""
    for shape in [(0, 3), (2, 0), (1, 1), (5, 33), (300, 200)]:
        statistic = np.abs(hard_values(rng, shape))
        for extreme in (np.nan, np.inf, FLT_MAX, 1e-40, 1e-45):
            statistic[rng.random(shape) < 0.1] = extreme
        yield statistic, np.ldexp(np.float32(1), rng.integers(-126, 127, shape)).astype(np.float32)


def choices_for(x: np.ndarray, block: int, turn: int) -> dict:
    """Attributes that suit the array; all of them occur as `turn` counts up."""
    one_row = x.ndim == 2 or x.shape[1] == 1
    statistics = ("absmax", "rms", "mse_search") if one_row else ("absmax", "rms")
    choices = itertools.product(("uniform", "float", "affine", "nf4"), ROUNDINGS)
    kind, rounding = list(choices)[turn % 16]
    scaling = SCALINGS[(turn // 3) % 6]
    if scaling == "e4m3" and kind != "float":
        scaling = "f32"
    statistic = "range" if kind == "affine" else statistics[(turn // 2) % len(statistics)]
    sizes = [n for n in HADAMARDS if one_row and block % n == 0 and turn % 4 == 1]
    return {
        "block": block,
        "kind": kind,
        "statistic": statistic,
        "scaling": scaling,
        "rounding": rounding,
        "estimator": ESTIMATORS[(turn // 5) % 4],
        "pruned": not sizes and turn % 3 == 0,
        "hadamard": sizes[turn // 4 % len(sizes)] if sizes else 0,
    }


def noise_for(rng: np.random.Generator, x: np.ndarray, rounding: str) -> np.ndarray:
    """u32[items, 3], or u32[items, 0] unless the rounding is stochastic."""
    noise = rng.integers(0, 2**32, (x.shape[0], 3), dtype=np.uint32)
    return noise if rounding == "stochastic" else noise[:, :0]
