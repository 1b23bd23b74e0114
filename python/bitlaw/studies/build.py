"""The identity of the installed code: rows made by different code never share a run id."""

import hashlib
import importlib.util
from importlib.metadata import version
from pathlib import Path

import bitlaw

# What computes a row. What hands out the work, fits and reports is left out, so that a change
# there does not discard finished runs.
COMPUTING = (
    "ops/**/*.py",
    "formats/**/*.py",
    "sparsity/**/*.py",
    "packing/**/*.py",
    "models/**/*.py",
    "train/**/*.py",
    "studies/run.py",
    "studies/worker.py",
)
ARITHMETIC = ("jax", "jaxlib", "numpy", "optax")  # besides our own files these decide the bits


def files() -> dict[str, Path]:
    """The Python files and the compiled module that compute a row, by name inside the package.

    An editable install keeps the compiled module elsewhere, so it is looked up by its import name.
    """
    found = {
        path.relative_to(root).as_posix(): path
        for root in map(Path, bitlaw.__path__)
        for pattern in COMPUTING
        for path in root.glob(pattern)
    }
    core = Path(importlib.util.find_spec("bitlaw._core").origin)
    return found | {core.name: core}


def build_id() -> str:
    """The version and a digest of the installed code that computes a row: "0.1.0+1a2b3c4d5e6f".

    digest = sha256 over (name, sha256 of content) of `files()` and the versions of ARITHMETIC
    """
    digest = hashlib.sha256()
    for name, path in sorted(files().items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for package in ARITHMETIC:
        digest.update(f"{package} {version(package)}\n".encode())
    return f"{bitlaw.__version__}+{digest.hexdigest()[:12]}"
