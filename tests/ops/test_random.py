"""The random thresholds against published vectors and jax's generator, and their distribution."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from bitlaw.ops import OPS
from bitlaw.ops.random import noise_of, threefry2x32

# Of Random123's file kat_vectors: rounds, counter, key, words. (Counter and key are digits of pi.)
KNOWN_ANSWERS = """
13 00000000 00000000 00000000 00000000 9d1c5ec6 8bd50731
13 ffffffff ffffffff ffffffff ffffffff fd36d048 2d17272c
13 243f6a88 85a308d3 13198a2e 03707344 ba3e4725 f27d669e
20 00000000 00000000 00000000 00000000 6b200159 99ba4efe
20 ffffffff ffffffff ffffffff ffffffff 1cb996fc bb002be7
20 243f6a88 85a308d3 13198a2e 03707344 c4923a9c 483df7a0
32 243f6a88 85a308d3 13198a2e 03707344 e2827716 c3c05cdf
"""


@pytest.mark.parametrize("line", KNOWN_ANSWERS.split("\n")[1:-1])
def test_threefry_gives_the_known_answers_of_random123(line):
    rounds, *words = line.split()
    a, b, key0, key1, *want = (np.array([int(word, 16)], np.uint32) for word in words)
    assert threefry2x32(key0, key1, a, b, rounds=int(rounds)) == tuple(want)


def test_threefry_with_20_rounds_equals_jax_extend_random():
    rng = np.random.default_rng(0)
    for key in [(0, 0), (2**32 - 1, 2**32 - 1), *rng.integers(0, 2**32, (5, 2))]:
        key = np.array(key, np.uint32)
        counter = rng.integers(0, 2**32, 200, dtype=np.uint32)
        want = np.asarray(threefry_2x32(jnp.asarray(key), jnp.asarray(counter)))
        got = threefry2x32(key[:1], key[1:], counter[:100], counter[100:], rounds=20)
        np.testing.assert_array_equal(np.concatenate(got), want)


@pytest.mark.parametrize("cols", [5, 40, 100])
def test_uniform_takes_each_word_of_13_rounds_where_its_docstring_says(cols):
    (noise,) = noise_of(np.random.default_rng(1), 1)
    got = OPS["uniform"](noise[None], rows=3, cols=cols)[0]
    for r in range(3):
        for c in range(cols):
            counter = np.array([[noise[2] + np.uint32(r)], [16 * (c // 32) + c % 16]], np.uint32)
            words = threefry2x32(noise[:1], noise[1:2], *counter, rounds=13)
            assert got[r, c] == (int(words[c // 16 % 2][0]) >> 8) * 2.0**-24


def test_rows_of_one_item_are_those_of_items_numbered_alike():
    noise = noise_of(np.random.default_rng(2), 1)
    each = np.repeat(noise, 4, axis=0)
    each[:, 2] += np.arange(4, dtype=np.uint32)
    many = OPS["uniform"](noise, rows=4, cols=300)
    np.testing.assert_array_equal(OPS["uniform"](each, rows=1, cols=300)[:, 0], many[0])


def test_uniform_is_uniform():
    u = OPS["uniform"](np.array([[3, 4, 0]], np.uint32), rows=1000, cols=1000)
    assert u.min() >= 0 and u.max() < 1
    # Five standard deviations of a count of 10^6 / 64 and of a mean of 10^6.
    counts = np.bincount((u.ravel() * 64).astype(int), minlength=64)
    assert np.abs(counts - 15625).max() < 5 * 125
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12e6)


def test_thresholds_of_neighbours_are_not_correlated():
    """Keys, rows and columns one apart: five standard deviations of a correlation of 10^6 / 2."""
    noise = np.array([[3, 4, 0], [4, 4, 0], [3, 5, 0]], np.uint32)
    u = OPS["uniform"](noise, rows=500, cols=1000) - np.float32(0.5)
    pairs = [(u[0], u[1]), (u[0], u[2]), (u[:, 1:], u[:, :-1])]
    pairs += [(u[..., d:], u[..., :-d]) for d in (1, 2, 16, 32)]
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(5e5)


def test_bad_noise_is_refused_by_name():
    with pytest.raises(ValueError, match=r"noise must be u32\[2, 3\], got float32\[2, 3\]"):
        OPS["uniform"](np.ones((2, 3), np.float32), rows=1, cols=1)
    with pytest.raises(ValueError, match="rows must be at least 0, got -1"):
        OPS["uniform"](np.ones((2, 3), np.uint32), rows=-1, cols=1)
