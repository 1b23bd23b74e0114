"""Sparse weights on disk, in safetensors, and what they hold.

Three layouts of a masked array, all bit for bit (the kept values as they are, the rest +0):

    bitmask   values [kept], mask u8[ceil(n / 8)], as in `BitMask`
    csr       values [kept], columns i32[kept], rows i64[lines + 1], of the lines of the last axis
    n:m       values [groups, n], and metadata: the place in its group of every kept value, in
              ceil(log2 m) bits (2 for 2:4), packed little-endian; groups of m along an axis, in the
              order of the array with that axis moved last

Arrays without a mask are stored as they are.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bitlaw.sparsity.masks import BitMask

LAYOUTS = ("bitmask", "csr", "n:m")
_FORMAT = "bitlaw.sparse.v1"


def save_sparse(
    path: Path,
    params: Any,
    masks: Any,
    layout: str = "bitmask",
    *,
    nm: tuple[int, int, int] = (2, 4, -2),
) -> None:
    """Writes a tree of arrays as one safetensors file.

    Args:
        params: a tree of arrays; masked weights must be zero already.
        masks: the tree of their masks, None where dense (`masks_of(state)`).
        layout: "bitmask", "csr" or "n:m".
        nm: (n, m, axis) of layout "n:m"; (2, 4, -2) is 2:4 along the contraction axis of [in, out].
    Raises:
        ValueError: an unknown layout, a weight that its mask prunes but is not zero, a mask of
            another shape or that is not n:m.
    """
    from safetensors.numpy import save_file

    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    tensors: dict[str, np.ndarray] = {}
    about: dict[str, dict] = {}
    none = lambda x: x is None or isinstance(x, BitMask)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (place, w), mask in zip(leaves, jax.tree.leaves(masks, is_leaf=none), strict=True):
        name, w = jax.tree_util.keystr(place), np.asarray(w)
        kept = None if mask is None else _checked(name, w, mask)
        kind = "dense" if kept is None else layout
        about[name] = {"layout": kind, "shape": list(w.shape), "dtype": str(w.dtype)}
        about[name] |= {"nm": list(nm)} if kind == "n:m" else {}
        parts = {"values": w} if kept is None else _parts(name, w, kept, layout, nm)
        for part, array in parts.items():
            tensors[f"{name}.{part}"] = np.ascontiguousarray(_storable(array))
    partial = Path(path).with_name(Path(path).name + ".partial")
    save_file(tensors, partial, metadata={"format": _FORMAT, "arrays": json.dumps(about)})
    partial.replace(path)


def load_sparse(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that `save_sparse` wrote, dense, by their paths in the tree.

    Raises:
        ValueError: the file is of another kind.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"path must be a file of bitlaw's sparse arrays, got {path}")
        about = json.loads(metadata["arrays"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
    return {name: _read(name, one, tensors) for name, one in about.items()}


def report(params: Any, state: Any) -> list[dict[str, Any]]:
    """One record per array, in exact integers: path, shape, size, kept (by its mask), nonzero.

    Args:
        state: an optimizer's state with masks; kept is the size where an array has none.
    """
    from bitlaw.sparsity.updates import mask_or_none, masks_of

    masks = jax.tree.leaves(masks_of(state), is_leaf=mask_or_none)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [
        {
            "path": jax.tree_util.keystr(path),
            "shape": tuple(np.shape(w)),
            "size": math.prod(np.shape(w)),
            "kept": math.prod(np.shape(w)) if mask is None else int(mask.count()),
            "nonzero": int(np.count_nonzero(np.asarray(w))),
        }
        for (path, w), mask in zip(leaves, masks, strict=True)
    ]


def _checked(name: str, w: np.ndarray, mask: BitMask) -> np.ndarray:
    """bool mask of w's shape."""
    if mask.shape != w.shape:
        raise ValueError(f"mask of {name} must have the shape {w.shape}, got {mask.shape}")
    kept = np.asarray(mask.to_bool())
    # By bits: -0 is no +0.
    others = np.count_nonzero(w[~kept].view(f"u{w.dtype.itemsize}"))
    if others:
        raise ValueError(f"{name} must be +0 where its mask prunes, got {others} others")
    return kept


def _storable(array: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16: numpy's safetensors do not know it."""
    return array.view(np.uint16) if str(array.dtype) == "bfloat16" else array


def _parts(name: str, w: np.ndarray, kept: np.ndarray, layout: str, nm: tuple) -> dict:
    if layout == "n:m":
        return _nm(name, w, kept, *nm)
    return (_csr if layout == "csr" else _bitmask)(w, kept)


def _bitmask(w: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
    return {"values": w[kept], "mask": np.packbits(kept.ravel(), bitorder="little")}


def _csr(w: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
    lines = kept.reshape(-1, kept.shape[-1])
    rows = np.concatenate([[0], np.cumsum(lines.sum(axis=1))]).astype(np.int64)
    return {"values": w[kept], "columns": np.nonzero(lines)[1].astype(np.int32), "rows": rows}


def _groups(x: np.ndarray, m: int, axis: int) -> np.ndarray:
    """[groups, m]: the groups of m along an axis, in the order of the array with that axis last."""
    return np.moveaxis(x, axis, -1).reshape(-1, m)


def _nm(name: str, w: np.ndarray, kept: np.ndarray, n: int, m: int, axis: int) -> dict:
    if w.shape[axis] % m or (_groups(kept, m, axis).sum(axis=1) != n).any():
        raise ValueError(
            f"mask of {name} must keep {n} of every {m} along axis {axis}, got another"
        )
    groups, values = _groups(kept, m, axis), _groups(w, m, axis)
    index = np.nonzero(groups)[1].astype(np.uint8)
    width = max(1, (m - 1).bit_length())
    bits = (index[:, None] >> np.arange(width, dtype=np.uint8)) & 1
    return {
        "values": values[groups].reshape(-1, n),
        "metadata": np.packbits(bits.ravel(), bitorder="little"),
    }


def _read(name: str, about: dict, tensors: dict[str, np.ndarray]) -> np.ndarray:
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, about["dtype"], about["dtype"]))
    part = lambda key: tensors[f"{name}.{key}"]
    values, shape = part("values").view(dtype), tuple(about["shape"])
    if about["layout"] == "dense":
        return values.reshape(shape)
    dense = np.zeros(shape, dtype)
    if about["layout"] == "bitmask":
        kept = np.unpackbits(part("mask"), count=dense.size, bitorder="little").astype(bool)
        dense.reshape(-1)[kept] = values
    elif about["layout"] == "csr":
        rows = np.repeat(np.arange(len(part("rows")) - 1), np.diff(part("rows")))
        dense.reshape(-1, shape[-1])[rows, part("columns")] = values
    else:
        n, m, axis = about["nm"]
        width = max(1, (m - 1).bit_length())
        bits = np.unpackbits(part("metadata"), count=values.size * width, bitorder="little")
        index = (bits.reshape(-1, n, width) << np.arange(width, dtype=np.uint8)).sum(axis=2)
        groups = np.zeros((len(values), m), dtype)
        np.put_along_axis(groups, index.astype(np.int64), values, axis=1)
        moved = np.moveaxis(dense, axis, -1).shape
        dense = np.ascontiguousarray(np.moveaxis(groups.reshape(moved), -1, axis))
    return dense
