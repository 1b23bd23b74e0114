"""How a sparsity is distributed over the leaves of a tree."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping

# path -> shape of every leaf that is pruned
Shapes = Mapping[str, tuple[int, ...]]
Distribution = str | Mapping[str, float | str] | Callable[[str, tuple[int, ...]], float]


def distribute(sparsity: float, shapes: Shapes, distribution: Distribution) -> dict[str, float]:
    """The sparsity of every leaf, by path.

    Args:
        sparsity: in [0, 1).
        distribution: "uniform"; "erk" (`erdos_renyi_kernel`); a mapping of path patterns, as of
            fnmatch, to a sparsity or "auto", 1 - sqrt(1 - sparsity), which suits embedding and head
            (arXiv:2309.08520), and uniform where none matches; or a function (path, shape) ->
            sparsity.
    Raises:
        ValueError: an unknown name, or a sparsity outside [0, 1), with its path.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
    if callable(distribution):
        levels = {path: distribution(path, shape) for path, shape in shapes.items()}
    elif isinstance(distribution, Mapping):
        levels = {path: _matched(path, sparsity, distribution) for path in shapes}
    elif distribution == "erk":
        levels = erdos_renyi_kernel(sparsity, shapes)
    elif distribution == "uniform":
        levels = dict.fromkeys(shapes, sparsity)
    else:
        raise ValueError(
            f"distribution must be 'uniform', 'erk', a mapping or a function, got {distribution!r}"
        )
    for path, level in levels.items():
        if not 0 <= level < 1:
            raise ValueError(f"sparsity of {path} must be in [0, 1), got {level}")
    return levels


def auto(sparsity: float) -> float:
    """1 - sqrt(1 - sparsity): the milder sparsity of embedding and head (arXiv:2309.08520)."""
    return 1 - math.sqrt(1 - sparsity)


def _matched(path: str, sparsity: float, levels: Mapping[str, float | str]) -> float:
    for pattern, level in levels.items():
        if fnmatch.fnmatchcase(path, pattern):
            return auto(sparsity) if level == "auto" else float(level)
    return sparsity


def erdos_renyi_kernel(sparsity: float, shapes: Shapes) -> dict[str, float]:
    """Densities in proportion to sum(shape) / prod(shape), with the given sparsity over all.

        1 - s_l = min(1, eps * sum(shape_l) / prod(shape_l))

    Leaves that would exceed 1 are dense, and eps is solved for the others (RigL, arXiv:1911.11134,
    section 3; ERK).
    """
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    raw = {path: sum(shape) / max(1, sizes[path]) for path, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        sparse = [path for path in shapes if path not in dense]
        left = (1 - sparsity) * sum(sizes.values()) - sum(sizes[path] for path in dense)
        weight = sum(raw[path] * sizes[path] for path in sparse)
        eps = left / weight if weight else 0.0
        beyond = {path for path in sparse if eps * raw[path] > 1}
        if not beyond:
            return {path: 0.0 if path in dense else 1 - eps * raw[path] for path in shapes}
        dense |= beyond
