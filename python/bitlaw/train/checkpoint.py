"""Trained states on disk: any pytree of arrays, and what it is, restored bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


def save(path: Path, state: Any, meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint folder with orbax, whole or not at all.

    Args:
        path: a folder that does not exist yet.
        state: a pytree of arrays: parameters, or parameters and the optimizer's state.
        meta: what a reader must know: plain JSON values.
    Raises:
        ValueError: the folder exists; meta is no JSON.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    if path.exists():
        raise ValueError(f"checkpoint must be a folder that does not exist yet, got {path}")
    try:
        json.dumps(dict(meta))
    except TypeError as error:
        raise ValueError(f"meta must hold plain JSON values, got {meta}: {error}") from None
    about = {
        "meta": dict(meta),
        "leaves": _leaves(state),
        "structure": _structure(state),
        "sha256": digest(state),
    }
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
        )
        writer.save(path, args=items)


def restore(path: Path, like: Any = None) -> tuple[Any, dict[str, Any]]:
    """(state, meta) of a checkpoint, every array bit for bit as saved.

        params, meta = checkpoint.restore("dense")
        state, _ = checkpoint.restore("pruned", like=State(params, tx.init(params)))

    Args:
        like: a pytree of arrays or shapes with the structure to restore into; without it, dicts and
            lists come back as they were, and any other node as a dict.
    Raises:
        ValueError: there is no checkpoint; a leaf, or what is not an array (the pattern of a mask,
            say), differs from `like`: the first difference is named.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    about = _about(path)
    if like is not None:
        _check(path, about, like)
        like = jax.tree.map(_shape, like)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        return reader.restore(path, args=items)["state"], about["meta"]


def read_meta(path: Path) -> dict[str, Any]:
    """What `save` was told about a checkpoint.

    Raises:
        ValueError: there is no checkpoint.
    """
    return _about(Path(path).absolute())["meta"]


def read_digest(path: Path) -> str:
    """The `digest` of the arrays of a checkpoint.

    Raises:
        ValueError: there is no checkpoint, or one of an early version, without a digest.
    """
    found = _about(Path(path).absolute()).get("sha256")
    if not found:
        raise ValueError(f"checkpoint must hold a digest of its arrays, got {path} without one")
    return found


def digest(state: Any) -> str:
    """sha256, in hex, over the key path, dtype, shape and bytes of every array."""
    found = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(state):
        found.update(f"{jax.tree_util.keystr(path)} {x.dtype}{list(np.shape(x))}".encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def _about(path: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    if not (path / "about").is_dir():
        raise ValueError(f"checkpoint must be a folder that bitlaw saved, got {path}")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        return reader.restore(path, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        np.shape(leaf), leaf.dtype, sharding=getattr(leaf, "sharding", None)
    )


def _leaves(state: Any) -> dict[str, str]:
    """Key path -> dtype and shape, as in f32[2, 3]."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(p): f"{x.dtype}{list(np.shape(x))}" for p, x in leaves}


def _structure(state: Any) -> str:
    """The tree with all that is not an array, such as shapes of masks and their pattern."""
    return str(jax.tree.structure(state))


def _check(path: Path, about: Mapping, like: Any) -> None:
    saved, wanted = about["leaves"], _leaves(like)
    for name in [*saved, *wanted]:
        if saved.get(name) != wanted.get(name):
            expected, got = wanted.get(name, "absent"), saved.get(name, "absent")
            raise ValueError(f"leaf {name} of {path} must be {expected}, got {got}")
    theirs, ours = about["structure"], _structure(like)
    if theirs != ours:
        pairs = zip(theirs, ours, strict=False)
        at = next((i for i, (one, other) in enumerate(pairs) if one != other), 0)
        part = lambda text: text[max(0, at - 30) : at + 30]  # the whole is as long as the tree
        raise ValueError(
            f"structure of {path} must be ...{part(ours)}..., got ...{part(theirs)}..."
        )
