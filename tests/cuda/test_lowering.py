"""The CUDA kernels where there is no GPU; tests/ops/test_op.py has their bits on one."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from bitlaw.ops import OPS
from ops import doors

_cuda = pytest.importorskip("bitlaw._cuda", reason="built without nvcc")


def case(name):
    """A small example that is not empty."""
    return next(c for c in doors.cases(name) if c[0][0].size)


def text_of(run, arrays, platform, **jit):
    traced = jax.jit(run, **jit).trace(*map(jnp.asarray, arrays))
    return traced.lower(lowering_platforms=(platform,)).as_text()


def lowered(name, platform):
    arrays, attributes = case(name)
    return text_of(lambda *a: OPS[name](*a, **attributes), arrays, platform)


def test_every_kernel_belongs_to_an_op_and_takes_the_headers_of_every_supported_jaxlib():
    assert set(_cuda.ops) <= {name for name, it in OPS.items() if not it.host}
    assert _cuda.xla_ffi_api == (0, 1)


@pytest.mark.parametrize("name", _cuda.ops)
def test_lowering_for_cuda_is_the_custom_call(name):
    call = f"stablehlo.custom_call @bitlaw.{name}.v1"
    assert call in lowered(name, "cuda")
    assert call not in lowered(name, "tpu")


@pytest.mark.parametrize("name", [n for n, it in OPS.items() if not it.host])
def test_an_op_without_a_kernel_lowers_to_its_definition(name):
    assert ("custom_call @bitlaw." in lowered(name, "cuda")) == (name in _cuda.ops)


@pytest.mark.parametrize("name", _cuda.ops)
def test_vmap_and_shard_map_lower_to_one_call_for_cuda(name):
    arrays, attributes = case(name)
    call, run = f"custom_call @bitlaw.{name}.v1", functools.partial(OPS[name], **attributes)
    assert text_of(jax.vmap(run), [np.stack([a, a]) for a in arrays], "cuda").count(call) == 1
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    local = jax.shard_map(run, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    items = [np.concatenate([a] * 4) for a in arrays]
    assert text_of(local, items, "cuda").count(call) == 1


@pytest.mark.parametrize("name", [n for n in _cuda.ops if OPS[n].alias])
def test_in_place_aliases_the_same_buffers_for_cuda_as_for_cpu(name):
    arrays, attributes = case(name)
    run = functools.partial(OPS[name], in_place=True, **attributes)

    def aliases(platform):
        text = text_of(run, arrays, platform, donate_argnums=OPS[name].alias[0])
        pairs = re.findall(r"output_tuple_indices = \[(\d*)\],\s*operand_index = (\d+)", text)
        donated = re.findall(r"%arg(\d+): [^%]*?(?:aliasing_output|buffer_donor)", text)
        return [(int(out or 0), int(operand)) for out, operand in pairs], donated

    operand, output = OPS[name].alias
    assert aliases("cuda") == aliases("cpu") == ([(output, operand)], [str(operand)])


@pytest.mark.parametrize("name", _cuda.ops)
def test_one_export_serves_cpu_and_cuda(name):
    arrays, attributes = case(name)
    run = jax.jit(lambda *a: OPS[name](*a, **attributes))
    target = f"bitlaw.{name}.v1"
    check = jax.export.DisabledSafetyCheck.custom_call(target)
    exported = jax.export.export(run, platforms=("cpu", "cuda"), disabled_checks=[check])(
        *map(jnp.asarray, arrays)
    )
    assert target in exported.mlir_module()
    got = exported.call(*map(jnp.asarray, arrays))
    got = got if isinstance(got, tuple | list) else (got,)
    for g, w in zip(got, doors.through_numpy(name, arrays, attributes), strict=True):
        doors.assert_same_bits(np.asarray(g), w, name)
