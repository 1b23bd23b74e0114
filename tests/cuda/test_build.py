"""How the CUDA module is built: no library of CUDA's needed, and never silently left out."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_the_module_needs_neither_cudas_runtime_nor_a_driver():
    _cuda = pytest.importorskip("bitlaw._cuda", reason="built without nvcc")
    needed = subprocess.run(["ldd", _cuda.__file__], capture_output=True, text=True, check=True)
    assert "libc.so" in needed.stdout and "cuda" not in needed.stdout.replace(_cuda.__file__, "")


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["ON", "AUTO", "MAYBE"])
def test_cuda_on_without_nvcc_is_an_error_and_auto_is_not(choice, tmp_path):
    pybind11 = pytest.importorskip("pybind11")
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), f"-DBITLAW_CUDA={choice}"]
    command += [f"-DPython_EXECUTABLE={sys.executable}"]
    command += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    env = os.environ | {"CUDACXX": "/no/nvcc"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    says = " ".join(done.stderr.split())
    assert (done.returncode == 0) == (choice == "AUTO"), says
    wanted = {
        "ON": "BITLAW_CUDA=ON needs nvcc, and none was found: set CUDACXX to its path",
        "MAYBE": "BITLAW_CUDA must be AUTO, ON or OFF, got MAYBE",
        "AUTO": "",
    }
    assert wanted[choice] in says


def test_the_gpu_script_is_bash_and_takes_less_than_9_minutes():
    script = ROOT / "bench" / "gpu.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    limits = {name: int(limit) for name, limit in re.findall(r"step ([\w$]+) (\d+) ", text)}
    assert len(limits) == 8  # the three sanitizers, side by side, are one of them
    assert sum(limits.values()) < 540
    (default,) = re.findall(r"\$\{\*:-([\w ]+)\}", text)
    tools = {"memcheck", "racecheck", "initcheck"}
    assert set(default.split()) == limits.keys() - {"$tool"} | tools
