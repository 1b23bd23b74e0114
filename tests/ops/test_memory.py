"""Memory of large outputs: used again once no array lies in it, and not before."""

import numpy as np

from bitlaw import _core


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_no_view_is_left():
    array = _core.memory(5 << 20)
    at, view = address(array), array.view(np.int32).reshape(-1, 128)[7]
    view[:] = 3
    del array
    others = [_core.memory(5 << 20) for _ in range(20)]
    for other in others:
        assert address(other) != at
        other[:] = 1
    assert (view == 3).all()
    del view
    assert at in [address(_core.memory(5 << 20)), address(_core.memory(3 << 20))]


def test_memory_is_writable_and_large_enough():
    kept = [_core.memory(size) for size in (0, 1, 1 << 21, (1 << 21) + 1, 5 << 20)]
    for i, array in enumerate(kept):
        array[:] = i
    assert [array.nbytes for array in kept] == [0, 1, 1 << 21, (1 << 21) + 1, 5 << 20]
    assert all((array == i).all() for i, array in enumerate(kept))
