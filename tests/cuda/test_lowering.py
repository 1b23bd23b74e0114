"""The CUDA kernels where there is no GPU; tests/ops/test_op.py has their bits on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.ops import OPS
from ops import doors

_cuda = pytest.importorskip("bitlaw._cuda", reason="built without nvcc")


def lowered(name, platform):
    arrays, attributes = doors.cases(name)[0]
    run = jax.jit(lambda *a: OPS[name](*a, **attributes))
    return run.trace(*map(jnp.asarray, arrays)).lower(lowering_platforms=(platform,)).as_text()


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
def test_one_export_serves_cpu_and_cuda(name):
    arrays, attributes = doors.cases(name)[0]
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
