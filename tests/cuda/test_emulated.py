"""The CUDA kernels on an emulator: on any machine, the bits of the CPU's kernels.

The sources in cpp/cuda are compiled as C++, with emulator/ in place of the CUDA runtime.
"""

import concurrent.futures
import functools
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import ml_dtypes
import numpy as np
import pytest

from bitlaw.ops import OPS, examples
from ops import doors

pybind11 = pytest.importorskip("pybind11", reason="compiles a module: pip install pybind11")
ROOT = pathlib.Path(__file__).parents[2]
EMULATOR = pathlib.Path(__file__).with_name("emulator")
SOURCES = sorted((ROOT / "cpp" / "cuda").glob("*.cu"))
IN_JAX = [name for name, it in OPS.items() if not it.host]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """name -> (numpy function f(inputs, outputs, attributes), bytes of workspace or None)."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    module = tmp_path_factory.mktemp("emulated") / "_cuda_emulated.so"
    folders = [EMULATOR, ROOT / "cpp", pybind11.get_include(), sysconfig.get_paths()["include"]]
    # Jumps between stacks, which a fortified longjmp takes for errors.
    flags = ["-fPIC", "-std=c++20", "-O1", "-ffp-contract=off", "-fvisibility=hidden"]
    flags += ["-U_FORTIFY_SOURCE", *(f"-I{folder}" for folder in folders), "-x", "c++", "-c"]
    sources = [*SOURCES, EMULATOR / "module.cc"]
    objects = [module.with_name(f"{source.stem}.o") for source in sources]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiles = [
            ["g++", *flags, str(source), "-o", str(target)]
            for source, target in zip(sources, objects, strict=True)
        ]
        list(pool.map(functools.partial(subprocess.run, check=True), compiles))
    subprocess.run(["g++", "-shared", *map(str, objects), "-o", str(module)], check=True)
    spec = importlib.util.spec_from_file_location("_cuda_emulated", module)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded.ops


def as_bound(array):
    """The array as the binding knows it: halves as integers."""
    halves = {"bfloat16": np.uint16, "float16": np.int16}
    return array.view(halves[array.dtype.name]) if array.dtype.name in halves else array


def empty(shape, dtype, aligned):
    """Dirty memory, as on a GPU; on request one element behind a boundary of 16 bytes."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(size + 32, 0xA5, np.uint8)
    first = -memory.ctypes.data % 16 + (0 if aligned else dtype.itemsize)
    return memory[first : first + size].view(dtype).reshape(shape)


def outputs(emulated, name, arrays, attributes, aligned=True):
    """The op's outputs by the emulated kernel."""
    run, workspace = emulated[name]
    ins = [empty(a.shape, a.dtype, aligned) for a in arrays]
    for own, a in zip(ins, arrays, strict=True):
        own[...] = a
    outs = [empty(o.shape, o.dtype, aligned) for o in OPS[name].out(*arrays, **attributes)]
    spaces = []
    if workspace:
        size = workspace([a.shape for a in arrays], attributes)
        spaces = [empty((len(arrays[0]), size), np.uint8, True)]
    run([as_bound(a) for a in ins], [as_bound(a) for a in (*outs, *spaces)], attributes)
    return outs


def assert_bits_of_the_cpu(emulated, name, arrays, attributes, aligned=True):
    got = outputs(emulated, name, arrays, attributes, aligned)
    want = doors.through_numpy(name, arrays, attributes)
    for g, w in zip(got, want, strict=True):
        doors.assert_same_bits(g, w, f"{name} {attributes} {[a.shape for a in arrays]}")


def test_the_list_of_kernels_is_that_of_the_cuda_module(emulated):
    _cuda = pytest.importorskip("bitlaw._cuda", reason="built without nvcc")
    assert set(_cuda.ops) == set(emulated)


def test_every_op_that_is_not_host_only_has_a_kernel(emulated):
    assert set(emulated) == {name for name, it in OPS.items() if not it.host}


@pytest.mark.parametrize("name", IN_JAX)
def test_every_example_gives_the_bits_of_the_cpu(emulated, name):
    for arrays, attributes in doors.cases(name):
        assert_bits_of_the_cpu(emulated, name, arrays, attributes)


@pytest.mark.parametrize("name", IN_JAX)
def test_memory_off_the_boundaries_of_wide_reads_gives_the_same_bits(emulated, name):
    small = [c for c in doors.cases(name, seed=1) if max(a.size for a in c[0]) < 20_000]
    for arrays, attributes in small[1::2]:
        assert_bits_of_the_cpu(emulated, name, arrays, attributes, aligned=False)


def rows(rng, cols, dtype, **choices):
    """Groups of a whole row of so many columns, around what a block of threads holds."""
    x = examples.hard_values(rng, (3, 1, cols)).astype(dtype)
    chosen = {"kind": "float", "statistic": "absmax", "scaling": "f32", "rounding": "nearest"}
    chosen |= {"estimator": "clip_rounded", "block": cols, "hadamard": 0} | choices
    grid = examples.grids_of_kinds(rng, x, chosen["kind"], chosen["scaling"])
    return (x, grid, examples.noise_for(rng, x, chosen["rounding"])), chosen


@pytest.mark.parametrize("cols", [8, 88, 2048, 2056, 3072, 8192, 8200])
def test_rows_around_what_a_block_holds_give_the_bits_of_the_cpu(emulated, cols):
    rng = np.random.default_rng(cols)
    for dtype in (np.float32, ml_dtypes.bfloat16):
        for rounding in ("nearest", "stochastic"):
            arrays, choices = rows(rng, cols, dtype, rounding=rounding)
            choices |= {"pruned": False}
            assert_bits_of_the_cpu(emulated, "fake_quantize", arrays, choices)
            del choices["pruned"]
            assert_bits_of_the_cpu(emulated, "quantize", arrays, choices | {"bits": 8})


def more_cases(rng):
    """Shapes that cross tiles of threads, parts and panels where the examples do not."""
    f32 = lambda *shape: rng.normal(size=shape).astype(np.float32)
    for m, along_rows in [(4, True), (4, False), (8, True), (8, False)]:
        yield "nm_mask", (f32(2, 72, 264),), {"n": m // 2, "m": m, "along_rows": along_rows}
    grid = np.float32([[-7, 7, 0, 7, 1]])
    attributes = {"estimator": "lsq_plus", "pruned": True}
    for rows, cols, block in [(1, 4096 + 64, 2080), (1, 98304 + 16, 98304 + 16), (129, 520, 8)]:
        g, x = f32(1, rows, cols), f32(1, rows, cols)
        scale, zero = np.abs(f32(2, 1, cols // block)) + np.float32(0.1)
        yield "learned_gradient", (g, x, scale, np.rint(zero), grid), attributes | {"block": block}
    for statistic in ("absmax", "range", "rms"):
        attributes = {"statistic": statistic, "pruned": False, "hadamard": 0}
        for shape, block in [((2, 1, 65536), 32768), ((2, 130, 72), 8), ((1, 130, 1032), 1032)]:
            yield "group_statistic", (f32(*shape),), attributes | {"block": block}
    yield "top_k_mask", (f32(2, 3 * 2048 + 8), np.int32([5, 6000])), {}
    for bits in (1, 3, 8):
        codes = rng.integers(0, 256, (2, 3 * 8192 + 32), dtype=np.uint8)
        yield "pack_bits", (codes,), {"bits": bits}
        n = 3 * 8192 + 32
        yield "unpack_bits", (codes[:, : n * bits // 8],), {"bits": bits, "n": n}
    for size in (256, 512, 4096):
        x, signs = f32(3, 1, 3 * 4096), rng.integers(0, 256, (3, 1536), dtype=np.uint8)
        for inverse in (False, True):
            yield "hadamard", (x, signs), {"block": size, "inverse": inverse}


def test_shapes_across_blocks_give_the_bits_of_the_cpu(emulated):
    for name, arrays, attributes in more_cases(np.random.default_rng(5)):
        assert_bits_of_the_cpu(emulated, name, arrays, attributes)
