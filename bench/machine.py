"""What this machine can do, measured now: the limits that every row is a share of."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np

from bitlaw.ops import isa


def seconds(run, repeats: int = 7) -> float:
    """Fastest of `repeats` calls: on a shared machine the others measure the neighbours."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def matmul_gflops(n: int = 1024) -> float:
    """f32 matrix product rate of jitted JAX, in 1e9 operations per second."""
    a = jnp.ones((n, n), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    return 2 * n**3 / seconds(lambda: product(a).block_until_ready()) / 1e9


def copy_gbs(n: int = 1 << 24) -> float:
    """Bytes read and written per second, in 1e9, of numpy copying one array into another."""
    x, y = np.ones(n, np.float32), np.zeros(n, np.float32)
    return 2 * x.nbytes / seconds(lambda: np.copyto(y, x)) / 1e9


def in_place_gbs(n: int = 1 << 24) -> float:
    """Bytes read and written per second, in 1e9, of jitted JAX scaling a donated array."""
    scale = jax.jit(lambda x: x * 0.999, donate_argnums=0)
    box = [jnp.ones(n, jnp.float32)]

    def run():
        box[0] = scale(box[0]).block_until_ready()

    run()
    return 2 * 4 * n / seconds(run) / 1e9


def describe() -> dict:
    """One record: cores, instruction set, bandwidths, matmul rate, versions, commit."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "isa": isa(),
        "copy_gbs": round(copy_gbs(), 1),
        "in_place_gbs": round(in_place_gbs(), 1),
        "matmul_gflops": round(matmul_gflops(), 1),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "bitlaw": importlib.metadata.version("bitlaw"),
    }


def _commit() -> str:
    """Empty where the tree is a copy without its repository, or there is no git."""
    git = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as lines:
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
