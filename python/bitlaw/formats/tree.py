"""Quantizing the leaves of a pytree, chosen by the pattern of their paths."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bitlaw.formats.fake_quantization import fake_quantize
from bitlaw.formats.key import derived_key
from bitlaw.formats.qarray import QArray, dequantize, quantize
from bitlaw.formats.scheme import parse_quant

Rules = Mapping[str, Any]


def quantize_params(tree, rules: Rules, *, key=None):
    """The tree with the leaves that a rule names on the levels of its spec, to train through.

        params_q = bitlaw.quantize_params(params, {"*/norm/*": None, "*/kernel": "int4/channel"})

    Every leaf has the gradient of `fake_quantize`. Blocks run along the contraction axis of
    [..., in, out] leaves.

    Args:
        tree: a pytree of arrays.
        rules: pattern -> spec, its string, or None to leave leaves alone. A pattern is that of
            `fnmatch`, for the whole path with "/" between its keys; the first that matches counts.
        key: u32[2] or a jax key, for stochastic rounding; every leaf draws its own from it.

    Raises:
        ValueError: a pattern that matches no leaf; what `fake_quantize` refuses, with the path.
    """

    def one(leaf, spec, number):
        own = None if key is None else derived_key(key, number)
        return fake_quantize(leaf, spec, key=own)

    return _mapped(tree, rules, one)


def compress_params(tree, rules: Rules):
    """The tree with a `QArray` for each leaf that a rule names: as `quantize_params`, in codes."""
    return _mapped(tree, rules, lambda leaf, spec, number: quantize(leaf, spec))


def decompress_params(tree):
    """The tree with arrays again where it has `QArray`s."""
    is_code = lambda leaf: isinstance(leaf, QArray)
    return jax.tree.map(lambda x: dequantize(x) if is_code(x) else x, tree, is_leaf=is_code)


def path_name(path) -> str:
    """The keys of a path with "/" between them: blocks/0/qkv."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _mapped(tree, rules: Rules, quantizer: Callable):
    specs = {pattern: parse_quant(spec, axis=-2) for pattern, spec in rules.items()}
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [path_name(path) for path, _ in leaves]
    for pattern in specs:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"rules must match leaves, got {pattern!r}, which matches none of "
                f"{', '.join(names[:8])}{', ...' * (len(names) > 8)}"
            )
    out = []
    for number, (name, (_, leaf)) in enumerate(zip(names, leaves, strict=True)):
        matching = (spec for pattern, spec in specs.items() if fnmatch.fnmatchcase(name, pattern))
        spec = next(matching, None)
        try:
            out.append(leaf if spec is None else quantizer(leaf, spec, number))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return jax.tree_util.tree_unflatten(structure, out)
