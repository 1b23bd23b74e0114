"""Gradients of learned scales: torch, finite differences of the surrogates, the forward's range."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.ops import OPS
from bitlaw.ops.bits import unpack_flags

SIGNED, UNSIGNED = (-7, 7, 0, 7, 1), (0, 15, 0, 15, 1)
learned = OPS["learned_gradient"]


def arrays(seed, rows, cols, grid, scale=0.3):
    rng = np.random.default_rng(seed)
    g, x = rng.normal(size=(2, rows, cols)).astype(np.float32)
    grids = np.tile(np.float32(grid), (rows, 1))
    return g, 2 * x, np.full((rows, 1), scale, np.float32), np.zeros((rows, 0), np.float32), grids


def gradient(g, x, scale, zero, grid, estimator="lsq", pruned=False):
    block = x.shape[-1] // scale.shape[1]
    return learned(g, x, scale, zero, grid, block=block, estimator=estimator, pruned=pruned)


def close(got, want):
    """Sums of 4096 and more f32 terms of torch, itself in f32: 1e-5 of the sum of magnitudes."""
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("zero", [0, 3])
def test_lsq_equals_torch_fake_quantize_learnable_per_tensor_affine(zero):
    torch = pytest.importorskip("torch")
    g, x, scale, _, grids = arrays(0, 8, 512, UNSIGNED if zero else SIGNED)
    leaves = [torch.tensor(v, requires_grad=True) for v in (x, [0.3], [float(zero)])]
    qmin, qmax = map(int, grids[0, :2])
    y = torch._fake_quantize_learnable_per_tensor_affine(*leaves, qmin, qmax, 1.0)
    y.backward(torch.tensor(g))
    dx, sums = gradient(g, x, scale, np.full_like(scale, zero), grids, "lsq_plus")
    np.testing.assert_array_equal(dx, leaves[0].grad.numpy())
    close(sums[:, 0].sum(), leaves[1].grad.numpy()[0])
    close(sums[:, 1].sum(), leaves[2].grad.numpy()[0])


def lsq_surrogate(x, scale, zero, grid, at):
    """The map with the rounding errors of `at` held, in f64; codes at an end are inside."""
    low, high = grid[0] - at[1], grid[1] - at[1]
    inside = (low <= np.rint(at[0])) & (np.rint(at[0]) <= high)
    ends = np.clip(np.rint(at[0]), low, high) - (zero - at[1])
    return np.where(inside, x / scale + np.rint(at[0]) - at[0], ends) * scale


def pact_surrogate(x, scale, zero, grid, at):
    del at
    return np.clip(x, (grid[0] - zero) * scale, (grid[1] - zero) * scale)


@pytest.mark.parametrize("grid", [SIGNED, UNSIGNED])
@pytest.mark.parametrize("estimator", ["lsq", "lsq_plus", "pact"])
def test_gradients_equal_finite_differences_of_the_stated_surrogate(estimator, grid):
    g, x, scale, zero, grids = arrays(1, 6, 100, grid)
    zero = np.full_like(scale, 2) if estimator == "lsq_plus" else zero
    dx, sums = gradient(g, x, scale, zero, grids, estimator)
    z = 2.0 if estimator == "lsq_plus" else 0.0
    v = x.astype(np.float64) / 0.3
    surrogate = pact_surrogate if estimator == "pact" else lsq_surrogate
    y = functools.partial(surrogate, grid=grid, at=(v, z))
    x64, h = x.astype(np.float64), 1e-6
    d_x = (y(x64 + h, 0.3, z) - y(x64 - h, 0.3, z)) / (2 * h)
    d_scale = (y(x64, 0.3 + h, z) - y(x64, 0.3 - h, z)) / (2 * h)
    # No element of this draw lies within h of an end of its range; f32 rounding is 1e-6 a term.
    np.testing.assert_allclose(dx, g * d_x, atol=1e-6)
    np.testing.assert_allclose(sums[:, 0, 0], (g * d_scale).sum(1), rtol=1e-4, atol=1e-3)
    if estimator == "lsq_plus":
        d_zero = (y(x64, 0.3, z + h) - y(x64, 0.3, z - h)) / (2 * h)
        np.testing.assert_allclose(sums[:, 1, 0], (g * d_zero).sum(1), rtol=1e-4, atol=1e-3)


def test_alpha_of_pact_gets_the_sum_of_g_where_x_reaches_it():
    g, x, scale, zero, grids = arrays(2, 5, 300, UNSIGNED)
    x[0, :3] = np.float32(0.3) * np.float32(15)  # alpha itself counts as clipped
    dx, sums = gradient(g, x, scale, zero, grids, "pact")
    alpha = np.float32(15) * scale
    np.testing.assert_allclose(
        sums[:, 0, 0] / 15, np.where(x >= alpha, g, 0).astype(np.float64).sum(1), rtol=1e-6
    )
    np.testing.assert_array_equal(dx, np.where((x >= 0) & (x < alpha), g, 0))


def test_the_range_is_that_of_the_forward_map():
    """dx is not zero exactly where fake_quantize_scaled with clip_rounded sets the mask."""
    g, x, scale, zero, grids = arrays(3, 64, 256, SIGNED)
    x.ravel()[:4] = 7.5 * np.float32(0.3), -7.5 * np.float32(0.3), np.nan, np.inf
    dx, _ = gradient(np.abs(g) + 1, x, scale, zero, grids)
    forward = OPS["fake_quantize_scaled"]
    attributes = {"kind": "uniform", "scaling": "f32", "rounding": "nearest", "hadamard": 0}
    attributes |= {"block": 256, "estimator": "clip_rounded", "pruned": False}
    noise = np.zeros((64, 0), np.uint32)
    _, mask = forward(x, scale, zero, grids, noise, **attributes)
    np.testing.assert_array_equal(dx != 0, unpack_flags(mask, 256))


def test_sums_of_a_tensor_are_the_sums_over_its_rows():
    """Also with rows on different devices: per-row sums, then XLA's own sum."""
    g, x, scale, zero, grids = arrays(4, 8, 4096, SIGNED)
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))

    @jax.jit
    def total(*arrays):
        dx, sums = gradient(*arrays)
        return dx, sums.sum(0)

    dx, got = total(*(jax.device_put(jnp.asarray(a), rows) for a in (g, x, scale, zero, grids)))
    want = gradient(*(a.reshape(1, -1) for a in (g, x)), scale[:1], zero[:1], grids[:1])
    np.testing.assert_array_equal(dx, want[0].reshape(dx.shape))
    # Eight f32 sums of f64 sums, against one f64 sum.
    np.testing.assert_allclose(got, want[1][0], rtol=1e-5)


def test_the_sum_is_as_good_as_double_precision():
    """Terms of 2^22 elements; the error is the last rounding to f32 alone."""
    g, x, scale, zero, grids = arrays(5, 1, 1 << 20, SIGNED)
    g = np.abs(g)  # no cancellation: an error relative to the sum
    x = np.abs(x) + 3
    _, sums = gradient(g, x, scale, zero, grids)
    want = 7 * g.astype(np.float64).sum()
    assert np.count_nonzero(gradient(g, x, scale, zero, grids)[0]) == 0
    np.testing.assert_allclose(sums[0, 0, 0], want, rtol=2**-23)


def test_pruned_zeros_take_no_part():
    g, x, scale, zero, grids = arrays(6, 4, 64, (-2, 1, 0.5, 1, 1))
    x[:, ::3] = 0
    there = np.delete(np.arange(64), np.arange(0, 64, 3))
    dx, sums = gradient(g, x, scale, zero, grids, pruned=True)
    kept = gradient(g[:, there], x[:, there], scale, zero, grids)
    np.testing.assert_allclose(sums, kept[1], rtol=1e-6)
    np.testing.assert_array_equal(dx, gradient(g, x, scale, zero, grids)[0])


def test_bad_arguments_are_refused_by_name():
    g, x, scale, zero, grids = arrays(7, 2, 8, SIGNED)
    with pytest.raises(ValueError, match=r"g must be like x, float32\[2, 8\], got float32\[2, 4\]"):
        gradient(g[:, :4], x, scale, zero, grids)
    with pytest.raises(ValueError, match="estimator must be one of lsq, lsq_plus, pact, got 'ste'"):
        gradient(g, x, scale, zero, grids, "ste")
    with pytest.raises(ValueError, match=r"zero must be f32\[2, 0\] or f32\[2, 1\], got float32"):
        gradient(g, x, scale, np.zeros((2, 3), np.float32), grids)
    with pytest.raises(ValueError, match=r"grid must be f32\[2, 3\], got float32\[2, 2\]"):
        gradient(g, x, scale, zero, grids[:, :2])
