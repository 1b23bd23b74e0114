"""Counter-based random numbers that depend on key, row and column only.

So they are the same for every thread, shard, block size, instruction set and device. `noise` is the
operand of every op that rounds stochastically: u32[items, 3], two words of a key and the number of
the item's first row, made outside the op (XLA then splits it with the rows it belongs to).
"""

from __future__ import annotations

import itertools

import numpy as np

from bitlaw.ops.op import Shape, op

ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = np.uint32(0x1BD11BDA)
ROUNDS = 13


def threefry2x32(key0, key1, a, b, rounds: int = ROUNDS):
    """The two random words of a counter (a, b) by Threefry2x32, an add-rotate-xor cipher.

    J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    Their library Random123 documents 13 rounds as the fewest without a known statistical flaw and
    20, which jax.random does, as a margin for general use. A threshold is used in one comparison,
    and 20 rounds were half the time of stochastic rounding, so 13.

    Args:
        key0, key1, a, b: u32 arrays that broadcast together.
        rounds: how often the words are mixed; after each four, words of the key are added.
    """
    keys = (key0, key1, key0 ^ key1 ^ PARITY)
    a, b = a + keys[0], b + keys[1]
    for done, r in enumerate(itertools.islice(itertools.cycle(ROTATIONS), rounds), start=1):
        a = a + b
        b = ((b << np.uint32(r)) | (b >> np.uint32(32 - r))) ^ a
        if done % 4 == 0:
            turn = done // 4
            a = a + keys[turn % 3]
            b = b + (keys[(turn + 1) % 3] + np.uint32(turn))
    return a, b


def thresholds(noise, rows: int, cols: int):
    """f32[items, rows, cols] in [0, 1), multiples of 2^-24: the body of `uniform`."""
    xp = noise.__array_namespace__()
    row = noise[:, 2, None, None] + xp.arange(rows, dtype=np.uint32)[None, :, None]
    runs = -(-cols // 32)
    counter = xp.arange(16 * runs, dtype=np.uint32)[None, None, :]
    words = threefry2x32(noise[:, 0, None, None], noise[:, 1, None, None], row, counter)
    runs_of = [w.reshape(noise.shape[0], rows, runs, 1, 16) for w in words]
    u = xp.concatenate(runs_of, axis=3).reshape(noise.shape[0], rows, runs * 32)[:, :, :cols]
    return (u >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def check_noise(noise, items: int) -> None:
    """Raises ValueError unless noise is u32[items, 3]."""
    if tuple(noise.shape) != (items, 3) or str(noise.dtype) != "uint32":
        raise ValueError(f"noise must be u32[{items}, 3], got {noise.dtype}{list(noise.shape)}")


def _uniform_out(noise, *, rows, cols):
    if noise.ndim != 2:
        raise ValueError(f"noise must be u32[items, 3], got {noise.dtype}{list(noise.shape)}")
    check_noise(noise, noise.shape[0])
    for name, n in (("rows", rows), ("cols", cols)):
        if n < 0:
            raise ValueError(f"{name} must be at least 0, got {n}")
    return (Shape((noise.shape[0], rows, cols), np.float32),)


def noise_of(rng: np.random.Generator, items: int) -> np.ndarray:
    """u32[items, 3]: any keys and row numbers, for examples."""
    return rng.integers(0, 2**32, (items, 3), dtype=np.uint32)


def _uniform_examples(rng):
    shapes = [(0, 1, 4), (2, 0, 3), (2, 3, 0), (3, 1, 1), (2, 2, 33), (1, 5, 64), (40, 1, 1000)]
    for items, rows, cols in [*shapes, (1, 30, 2047), (2, 1, 20001)]:
        yield (noise_of(rng, items),), {"rows": rows, "cols": cols}
    yield (np.array([[1, 2, 2**32 - 2]], np.uint32),), {"rows": 4, "cols": 40}


@op(out=_uniform_out, examples=_uniform_examples)
def uniform(noise, *, rows: int, cols: int):
    """Uniform numbers in [0, 1): thresholds of stochastic rounding, multiples of 2^-24.

        words   = threefry2x32(key, counter = (noise[i, 2] + r, 16 (c div 32) + c mod 16))
        u[i, r, c] = (words[(c div 16) mod 2] >> 8) 2^-24           key = noise[i, 0], noise[i, 1]

    Row numbers count modulo 2^32.

    Args:
        noise: u32[items, 3]: key, key, number of the item's first row
        rows, cols: of an item, at least 0.

    Returns:
        f32[items, rows, cols]
    """
    return thresholds(noise, rows, cols)
