"""The identity of the installed code: rows made by different code never share a run id."""

import hashlib
import importlib.util
from importlib.metadata import version
from pathlib import Path

import bitlaw

# Besides our own files these decide the bits of a loss.
ARITHMETIC = ("jax", "jaxlib", "numpy", "optax")


def files() -> dict[str, Path]:
    """The package's Python files and compiled modules, by their name inside the package.

    An editable install keeps the compiled module elsewhere, so it is looked up by its import name.
    """
    found = {
        path.relative_to(root).as_posix(): path
        for root in map(Path, bitlaw.__path__)
        for pattern in ("*.py", "*.so")
        for path in sorted(root.rglob(pattern))
    }
    for name in ("_core", "_cuda"):
        spec = importlib.util.find_spec(f"bitlaw.{name}")
        if spec and spec.origin:
            found[Path(spec.origin).name] = Path(spec.origin)
    return found


def build_id() -> str:
    """The version and a digest of all installed code that computes a row: "0.1.0+1a2b3c4d5e6f".

    digest = sha256 over (name, sha256 of content) of `files()` and the versions of ARITHMETIC
    """
    digest = hashlib.sha256()
    for name, path in sorted(files().items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    for package in ARITHMETIC:
        digest.update(f"{package} {version(package)}\n".encode())
    return f"{bitlaw.__version__}+{digest.hexdigest()[:12]}"
