"""One declaration per op: its definition, its shapes, its examples.

The decorated function IS the op: its docstring the formula, its body, run by numpy, the meaning.
From it come four doors that agree: the compiled numpy function, the custom call in jitted JAX code
on CPU, the same on CUDA where built, and the definition compiled by XLA everywhere else.

Every array of an op has a leading item axis. It is what `vmap` folds into and what sharding splits:
an op never communicates, and never mixes items. All other axes are gathered before the call.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxlib.mlir import ir

from bitlaw import _core

try:
    from bitlaw import _cuda
except ImportError:  # built without nvcc
    _cuda = None

OPS: dict[str, Op] = {}

# The version is part of an exported program's contract: a changed meaning is a new target.
TARGET = "bitlaw.{}.v1"

Shape = jax.ShapeDtypeStruct
_BFLOAT16 = np.dtype(jnp.bfloat16)
_LARGE = 1 << 20  # bytes
_READ = {"int": operator.index, "float": float, "bool": bool, "str": str}


def isa() -> str:
    """The kernels' instruction set: base, avx2, avx512, avx512bf16 (`BITLAW_ISA` asks for less)."""
    return _core.isa()


def threads() -> int:
    """The threads that serve numpy calls (`BITLAW_THREADS`, else the affinity mask)."""
    return _core.threads()


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """A compiled op.

    Attributes:
        name: the stem used in Python, C++, the XLA target, tests and benches.
        definition: array-API code; under numpy it is the meaning of the op.
        out: (*shapes, **attributes) -> tuple of output shapes; raises ValueError on bad input.
        examples: rng -> (arrays, attributes) pairs; they feed the tests and the benches.
        host: a plan made by numpy on the host; no JAX door. An operand may be a list of arrays.
        given: for ops with a floating-point sum, whose order numpy does not share: (*arrays,
            **attributes) -> None where there is no sum, else the position of the output that may be
            2 ulp from numpy's, and the definition of all outputs given that one.
        alias: (input, output) that may share memory when the call says `in_place=True`.
        attributes: types of attributes that several ops have, by name, which the definition takes
            as `**attributes` besides those it lists.
    """

    name: str
    definition: Callable
    out: Callable[..., tuple[Shape, ...]]
    examples: Callable[[np.random.Generator], Iterable[tuple[tuple, dict]]]
    host: bool = False
    given: Callable[..., tuple[int, Callable] | None] = lambda *arrays, **attributes: None
    alias: tuple[int, int] | None = None
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, *arrays: Any, **attributes: Any):
        """Outputs of the op, for numpy arrays compiled numpy, for JAX arrays the primitive."""
        attributes, in_place = self._read(attributes)
        if not self.host and any(isinstance(a, jax.Array) for a in arrays):
            self.out(*arrays, **attributes)  # errors now, in Python, rather than at lowering
            # Masks, scales and the straight-through rule have no derivative of their own.
            arrays = _vary_alike([jax.lax.stop_gradient(jnp.asarray(a)) for a in arrays])
            outs = self.primitive.bind(*arrays, in_place=in_place, **attributes)
        else:
            outs = self.numpy(*arrays, in_place=in_place, **attributes)
        return outs[0] if len(outs) == 1 else tuple(outs)

    def numpy(self, *arrays, in_place: bool = False, **attributes):
        """The compiled function on numpy arrays; `in_place` overwrites the aliased input."""
        arrays = [a if isinstance(a, list) else np.ascontiguousarray(a) for a in arrays]
        if in_place and self.alias and not arrays[self.alias[0]].flags.writeable:
            raise ValueError(f"{self.name} in place must be given a writable array, got read-only")
        empty = _empty if self.host else lambda o: np.empty(o.shape, o.dtype)
        outs = [*map(empty, self.out(*arrays, **attributes))]
        if in_place and self.alias:
            outs[self.alias[1]] = arrays[self.alias[0]]
        _core.ops[self.name][1]([*map(_as_bits, arrays)], [*map(_as_bits, outs)], attributes)
        return outs

    @functools.cached_property
    def attribute_types(self) -> dict[str, Callable]:
        parameters = inspect.signature(self.definition).parameters.values()
        own = {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
        return {name: _READ[kind] for name, kind in {**self.attributes, **own}.items()}

    def _read(self, attributes: dict) -> tuple[dict, bool]:
        """Attributes as plain Python values (an np.int32 would poison XLA's attribute cache)."""
        in_place = bool(attributes.pop("in_place", False))
        unknown = attributes.keys() ^ self.attribute_types.keys()
        if unknown:
            raise ValueError(
                f"{self.name} takes attributes {sorted(self.attribute_types)}, "
                f"got {sorted(attributes)}"
            )
        return {k: self._read_one(k, attributes[k]) for k in self.attribute_types}, in_place

    def _read_one(self, name: str, value: Any):
        try:
            return self.attribute_types[name](value)
        except (TypeError, ValueError):
            wanted = inspect.signature(self.definition).parameters[name].annotation
            raise ValueError(f"{name} must be of type {wanted}, got {value!r}") from None

    @functools.cached_property
    def primitive(self) -> Primitive:
        target = TARGET.format(self.name)
        handler = _core.ops[self.name][0]
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
        jax.ffi.register_ffi_target_as_batch_partitionable(target)

        prim = Primitive(f"bitlaw_{self.name}")
        prim.multiple_results = True
        prim.def_impl(functools.partial(_run, prim))
        prim.def_abstract_eval(self._abstract)
        batching.primitive_batchers[prim] = functools.partial(_batch, prim)

        def definition(*arrays, in_place, **attributes):
            del in_place
            outs = self.definition(*arrays, **attributes)
            return outs if isinstance(outs, tuple) else (outs,)

        mlir.register_lowering(prim, mlir.lower_fun(definition, multiple_results=True))
        mlir.register_lowering(prim, functools.partial(_lower, self, target), platform="cpu")
        if _cuda and self.name in _cuda.ops:
            # Harmless without a GPU, and lowers for one from any machine.
            handler, workspace = _cuda.ops[self.name]
            jax.ffi.register_ffi_target(target, handler, platform="CUDA")
            lower = functools.partial(_lower, self, target, workspace=workspace)
            mlir.register_lowering(prim, lower, platform="cuda")
        return prim

    def _abstract(self, *avals, in_place, **attributes):
        del in_place
        # From an input's aval, so that the mesh and manual axes of shard_map are kept.
        return [
            avals[0].update(shape=o.shape, dtype=o.dtype, weak_type=False)
            for o in self.out(*avals, **attributes)
        ]


def op(**declaration: Any) -> Callable[[Callable], Op]:
    """A decorator that declares the function, which is the op's definition, as an op."""

    def register(definition: Callable) -> Op:
        it = Op(definition.__name__, definition, **declaration)
        object.__setattr__(it, "__doc__", definition.__doc__)
        OPS[it.name] = it
        if not it.host:
            _ = it.primitive  # now, at import: threads that trace later share one
        return it

    return register


def _empty(shape: Shape) -> np.ndarray:
    """np.empty, if large in memory that an array had before: the kernel need not clear it."""
    size = math.prod(shape.shape) * shape.dtype.itemsize
    if size < _LARGE:
        return np.empty(shape.shape, shape.dtype)
    return np.ndarray(shape.shape, shape.dtype, _core.memory(size))


def _as_bits(array):
    """bfloat16 as uint16 and float16 as int16, which the binding knows; a list as it is."""
    if isinstance(array, list):
        return array
    if array.dtype == np.float16:
        return array.view(np.int16)
    return array.view(np.uint16) if array.dtype == _BFLOAT16 else array


def _vary_alike(arrays: list[jax.Array]) -> list[jax.Array]:
    """Under shard_map, every operand varying over the mesh axes that any of them varies over.

    Else the outputs, typed by the first operand, might pass for replicated where they are not.
    """

    def varying(array) -> frozenset:
        kind = jax.typeof(array)
        return getattr(getattr(kind, "manual_axis_type", kind), "varying", None) or getattr(
            kind, "vma", frozenset()
        )

    axes = frozenset().union(*map(varying, arrays))
    missing = [tuple(axes - varying(a)) for a in arrays]
    return [
        jax.lax.pcast(a, m, to="varying") if m else a for a, m in zip(arrays, missing, strict=True)
    ]


def _run(prim: Primitive, *arrays, **params):
    """Outside jit an op is a program of its own; also where jit is disabled for debugging."""
    with jax.disable_jit(False), jax.debug_nans(False):
        return _compiled(prim, tuple(params.items()))(*arrays)


@functools.lru_cache(maxsize=4096)
def _compiled(prim: Primitive, params: tuple) -> Callable:
    return jax.jit(lambda *arrays: prim.bind(*arrays, **dict(params)))


def _batch(prim: Primitive, arrays, axes, **params):
    """vmap: the batch axis goes into the item axis, so a batch is one call of more items."""
    size = next(a.shape[d] for a, d in zip(arrays, axes, strict=True) if d is not None)

    def items(array, axis):
        if axis is None:
            array = jnp.broadcast_to(array, (size, *array.shape))
        else:
            array = jnp.moveaxis(array, axis, 0)
        return array.reshape(size * array.shape[1], *array.shape[2:])

    each = arrays[0].shape[0 if axes[0] is None else int(axes[0] == 0)]  # items of one example
    outs = prim.bind(*(items(a, d) for a, d in zip(arrays, axes, strict=True)), **params)
    outs = [o.reshape(size, each, *o.shape[1:]) for o in outs]
    return outs, [0] * len(outs)


def _lower(it: Op, target: str, ctx, *operands, in_place, workspace=None, **attributes):
    outs = list(ctx.avals_out)
    if workspace:  # one more output, which nobody reads
        first = ctx.avals_in[0]
        size = workspace([list(a.shape) for a in ctx.avals_in], attributes)
        outs.append(first.update(shape=(first.shape[0], size), dtype=np.dtype(np.uint8)))
    rule = _sharding_rule([a.shape for a in ctx.avals_in], [a.shape for a in outs])
    lower = jax.ffi.ffi_lowering(
        target,
        operand_output_aliases=dict([it.alias]) if in_place and it.alias else None,
        extra_attributes={
            "mhlo.frontend_attributes": ir.DictAttr.get({"num_batch_dims": ir.StringAttr.get("1")}),
            "sdy.sharding_rule": ir.Attribute.parse(rule),
        },
    )
    results = lower(ctx.replace(avals_out=outs), *operands, **attributes)
    return results[: len(ctx.avals_out)]


def _sharding_rule(inputs: list[tuple], outputs: list[tuple]) -> str:
    """Shardy's rule: factor i, the item axis, is shared by all arrays; no other axis may split."""
    letters, sizes = [], []

    def factor(size: int) -> str:
        k = len(sizes)
        sizes.append(size)
        letters.append(chr(ord("i") + k) if k < 18 else f"z_{k - 17}")
        return letters[-1]

    item = factor(inputs[0][0])
    sides = [
        ", ".join(f"[{', '.join([item, *map(factor, shape[1:])])}]" for shape in shapes)
        for shapes in (inputs, outputs)
    ]
    sized = ", ".join(f"{letter}={n}" for letter, n in zip(letters, sizes, strict=True))
    rest = ",".join(letters[1:])
    replicated = f" need_replication={{{rest}}}" if rest else ""
    return f"#sdy.op_sharding_rule<({sides[0]})->({sides[1]}) {{{sized}}}{replicated}>"
