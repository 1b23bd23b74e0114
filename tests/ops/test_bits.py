"""Codes into bytes and back."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays

from bitlaw.ops import OPS

pack, unpack = OPS["pack_bits"], OPS["unpack_bits"]


def test_one_bit_equals_numpy_packbits():
    for n in [1, 8, 13, 4096, 100001]:
        flags = np.random.default_rng(n).integers(0, 2, (2, n), dtype=np.uint8)
        want = np.packbits(flags, axis=1, bitorder="little")
        np.testing.assert_array_equal(pack(flags, bits=1), want)
        np.testing.assert_array_equal(unpack(want, bits=1, n=n), flags)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_row_equals_pythons_little_endian_integer(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, 77)
    whole = sum(int(c) << (bits * i) for i, c in enumerate(codes))
    want = whole.to_bytes(-(-77 * bits // 8), "little")
    assert pack(codes[None].astype(np.uint8), bits=bits).tobytes() == want


@hypothesis.given(st.data(), st.integers(1, 8), st.integers(0, 3), st.integers(0, 1100))
def test_unpack_inverts_pack_at_every_width(data, bits, items, n):
    codes = data.draw(arrays(np.uint8, (items, n), elements=st.integers(0, 2**bits - 1)))
    np.testing.assert_array_equal(unpack(pack(codes, bits=bits), bits=bits, n=n), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_no_byte_beyond_the_last_is_written_or_read(bits):
    """Rows one after the other: a store or load too wide would meet the neighbour's bytes."""
    for n in [1, 8, 9, 16, 24, 65, 512, 520, 1031]:
        codes = np.random.default_rng(n).integers(0, 2**bits, (4, n), dtype=np.uint8)
        each = [pack(row[None], bits=bits)[0] for row in codes]
        np.testing.assert_array_equal(pack(codes, bits=bits), each)


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match=r"bits must be in \[1, 8\], got 9"):
        pack(np.zeros((1, 4), np.uint8), bits=9)
    with pytest.raises(ValueError, match=r"codes must be u8\[items, n\], got int32\[1, 4\]"):
        pack(np.zeros((1, 4), np.int32), bits=2)
    with pytest.raises(ValueError, match=r"packed must have 2 bytes an item for 5 codes of 3"):
        unpack(np.zeros((1, 4), np.uint8), bits=3, n=5)
