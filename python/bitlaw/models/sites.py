"""What the quantizers of a model keep beside its matrices: learned scales, past maxima, keys.

Parameters of a stateful scheme have a branch of their own,

    quantizers    by the path of a matrix, {"w": state, "a": state}, those that the scheme has

and a model sees a `Site` where its matrix was, so that no model knows about states.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bitlaw.formats.padding import padded
from bitlaw.models.layers import Grids, Site, Structure
from bitlaw.models.lm import is_compressed

BRANCH = "quantizers"


def with_sites(params, structure: Structure, key=None):
    """The parameters with a `Site` for every compressed matrix, if the structure needs any.

    Args:
        key: u32[2], the random numbers of a step; every matrix draws its own from it.
    """
    if not (structure.stateful or structure.stochastic):
        return params
    matrices, states = dict(params), params.get(BRANCH, {})
    matrices.pop(BRANCH, None)
    paths = [path for path, leaf in _compressed(matrices)]
    keys = [None] * len(paths)
    if structure.stochastic:
        wrapped = jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
        keys = jax.random.key_data(jax.random.split(wrapped, (len(paths), 3)))
    sites = {path: (states.get(path, {}), keys[i]) for i, path in enumerate(paths)}

    def site(path, leaf):
        name = jax.tree_util.keystr(path)
        return Site(leaf, *sites[name]) if name in sites else leaf

    return jax.tree_util.tree_map_with_path(site, matrices)


def with_states(params, structure: Structure, grids: Grids, loss):
    """The parameters with first states of their quantizers: of w from the matrices, of a from data.

    Args:
        loss: (parameters, structure) -> f32[], on data that the scales of the activations suit.
    """
    if not structure.stateful:
        return params
    states = {path: _first(structure, grids, leaf) for path, leaf in _compressed(params)}
    params = dict(params) | {BRANCH: states}
    if not hasattr(structure.a, "state"):
        return params
    # The "gradient" of an observer's state is the first state of the quantizer that it stands for.
    watched = dataclasses.replace(structure, a=Observer(structure.a))
    observed = jax.grad(lambda states: loss(params | {BRANCH: states}, watched))(states)
    return params | {
        BRANCH: {path: state | {"a": observed[path]["a"]} for path, state in states.items()}
    }


def overwrite(params, gradients, structure: Structure):
    """Parameters whose states of past steps are the new ones, which came as their gradients."""
    return _map_passed(params, structure, lambda path, name: gradients[BRANCH][path][name])


def without_overwritten(gradients, structure: Structure):
    """Gradients with zeros where `overwrite` has its values: no optimizer should see those."""
    zero = lambda path, name: jnp.zeros_like(gradients[BRANCH][path][name])
    return _map_passed(gradients, structure, zero)


def _map_passed(tree, structure: Structure, value):
    names = [name for name, q in structure.quantizers.items() if getattr(q, "overwritten", False)]
    if not names:
        return tree
    branch = {
        path: state | {name: value(path, name) for name in names}
        for path, state in tree[BRANCH].items()
    }
    return dict(tree) | {BRANCH: branch}


def _compressed(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(p), leaf) for p, leaf in leaves if is_compressed(p, leaf)]


def _first(structure: Structure, grids: Grids, matrix) -> dict[str, Any]:
    states = {}
    if hasattr(structure.w, "state"):
        states["w"] = structure.w.state(padded(matrix, structure.w), grids["w"])
    if hasattr(structure.a, "state"):  # of the right shapes; `with_states` sees the data
        states["a"] = structure.a.state(jnp.zeros((1, matrix.shape[0])), grids["a"])
    return states


@dataclasses.dataclass(frozen=True)
class Observer:
    """Stands for a quantizer of activations, lets them pass, and reports its first state."""

    quantizer: Any
    stochastic = False

    @property
    def multiples(self) -> dict[int, int]:
        return {}

    def state(self, x, grid):
        return self.quantizer.state(x, grid)

    def __call__(self, x, grid, *, state, pruned: bool = False, key=None):
        del pruned, key
        return _observe(self.quantizer, x, grid, state)


@jax.custom_vjp
def _passed(x, state, first):
    return x


_passed.defvjp(lambda x, state, first: (x, first), lambda first, g: (g, first, None))


def _observe(quantizer, x, grid, state):
    return _passed(x, state, jax.lax.stop_gradient(quantizer.state(x, grid)))
