"""Row-sharded quantization stays where it is: the compiled program is read for collectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import bitlaw
from bitlaw.ops import OPS

SPECS = {"int4/row": 0, "quest4/row": 0, "int4/block32": 0, "int4": 1, "quest2": 2}


def mesh():
    return jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))


def sharded(rng, shape=(64, 256)):
    x = rng.normal(size=shape).astype(np.float32)
    return x, jax.device_put(jnp.asarray(x), NamedSharding(mesh(), P("d", None)))


def collectives(text):
    return [
        line
        for line in text.splitlines()
        if any(f" {name}(" in line or f" {name}-start(" in line for name in
               ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    ]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_row_sharded_forward_and_gradient_need_no_all_gather(spec):
    x, xs = sharded(np.random.default_rng(0))
    loss = lambda x: (bitlaw.fake_quantize(x, spec) * x).sum(axis=1)
    both = jax.jit(lambda x: (bitlaw.fake_quantize(x, spec), jax.vjp(loss, x)[1](jnp.ones(64))[0]))
    found = collectives(both.lower(xs).compile().as_text())
    assert not [line for line in found if "all-gather" in line], found
    # A tensor scale is one all-reduce of a scalar per statistic, shared or repeated by forward and
    # backward; rms adds the sum of squares to the maximum.
    assert len(found) <= 2 * SPECS[spec], found
    assert SPECS[spec] == 0 or found
    y, g = both(xs)
    want_y, want_g = both(jnp.asarray(x))
    if SPECS[spec] < 2:
        np.testing.assert_array_equal(y, want_y)
        np.testing.assert_array_equal(g, want_g)
    else:  # the sum over the sharded axis: 2 ulp of the scale
        np.testing.assert_allclose(y, want_y, rtol=3e-7)


def test_a_tensor_scale_is_one_all_reduce():
    _, xs = sharded(np.random.default_rng(1))
    run = jax.jit(lambda x: bitlaw.fake_quantize(x, "int4"))
    found = collectives(run.lower(xs).compile().as_text())
    assert len(found) == 1 and "all-reduce" in found[0], found


def test_under_shard_map_scales_are_local():
    x, xs = sharded(np.random.default_rng(2))
    run = jax.jit(
        jax.shard_map(
            lambda x: bitlaw.fake_quantize(x, "int4"),
            mesh=mesh(),
            in_specs=P("d"),
            out_specs=P("d"),
        )
    )
    want = np.concatenate([bitlaw.fake_quantize(part, "int4") for part in np.split(x, 4)])
    np.testing.assert_array_equal(run(xs), want)
    grad = jax.jit(jax.grad(lambda x: run(x).sum()))
    np.testing.assert_array_equal(grad(xs), np.ones_like(x))


def test_a_nan_survives_the_maximum_over_devices():
    x, _ = sharded(np.random.default_rng(3))
    x[17, 5] = np.nan
    xs = jax.device_put(jnp.asarray(x), NamedSharding(mesh(), P("d", None)))
    assert np.isnan(jax.jit(lambda x: bitlaw.fake_quantize(x, "int4"))(xs)).all()


def test_an_output_varies_over_the_mesh_if_any_operand_does():
    """Else check_vma would take one device's mask for everybody's."""
    keep = jnp.arange(4, dtype=jnp.int32)
    x = jnp.ones((1, 64))
    run = lambda out: jax.shard_map(
        lambda x, keep: OPS["top_k_mask"](x, keep),
        mesh=mesh(),
        in_specs=(P(), P("d")),
        out_specs=out,
    )
    assert run(P("d"))(x, keep).sum(axis=1).tolist() == [0, 1, 3, 7]
    with pytest.raises(ValueError, match="out_specs"):
        run(P())(x, keep)


def test_a_grid_may_vary_over_the_mesh():
    spec = bitlaw.QuantSpec.parse("quest4/row")
    grids = jnp.tile(jnp.asarray(spec.grid), (4, 1))
    loss = lambda x, grid: spec.structure(x, grid[0]).sum()
    run = jax.shard_map(jax.grad(loss), mesh=mesh(), in_specs=(P("d"), P("d")), out_specs=P("d"))
    assert run(jnp.ones((8, 16)), grids).shape == (8, 16)
