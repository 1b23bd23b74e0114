"""What else quantizes: torch, torchao, qwix and AQT on the work of `bitlaw.fake_quantize`.

Each is optional, and named where it is not installed (`skipped`). A rival takes a 2-D array and
gives it back quantized and dequantized, with the scale taken from the data in the same call. JAX
rivals are jitted and given their input to overwrite; those of torch have no such way.

Where a library has another convention, the spec of ours that means the same is its `twin`:

    torch               none: scale = absmax / qmax, or range / qmax with a zero point
    torchao, qwix       integers have scale = absmax / (qmax + 1/2) and the full range
    qwix                MX scales round up (e8m0_rceil); NVFP4 has no scale of the tensor, so that
                        only its error is compared
    aqtp                none, with preserve_max_val=True
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import warnings
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

import bitlaw
from bitlaw.formats import QuantSpec

MODULES = {"torch": "torch", "torchao": "torchao", "qwix": "qwix", "aqtp": "aqt"}
# Times faster: on blocks, on rows, on tensors. 0: no goal.
GOALS = {"torch": (4, 4, 4), "torchao": (4, 4, 4), "qwix": (4, 1.5, 0), "aqtp": (4, 1.5, 0)}


@dataclasses.dataclass(frozen=True)
class Rival:
    """Another library's way to fake-quantize.

    Attributes:
        function: of a 2-D array of its framework, to one of the same shape and dtype.
        twin: the spec of ours that means the same; None where there is none.
        goal: how many times faster ours is to be; 0 for no goal.
        torch: whether the arrays are torch's rather than JAX's.
    """

    function: Callable
    twin: QuantSpec | None
    goal: float
    torch: bool


@functools.cache
def skipped() -> dict[str, str]:
    """Library -> why it takes no part."""
    found = {}
    for name, module in MODULES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for chatty in ("torch.utils._pytree", "torchao"):  # CUDA extensions not loaded
                    logging.getLogger(chatty).setLevel(logging.CRITICAL)
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            found[name] = "not installed" if error.name == module else f"no module {error.name}"
    return found


@functools.cache
def of(spec: QuantSpec) -> dict[str, Rival]:
    """The rivals there are for a spec, by name."""
    plain = spec.rounding == "nearest" and spec.rule == "absmax" and not spec.hadamard
    if not plain or spec.granularity not in ("tensor", "row", "block"):
        return {}
    makers = {"torch": _torch, "torchao": _torchao, "qwix": _qwix, "aqtp": _aqtp}
    rivals = {}
    for name, make in makers.items():
        if name not in skipped() and (made := make(spec)):
            function, twin = made
            goal = GOALS[name][("block", "row", "tensor").index(spec.granularity)]
            rivals[name] = Rival(function, twin, goal, name.startswith("torch"))
    return rivals


def tensor(x: np.ndarray):
    """x as torch has it, on the same memory."""
    import torch

    if x.dtype == jnp.bfloat16:
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


@functools.cache
def check(spec: QuantSpec) -> None:
    """Every rival of a spec gives its twin's values, within rounding: f32 noise, 64 rows."""
    x = np.random.default_rng(3).normal(size=(64, 1024)).astype(np.float32)
    for name, rival in of(spec).items():
        got = rival.function(tensor(x) if rival.torch else jnp.asarray(x))
        got, what = np.asarray(got), f"{name} on {spec}"
        want = bitlaw.fake_quantize(x, rival.twin or spec)
        if rival.twin is not None:
            half = rival.twin.rule == "absmax_half"
            close(got, want, what, ties=0.5 / (spec.block or x.shape[1]) if half else 0)
        else:
            ours, theirs = (np.square(y - x).mean() for y in (want, got))
            np.testing.assert_allclose(theirs, ours, rtol=0.15, err_msg=what)


def close(got: np.ndarray, want: np.ndarray, what: str, ties: float = 0) -> None:
    """The same but for rounding, and at most 2 in 1000 elements on the next level.

    Those lie on the boundary of two levels to within the rounding of x / scale. `ties` is the share
    of elements that do so by construction: -absmax, where scale = absmax / (qmax + 1/2).
    """
    got, want = (np.asarray(y).astype(np.float32) for y in (got, want))
    off = np.abs(got - want) > 1e-5 * np.abs(want).max()
    if off.mean() > 2e-3 + ties:
        raise AssertionError(f"{what}: {100 * off.mean():.2f} % of the elements differ")


def _integers(spec: QuantSpec) -> bool:
    return spec.row.kind == "uniform" and not spec.row.offset and spec.scaling == "f32"


def _half(spec: QuantSpec) -> QuantSpec:
    return dataclasses.replace(spec, rule="absmax_half", full=True)


def _torch(spec: QuantSpec):
    import torch

    affine = spec.row.kind == "affine"
    if not (_integers(spec) or affine):
        return None
    qmin, qmax = spec.row.qmin, spec.row.qmax

    def numbers(low, high):
        if not affine:
            scale = torch.maximum(-low, high).float() / qmax
            return scale, torch.zeros_like(scale, dtype=torch.int32)
        low, high = low.clamp(max=0).float(), high.clamp(min=0).float()
        scale = (high - low) / qmax
        return scale, (-low / scale).round().int()

    def function(x):
        if spec.granularity == "tensor":
            scale, zero = numbers(*torch.aminmax(x))
            return torch.fake_quantize_per_tensor_affine(x, scale, zero, qmin, qmax)
        groups = x.reshape(-1, spec.block or x.shape[1])
        scale, zero = numbers(*torch.aminmax(groups, dim=1))
        y = torch.fake_quantize_per_channel_affine(groups, scale, zero, 0, qmin, qmax)
        return y.reshape(x.shape)

    return function, spec


def _torchao(spec: QuantSpec):
    import torch
    from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor
    from torchao.quantization import granularity, qat
    from torchao.quantization.qat import fake_quantizer

    shared = {"tensor": granularity.PerTensor(), "row": granularity.PerRow()}
    elements = {
        "mxfp8": torch.float8_e4m3fn,
        "mxfp6": "fp6_e2m3" if spec.row.epsilon == 1 / 8 else "fp6_e3m2",
        "mxfp4": torch.float4_e2m1fn_x2,
    }
    if spec.format in elements and spec.granularity == "block":
        to_mx = functools.partial(mx_tensor.MXTensor.to_mx, elem_dtype=elements[spec.format])
        return lambda x: to_mx(x, block_size=spec.block).dequantize(x.dtype), spec
    if str(spec) == "nvfp4":

        def nvfp4(x):
            outer = nvfp4_tensor.per_tensor_amax_to_scale(x.abs().max())
            packed = nvfp4_tensor.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=outer)
            return packed.dequantize(x.dtype)

        return nvfp4, spec
    if spec.format == "e4m3" and spec.granularity in shared:
        config = qat.Float8FakeQuantizeConfig(torch.float8_e4m3fn, shared[spec.granularity])
        return fake_quantizer.Float8FakeQuantizer(config), spec
    if spec.format in ("int2", "int3", "int4", "int8") and spec.granularity in ("row", "block"):
        rows = spec.granularity == "row"
        group = granularity.PerAxis(0) if rows else granularity.PerGroup(spec.block)
        config = qat.IntxFakeQuantizeConfig(getattr(torch, spec.format), group)
        return fake_quantizer.IntxFakeQuantizer(config), _half(spec)
    return None


def _qwix(spec: QuantSpec):
    import qwix

    types = {f"int{bits}": f"int{bits}" for bits in (2, 3, 5, 6, 7)}
    types |= {name: name for name in ("nf4", "mxfp8", "mxfp4", "nvfp4")}
    types |= {"int4": jnp.int4, "int8": jnp.int8, "e2m1": jnp.float4_e2m1fn}
    types |= {"e4m3": jnp.float8_e4m3fn, "e5m2": jnp.float8_e5m2}
    preset = spec.format in ("mxfp8", "mxfp4", "nvfp4")
    if spec.format not in types or (preset and str(spec) != spec.format):
        return None
    axes = {
        "tensor": {},
        "row": {"channelwise_axes": (0,)},
        "block": {"channelwise_axes": (0,), "tiled_axes": {1: spec.block}},
    }[spec.granularity]
    twin = _half(spec) if _integers(spec) else spec
    if preset:
        rounded_up = spec.format != "nvfp4"
        twin = dataclasses.replace(spec, scaling="e8m0_rceil") if rounded_up else None
    return lambda x: qwix.dequantize(qwix.quantize(x, types[spec.format], **axes)), twin


def _aqtp(spec: QuantSpec):
    from aqt.jax.v2 import aqt_quantizer

    if not (_integers(spec) or (spec.format in ("e4m3", "e5m2") and spec.scaling == "f32")):
        return None
    bits = spec.row.bits if _integers(spec) else spec.format
    axes = {"tensor": (0, 1), "row": (1,), "block": (2,)}[spec.granularity]

    def function(x):
        groups = x.reshape(x.shape[0], -1, spec.block) if spec.block else x
        quantizer = aqt_quantizer.quantizer_make(bits, preserve_max_val=True)
        return aqt_quantizer.make_fake_quant(quantizer, axes)(groups).reshape(x.shape)

    return function, spec
