"""A compressed tree as one safetensors file: codes packed, specs in the metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitlaw.formats.qarray import QArray
from bitlaw.formats.spec import QuantSpec
from bitlaw.formats.tree import path_name

FORMAT = "bitlaw.qarrays.v1"
_PARTS = ("codes", "scale", "zero", "outer")


def save(tree, path: str | os.PathLike) -> None:
    """Writes a tree of arrays and `QArray`s; the file is there in full or not at all.

        bitlaw.formats.save(bitlaw.formats.compress_params(params, {"*/kernel": "int4/block32"}),
                            "model.safetensors")

    A `QArray` is several tensors, name.codes, name.scale and so on; its spec, shape and dtype are
    JSON in the metadata under its name.

    Raises:
        ValueError: two leaves with one name.
        ModuleNotFoundError: safetensors is missing: pip install 'bitlaw[train]'.
    """
    from safetensors.numpy import save as to_bytes

    tensors, metadata = {}, {"format": FORMAT}
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, QArray))
    for keys, leaf in leaves:
        name = path_name(keys)
        entry: dict[str, Any] = {"path": [_key(key) for key in keys]}
        parts = {"": leaf}
        if isinstance(leaf, QArray):
            parts = {f".{part}": getattr(leaf, part) for part in _PARTS}
            entry |= {"spec": str(leaf.spec), "axis": leaf.spec.axis, "shape": list(leaf.shape)}
            entry |= {"gradient": leaf.spec.gradient, "dtype": leaf.dtype}
        for part, array in parts.items():
            if name + part in tensors:
                raise ValueError(f"tree must have one leaf per name, got two of {name + part!r}")
            tensors[name + part] = np.ascontiguousarray(array)
        metadata[name] = json.dumps(entry)
    partial = Path(path).with_name(Path(path).name + ".partial")
    partial.write_bytes(to_bytes(tensors, metadata))
    os.replace(partial, path)


def load(path: str | os.PathLike):
    """The tree of a file written by `save`, as numpy arrays: dicts and lists, and `QArray`s.

    Raises:
        ValueError: the file is not one of `save`'s, or not whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.pop("format", None) != FORMAT:
                raise ValueError(f"path must be a file written by bitlaw.formats.save, got {path}")
            found = [_leaf(file, name, json.loads(text)) for name, text in metadata.items()]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"path must be a whole safetensors file, got {path}: {error}") from error
    return _nested(found)


def _leaf(file, name: str, entry: dict[str, Any]):
    """(path, array or QArray) of one entry of the metadata."""
    if "spec" not in entry:
        return entry["path"], file.get_tensor(name)
    parts = [file.get_tensor(f"{name}.{part}") for part in _PARTS]
    spec = QuantSpec.parse(entry["spec"], axis=entry["axis"], gradient=entry["gradient"])
    return entry["path"], QArray(*parts, spec, tuple(entry["shape"]), entry["dtype"])


def _key(key) -> str | int:
    """A key of a path: an int of a list or tuple, else a string."""
    if hasattr(key, "idx"):
        return key.idx
    return str(getattr(key, "key", getattr(key, "name", key)))


def _nested(found: list[tuple[list, Any]]):
    """Dicts and lists from the paths of their leaves."""
    if [path for path, _ in found] == [[]]:
        return found[0][1]
    children: dict[str | int, list] = {}
    for (first, *rest), leaf in found:
        children.setdefault(first, []).append((rest, leaf))
    built = {key: _nested(below) for key, below in children.items()}
    if built and all(isinstance(key, int) for key in built):
        return [built[index] for index in sorted(built)]
    return built
