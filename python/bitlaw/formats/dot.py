"""Products of quantized arrays, for training code that is not ours.

    y  = Q_l(lhs) . Q_r(rhs)                     as lax.dot_general contracts them
    dl = pass_l(Q_g(g) . Q_r(rhs))               pass: the estimator of the operand's spec
    dr = pass_r(Q_l(lhs) . Q_g(g))

What the backward pass keeps is the caller's choice, `residual`:

    "packed"     codes of b bits, scales, and one bit per element for the estimator
    "full"       the quantized arrays in their own dtype, and those bits: the fastest
    "recompute"  the operands as they came, to be quantized again

Whatever their axes are called, operands are quantized as the matrices [..., rows, in] and
[..., in, cols] of the product: for lhs a row is a token and blocks run along the contraction; for
rhs a channel is an output column and blocks run along the contraction too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bitlaw.formats.key import derived_key
from bitlaw.formats.quantizer import Quantizer
from bitlaw.formats.scheme import Scheme, parse_quant
from bitlaw.formats.spec import QuantSpec
from bitlaw.formats.ste import UserQuantizer, UserSpec

RESIDUALS = ("packed", "full", "recompute")
Spec = QuantSpec | UserSpec | str | None


def dot_general(
    lhs,
    rhs,
    dimension_numbers,
    precision=None,
    preferred_element_type=None,
    out_sharding=None,
    *,
    lhs_spec: Spec = None,
    rhs_spec: Spec = None,
    grad_spec: Spec = None,
    residual: str = "packed",
    key=None,
):
    """`jax.lax.dot_general` of the quantized operands, with their straight-through gradients.

        y = bitlaw.dot_general(x, w, dims, lhs_spec="int4/row", rhs_spec="int4/channel")

        y = Q_l(lhs) . Q_r(rhs);   gradients as at the top of this module

    Args:
        lhs, rhs: f32 or bf16 arrays.
        dimension_numbers, precision, preferred_element_type, out_sharding: as lax.dot_general's.
        lhs_spec, rhs_spec: how the operands are quantized; None leaves one alone.
        grad_spec: how the gradient that arrives is quantized, before both products.
        residual: what is kept for the backward pass: "packed", "full" or "recompute".
        key: u32[2] or a jax key; needed where a spec rounds stochastically.

    Raises:
        ValueError: learned or delayed scales, which need a place among parameters or state;
            stochastic rounding without a key; a block that does not divide the contraction.
    """
    if residual not in RESIDUALS:
        raise ValueError(f"residual must be one of {', '.join(RESIDUALS)}, got {residual!r}")
    specs = {
        "lhs_spec": parse_quant(lhs_spec, axis=-1),
        "rhs_spec": parse_quant(rhs_spec, axis=-2),
        "grad_spec": parse_quant(grad_spec, axis=-1, gradient=True),
    }
    for name, spec in specs.items():
        _check_spec(name, spec, key)
    (contract, batch) = dimension_numbers
    dims = tuple(tuple(map(int, axes)) for axes in (*contract, *batch))
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    static = _Product(
        *(spec and spec.structure for spec in specs.values()),
        tuple(spec.row.bits if isinstance(spec, QuantSpec) else 0 for spec in specs.values())[:2],
        (lhs.shape, rhs.shape),
        (str(lhs.dtype), str(rhs.dtype)),
        dims,
        precision,
        preferred_element_type,
        out_sharding,
        residual,
    )
    grids = tuple(None if spec is None else jnp.asarray(spec.grid) for spec in specs.values())
    keys = (None,) * 3 if key is None else tuple(derived_key(key, k) for k in range(3))
    return _product(static, lhs, rhs, grids, keys)


def make_dot_general(scheme: Scheme | str, *, residual: str = "packed", key=None) -> Callable:
    """A `dot_general` for the layers of flax, or for einsum, with a scheme inside.

        nn.Dense(512, dot_general=bitlaw.make_dot_general("w=int4/channel a=int8/row"))
        jnp.einsum("bld,df->blf", x, w, _dot_general=bitlaw.make_dot_general("w=mxfp4"))

    The left operand is quantized as the scheme's a, the right one, the kernel, as its w, and the
    gradient that arrives as its g. einsum hands over its operands in the order in which their axes
    appear in the result.

    Args:
        scheme: a `Scheme` or its string; sparsity is not the product's affair and is refused.
        residual, key: as of `dot_general`.

    Raises:
        ValueError: a scheme that prunes, or whose scales are learned or delayed; no key where
            values are rounded stochastically.
    """
    scheme = Scheme.parse(scheme) if isinstance(scheme, str) else scheme
    if scheme.s is not None:
        raise ValueError(
            f"scheme must not prune in a dot_general, got {scheme}: use bitlaw.sparsity.pruned"
        )
    for name, spec in (("w", scheme.w), ("a", scheme.a), ("g", scheme.g)):
        _check_spec(name, spec, key)
    specs = {"lhs_spec": scheme.a, "rhs_spec": scheme.w, "grad_spec": scheme.g}
    return functools.partial(dot_general, **specs, residual=residual, key=key)


def _check_spec(name: str, spec: QuantSpec | UserSpec | None, key) -> None:
    if not isinstance(spec, QuantSpec):
        return
    if spec.rule in ("learned", "delayed"):
        instead = {
            "learned": "bitlaw.formats.LearnedQuantizer with the scale among your parameters, or "
            "gauss_mse, which needs none",
            "delayed": "bitlaw.formats.DelayedQuantizer with the history in your state, or absmax, "
            "which needs none",
        }
        raise ValueError(
            f"{name} must not have {spec.rule} scales in a dot_general, which has no place to keep "
            f"them, got {spec}: use {instead[spec.rule]}"
        )
    if spec.rounding == "stochastic" and key is None:
        raise ValueError(f"key must be given for stochastic rounding, got None with {spec}")


@dataclasses.dataclass(frozen=True)
class _Product:
    """What is static of a product: hashable, so custom_vjp can hold it."""

    lhs: Any
    rhs: Any
    grad: Any
    bits: tuple[int, int]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    dims: tuple[tuple[int, ...], ...]
    precision: Any
    preferred_element_type: Any
    out_sharding: Any
    residual: str

    def product(self, lhs, rhs):
        contract_l, contract_r, batch_l, batch_r = self.dims
        return jax.lax.dot_general(
            lhs,
            rhs,
            ((contract_l, contract_r), (batch_l, batch_r)),
            self.precision,
            self.preferred_element_type,
            out_sharding=self.out_sharding,
        )

    @property
    def operands(self) -> tuple[_Operand, _Operand]:
        contract_l, contract_r, batch_l, batch_r = self.dims
        free_l = _free(len(self.shapes[0]), contract_l, batch_l)
        free_r = _free(len(self.shapes[1]), contract_r, batch_r)
        return (
            self._operand(0, (batch_l, free_l, contract_l)),
            self._operand(1, (batch_r, contract_r, free_r)),
        )

    def _operand(self, side: int, axes) -> _Operand:
        quantizer = (self.lhs, self.rhs)[side]
        static = (self.bits[side], self.shapes[side], self.dtypes[side])
        return _Operand(quantizer, *static, axes, self.residual)

    def gradient(self, shape: tuple[int, ...]) -> _Operand:
        """The gradient of the product: batch, the free axes of lhs, those of rhs."""
        (batch, rows, _), _ = (operand.axes for operand in self.operands)
        first, second = len(batch), len(batch) + len(rows)
        axes = tuple(range(first)), tuple(range(first, second)), tuple(range(second, len(shape)))
        return _Operand(self.grad, 0, shape, "", axes, self.residual)


def _free(ndim: int, *taken: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis for axis in range(ndim) if axis not in sum(taken, ()))


@dataclasses.dataclass(frozen=True)
class _Operand:
    """One side of a product: as a matrix, quantized, kept and restored.

    Attributes:
        axes: the operand's axes that make the batch, the rows and the columns of its matrix.
    """

    quantizer: Quantizer | UserQuantizer | None
    bits: int
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    residual: str

    def matrix(self, x):
        batch, rows, cols = ([self.shape[k] for k in axes] for axes in self.axes)
        x = jnp.transpose(x, sum(self.axes, ()))
        return x.reshape(*batch, math.prod(rows), math.prod(cols))

    def array(self, matrix):
        order = sum(self.axes, ())
        x = matrix.reshape([self.shape[k] for k in order])
        return jnp.transpose(x, [order.index(k) for k in range(len(order))])

    def value(self, x, grid, key):
        return (
            x if self.quantizer is None else self.array(self.quantizer(self.matrix(x), grid, key))
        )

    def decoded(self, codes):
        rows, cols = (math.prod(self.shape[k] for k in axes) for axes in self.axes[1:])
        batch = tuple(self.shape[k] for k in self.axes[0])
        shape = (*batch, rows, cols)
        return self.array(self.quantizer.decode(codes, self.bits, shape, self.dtype))

    def keep(self, x, grid, key):
        """(the quantized operand, what is kept of it)."""
        if self.quantizer is None:
            return x, x
        if self.residual == "recompute" or isinstance(self.quantizer, UserQuantizer):
            return self.value(x, grid, key), x
        if self.residual == "full":
            y, passed = self.quantizer.marked(self.matrix(x), grid, key)
            return self.array(y), (self.array(y), passed)
        codes, passed = self.quantizer.encode(self.matrix(x), grid, self.bits, key)
        return self.decoded(codes), (codes, passed)

    def restore(self, kept, grid, key):
        """(the quantized operand again, the function from its gradient to that of the operand)."""
        if self.quantizer is None:
            return kept, lambda g: g
        if self.residual == "recompute" or isinstance(self.quantizer, UserQuantizer):
            y, pull = jax.vjp(lambda x: self.value(x, grid, key), kept)
            return y, lambda g: pull(g)[0]
        values, passed = kept
        y = values if self.residual == "full" else self.decoded(values)
        return y, lambda g: self.array(self.quantizer.passed(passed, self.matrix(g)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(static: _Product, lhs, rhs, grids, keys):
    left, right = static.operands
    return static.product(left.value(lhs, grids[0], keys[0]), right.value(rhs, grids[1], keys[1]))


def _product_fwd(static: _Product, lhs, rhs, grids, keys):
    left, right = static.operands
    l_value, l_kept = left.keep(lhs, grids[0], keys[0])
    r_value, r_kept = right.keep(rhs, grids[1], keys[1])
    return static.product(l_value, r_value), (l_kept, r_kept, grids, keys)


def _product_bwd(static: _Product, saved, g):
    l_kept, r_kept, grids, keys = saved
    left, right = static.operands
    l_value, l_pull = left.restore(l_kept, grids[0], keys[0])
    r_value, r_pull = right.restore(r_kept, grids[1], keys[1])
    if static.grad is not None:
        g = static.gradient(g.shape).value(g, grids[2], keys[2])
    _, pull = jax.vjp(static.product, l_value, r_value)
    dl, dr = pull(g)
    return l_pull(dl), r_pull(dr), None, None


_product.defvjp(_product_fwd, _product_bwd)
