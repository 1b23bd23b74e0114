"""The CUDA kernels on an emulator: on any machine, the bits of the CPU's kernels.

The sources in cpp/cuda are compiled as C++, with emulator/ in place of the CUDA runtime.
"""

import importlib.util
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from bitlaw import _core
from bitlaw.ops import OPS
from ops import doors

pybind11 = pytest.importorskip("pybind11", reason="compiles a module: pip install pybind11")
ROOT = pathlib.Path(__file__).parents[2]
EMULATOR = pathlib.Path(__file__).with_name("emulator")
SOURCES = sorted((ROOT / "cpp" / "cuda").glob("*.cu"))


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """name -> (numpy function f(inputs, outputs, attributes), bytes of workspace or None)."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    module = tmp_path_factory.mktemp("emulated") / "_cuda_emulated.so"
    folders = [EMULATOR, ROOT / "cpp", pybind11.get_include(), sysconfig.get_paths()["include"]]
    command = ["g++", "-shared", "-fPIC", "-std=c++20", "-O1", "-ffp-contract=off"]
    command += ["-fvisibility=hidden", *(f"-I{folder}" for folder in folders)]
    command += ["-x", "c++", *map(str, SOURCES), str(EMULATOR / "module.cc"), "-o", str(module)]
    subprocess.run(command, check=True)
    spec = importlib.util.spec_from_file_location("_cuda_emulated", module)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded.ops


def as_bound(array):
    """The array as the binding knows it: halves as integers."""
    halves = {"bfloat16": np.uint16, "float16": np.int16}
    return array.view(halves[array.dtype.name]) if array.dtype.name in halves else array


def outputs(emulated, name, arrays, attributes):
    """The op's outputs by the emulated kernel; memory is dirty before, as on a GPU."""
    run, workspace = emulated[name]
    arrays = [np.ascontiguousarray(a) for a in arrays]
    outs = [np.empty(o.shape, o.dtype) for o in OPS[name].out(*arrays, **attributes)]
    spaces = []
    if workspace:
        size = workspace([a.shape for a in arrays], attributes)
        spaces = [np.empty((len(arrays[0]), size), np.uint8)]
    bits = [as_bound(a) for a in (*outs, *spaces)]
    for a in bits:
        a.view(np.uint8).fill(0xA5) if a.size else None
    run([as_bound(a) for a in arrays], bits, attributes)
    return outs


def test_the_list_of_kernels_is_that_of_the_cuda_module(emulated):
    _cuda = pytest.importorskip("bitlaw._cuda", reason="built without nvcc")
    assert set(_cuda.ops) == set(emulated) <= set(_core.ops)


def test_every_example_gives_the_bits_of_the_cpu(emulated):
    for name in emulated:
        for arrays, attributes in doors.cases(name):
            got = outputs(emulated, name, arrays, attributes)
            want = doors.through_numpy(name, arrays, attributes)
            for g, w in zip(got, want, strict=True):
                doors.assert_same_bits(g, w, f"{name} {attributes} {[a.shape for a in arrays]}")
