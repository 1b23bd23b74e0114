"""The doors of an op, and what it means for two of them to agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.ops import OPS

try:
    from bitlaw import _cuda
except ImportError:  # built without nvcc
    _cuda = None


def device(name):
    """The first device of a platform, None where there is none."""
    try:
        return jax.devices(name)[0]
    except RuntimeError:
        return None


def placed(names, doors):
    """(name, door) for every pair, and (name, "cuda") for the ops with a kernel there."""
    no_gpu = pytest.mark.skipif(device("cuda") is None, reason="no GPU on this machine")
    kernels = _cuda.ops if _cuda else ()
    return [pytest.param(n, door, id=f"{n}-{door}") for n in names for door in doors] + [
        pytest.param(n, "cuda", id=f"{n}-cuda", marks=[pytest.mark.cuda, no_gpu])
        for n in names
        if n in kernels
    ]


def cases(name, seed=0):
    return list(OPS[name].examples(np.random.default_rng(seed)))


def definition(name, arrays, attributes):
    with np.errstate(all="ignore"):
        outs = OPS[name].definition(*arrays, **attributes)
    return outs if isinstance(outs, tuple) else (outs,)


def through_numpy(name, arrays, attributes):
    return tuple(OPS[name].numpy(*arrays, **attributes))


def through_jit(name, arrays, attributes):
    outs = jax.jit(lambda *a: OPS[name](*a, **attributes))(*map(jnp.asarray, arrays))
    return tuple(map(np.asarray, outs if isinstance(outs, tuple) else (outs,)))


def through_cuda(name, arrays, attributes):
    with jax.default_device(device("cuda")):
        return through_jit(name, arrays, attributes)


KERNEL_DOORS = {"numpy": through_numpy, "jit": through_jit}


def as_integers(x):
    """Bits of floats, so that -0 differs from 0; one pattern for every NaN."""
    x = np.ascontiguousarray(x)
    if x.dtype.kind in "iub":
        return x
    bits = x.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[x.dtype.itemsize])
    return np.where(np.isnan(x.astype(np.float64)), bits.dtype.type(0x7FFF), bits)


def assert_same_bits(got, want, what=""):
    assert got.shape == want.shape and got.dtype == want.dtype, what
    np.testing.assert_array_equal(as_integers(got), as_integers(want), err_msg=str(what))


def ulps_apart(a, b):
    """Largest distance of non-negative f32 arrays in units in the last place; NaN equals NaN."""
    nan = np.isnan(a) & np.isnan(b)
    a, b = (np.where(nan, 0, v).astype(np.float32).view(np.int32).astype(np.int64) for v in (a, b))
    return int(np.abs(a - b).max(initial=0))
