"""fake_quantize for arrays of any rank: granularities, gradients, bad input, an outside oracle."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bitlaw
from bitlaw.formats import Quantizer, QuantSpec

SPECS = [
    "int4", "int4/channel", "int4/row", "int4/block32", "int4/block16x8", "quest4/row", "quest1",
    "quest2/channel", "int8/row/rms(3)", "int3/block16/absmax_half", "int5/channel/full",
    "quest3/block8/identity", "int2/row/gauss_mse/trust",
]  # fmt: skip


def by_hand(x, spec, groups):
    """The contract's four lines, group by group, in f32."""
    row, out = spec.row, np.empty_like(x)
    for g in groups:
        v = x[g]
        if spec.rule == "absmax":
            scale = np.float32(np.abs(v).max() / np.float32(row.largest))
        else:
            scale = np.float32(np.sqrt(np.mean(v.astype(np.float64) ** 2))) / spec.grid[3]
        inv = np.float32(1) / scale
        code = np.clip(np.rint(v * inv - np.float32(row.offset)), row.qmin, row.qmax)
        out[g] = (code.astype(np.float32) + np.float32(row.offset)) * scale
    return out


def groups_of(granularity, shape, block=0, tile=0):
    rows, cols = shape
    if granularity == "tensor":
        return [np.s_[:, :]]
    if granularity == "row":
        return [np.s_[i, :] for i in range(rows)]
    if granularity == "channel":
        return [np.s_[:, j] for j in range(cols)]
    if granularity == "block":
        return [np.s_[i, j : j + block] for i in range(rows) for j in range(0, cols, block)]
    starts = [(i, j) for i in range(0, rows, block) for j in range(0, cols, tile)]
    return [np.s_[i : i + block, j : j + tile] for i, j in starts]


@pytest.mark.parametrize("door", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("text", SPECS[:7])
def test_granularities_share_scales_as_they_say(text, door):
    spec = QuantSpec.parse(text)
    x = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)
    want = by_hand(x, spec, groups_of(spec.granularity, x.shape, spec.block, spec.tile))
    got = np.asarray(bitlaw.fake_quantize(door(x), text))
    if spec.rule == "absmax":
        np.testing.assert_array_equal(got, want)
    else:  # a sum: 2 ulp of the scale, and then of every value
        np.testing.assert_allclose(got, want, rtol=3e-7)


def test_weights_of_a_scheme_block_along_the_contraction_axis():
    spec = bitlaw.Scheme.parse("w=int4/block16").w
    w = np.random.default_rng(1).normal(size=(32, 24)).astype(np.float32)
    want = bitlaw.fake_quantize(np.ascontiguousarray(w.T), "int4/block16").T
    np.testing.assert_array_equal(bitlaw.fake_quantize(w, spec), want)


@pytest.mark.parametrize("text", SPECS)
def test_numpy_jit_vmap_and_leading_axes_agree(text):
    x = np.random.default_rng(2).normal(size=(3, 32, 64)).astype(np.float32)
    each = np.stack([bitlaw.fake_quantize(a, text) for a in x])
    quantize = lambda a: bitlaw.fake_quantize(a, text)
    mapped = np.asarray(jax.jit(jax.vmap(quantize))(x))
    rtol = 0 if QuantSpec.parse(text).rule.startswith("absmax") else 3e-7  # sums: 2 ulp
    np.testing.assert_allclose(mapped, each, rtol=rtol)
    if QuantSpec.parse(text).granularity != "tensor":
        np.testing.assert_allclose(quantize(jnp.asarray(x)), each, rtol=rtol)


@pytest.mark.parametrize("text", SPECS)
def test_gradient_is_the_named_estimator(text):
    spec = QuantSpec.parse(text)
    x = jnp.asarray(np.random.default_rng(3).normal(size=(32, 64)).astype(np.float32))
    _, pull = jax.vjp(lambda x: bitlaw.fake_quantize(x, spec), x)
    g = jnp.asarray(np.random.default_rng(4).normal(size=x.shape).astype(np.float32))
    (got,) = pull(g)
    passed = np.asarray(got) != 0
    np.testing.assert_array_equal(np.asarray(got)[passed], np.asarray(g)[passed])
    if spec.estimator == "identity" or spec.rule == "absmax":
        assert passed.all()  # absmax clips nothing
        return
    # Half a step beyond the outermost levels, away from the rounding of the edge itself.
    step = np.asarray(_scales(x, spec))
    v = np.asarray(x) / step - spec.row.offset
    low, high = spec.row.qmin - 0.5, spec.row.qmax + 0.5
    clear = (np.abs(v - low) > 1e-3) & (np.abs(v - high) > 1e-3)
    np.testing.assert_array_equal(passed[clear], ((v > low) & (v < high))[clear])
    assert not passed.all()  # something was clipped


def _scales(x, spec):
    """The step of every element, from the distances between levels that came out."""
    one = lambda v: bitlaw.ops.statistic.group_statistic(
        v,
        block=spec.structure.layout(x.shape)[1],
        statistic=spec.structure.statistic,
        pruned=False,
        hadamard=0,
    )[0]
    shape, block = spec.structure.layout(x.shape)
    if spec.granularity == "tensor":
        return jnp.full(x.shape, jnp.sqrt(jnp.mean(x * x)) / spec.grid[3])
    s = one(x.reshape(shape)) / spec.grid[3]
    s = jnp.repeat(s, block, axis=1)
    s = s[:, None, :] if len(shape) == 3 else s
    return jnp.broadcast_to(s, shape).reshape(x.shape)


def test_forward_is_exactly_on_the_grid_under_grad():
    """x + stop_gradient(q - x) gives 10 levels for a clipped int3; this gives at most 7."""
    x = jnp.asarray(np.random.default_rng(5).normal(size=(1, 4096)).astype(np.float32))
    y = jax.jit(lambda x: jax.vjp(lambda x: bitlaw.fake_quantize(x, "int3/row"), x)[0])(x)
    assert len(np.unique(y)) <= 7


def test_what_backward_keeps_is_one_bit_per_element():
    x = jnp.ones((64, 1024))
    _, pull = jax.vjp(lambda x: bitlaw.fake_quantize(x, "quest4/row"), x)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(pull) if hasattr(leaf, "nbytes"))
    assert kept <= x.size / 8 + 64
    _, pull = jax.vjp(lambda x: bitlaw.fake_quantize(x, "int4/row/identity"), x)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pull) if hasattr(leaf, "nbytes")) <= 64


@given(bits=st.integers(2, 8), power=st.integers(-60, 60), seed=st.integers(0, 99))
def test_idempotent_odd_and_equivariant_to_powers_of_two(bits, power, seed):
    x = np.random.default_rng(seed).normal(size=(4, 64)).astype(np.float32)
    q = lambda a: bitlaw.fake_quantize(a, f"int{bits}/row")
    np.testing.assert_array_equal(q(-x), -q(x))
    np.testing.assert_array_equal(q(np.ldexp(x, power)), np.ldexp(q(x), power))
    # The largest value of a row is a level, so the scale comes back, to an ulp of a division.
    np.testing.assert_allclose(q(q(x)), q(x), rtol=3e-7)


def test_one_program_serves_every_width_of_a_structure():
    specs = [QuantSpec.parse(f"int{b}/row") for b in range(2, 9)]
    assert len({s.structure for s in specs}) == 1
    run = jax.jit(lambda x, grid: specs[0].structure(x, grid))
    x = np.random.default_rng(6).normal(size=(8, 32)).astype(np.float32)
    for spec in specs:
        np.testing.assert_array_equal(run(x, spec.grid), bitlaw.fake_quantize(x, spec))
    assert run._cache_size() == 1


def test_pruned_weights_stay_zero_and_take_no_part_in_the_scale():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(16, 256)).astype(np.float32)
    zero = rng.random(x.shape) < 0.75
    x[zero] = 0
    spec = QuantSpec.parse("quest4/row")
    got = spec.structure(x, spec.grid, pruned=True)
    assert (got[zero] == 0).all() and (got[~zero] != 0).all()
    for r in range(16):
        alone = x[r][~zero[r]][None]
        np.testing.assert_allclose(
            got[r][~zero[r]][None], bitlaw.fake_quantize(alone, spec), rtol=3e-7
        )


def test_bfloat16_is_the_float32_result_rounded():
    x = np.random.default_rng(8).normal(size=(16, 64)).astype(ml_dtypes.bfloat16)
    want = bitlaw.fake_quantize(x.astype(np.float32), "int4/row").astype(ml_dtypes.bfloat16)
    got = bitlaw.fake_quantize(x, "int4/row")
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.view(np.uint16), want.view(np.uint16))


@pytest.mark.parametrize("text", ["int4/row", "quest4/block32", "int4/channel", "int4", "quest2"])
def test_a_nan_or_infinity_poisons_its_group_and_only_that(text):
    for bad in (np.nan, np.inf, -np.inf):
        x = np.random.default_rng(9).normal(size=(64, 2048)).astype(np.float32)
        x[5, 40] = bad
        got = bitlaw.fake_quantize(x, text)
        group = np.zeros(x.shape, bool)
        where = {
            "int4/row": np.s_[5],
            "quest4/block32": np.s_[5, 32:64],
            "int4/channel": np.s_[:, 40],
        }
        group[where.get(text, np.s_[:])] = True
        np.testing.assert_array_equal(np.isnan(got), group)
        jitted = jax.jit(lambda x, t=text: bitlaw.fake_quantize(x, t))(x)
        np.testing.assert_array_equal(np.isnan(jitted), group)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (0, 4), (4, 0)])
def test_small_and_empty_arrays_work(shape):
    x = np.ones(shape, np.float32)
    for text in ("int4", "int4/row"):
        np.testing.assert_array_equal(bitlaw.fake_quantize(x, text), x)
        np.testing.assert_array_equal(bitlaw.fake_quantize(jnp.asarray(x), text), x)


def test_non_contiguous_and_read_only_arrays_work():
    x = np.random.default_rng(10).normal(size=(64, 64)).astype(np.float32)
    want = bitlaw.fake_quantize(np.ascontiguousarray(x[::2].T), "int4/row")
    view = x[::2].T
    view.flags.writeable = False
    np.testing.assert_array_equal(bitlaw.fake_quantize(view, "int4/row"), want)


BAD_INPUT = [
    ((2, 40), "float32", "int4/block32", "block must divide axis 1 of x, got 32 and (2, 40)"),
    ((40, 2), "float32", "int4/block32x2", "block must divide axis 0 of x, got 32 and (40, 2)"),
    ((2, 40), "int32", "int4", "x must be float32 or bfloat16, got int32"),
    ((2, 40), "float16", "int4", "x must be float32 or bfloat16, got float16"),
    ((40,), "float32", "int4/channel", "x must have at least 2 axes for channel, got (40,)"),
]


@pytest.mark.parametrize("door", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(("shape", "dtype", "text", "message"), BAD_INPUT)
def test_bad_input_is_refused_by_name(door, shape, dtype, text, message):
    with pytest.raises(ValueError) as error:
        bitlaw.fake_quantize(door(np.ones(shape, dtype)), text)
    assert message in str(error.value)


def test_int4_equals_torch_fake_quantize_per_channel():
    torch = pytest.importorskip("torch", reason="torch is an extra: make test EXTRAS=oracles")
    x = np.random.default_rng(11).normal(size=(64, 512)).astype(np.float32)
    scale = np.abs(x).max(1) / np.float32(7)
    want = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(x), torch.from_numpy(scale), torch.zeros(64, dtype=torch.int32), 0, -7, 7
    )
    np.testing.assert_array_equal(bitlaw.fake_quantize(x, "int4/row"), want.numpy())


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("text", ["quest2", "quest4", "int4", "int8/rms(3)"])
def test_tensor_scales_hold_for_subnormals_also_in_jax(text, pruned):
    spec = QuantSpec.parse(text)
    rng = np.random.default_rng(12)
    tiny = np.full((64, 64), 1e-40, np.float32)
    straddling = np.concatenate([np.full((8, 16), 1e-38), np.full((8, 16), 2e-38)])
    mixed = np.where(rng.random((32, 32)) < 0.5, 1e-40, rng.normal(size=(32, 32)))
    for x in (tiny, straddling.astype(np.float32), mixed.astype(np.float32)):
        quantize = lambda x: spec.structure(x, spec.grid, pruned=pruned)
        want = spec.structure(x, spec.grid, pruned=pruned)
        got = np.asarray(jax.jit(quantize)(x))
        # Sums end 2 ulp apart; of a subnormal an ulp is 2^-149.
        np.testing.assert_allclose(got, want, rtol=3e-7, atol=2.0**-147)
        assert np.isfinite(got).all()


@pytest.mark.parametrize("text", ["quest4/row", "int4/row", "quest2/channel", "int4"])
def test_gradients_of_empty_arrays_and_batches_are_empty(text):
    loss = lambda x: bitlaw.fake_quantize(x, text).sum()
    for shape in [(0, 8), (8, 0), (0, 0)]:
        assert jax.grad(loss)(jnp.zeros(shape)).shape == shape
    assert jax.vmap(jax.grad(loss))(jnp.zeros((0, 4, 8))).shape == (0, 4, 8)


def test_it_runs_where_jit_is_disabled_and_nans_are_hunted():
    x = jnp.ones((4, 8))
    with jax.disable_jit():
        np.testing.assert_array_equal(bitlaw.fake_quantize(x, "int4/row"), x)
        jax.grad(lambda x: bitlaw.fake_quantize(x, "quest4/row").sum())(x)
    with jax.debug_nans(True):
        np.testing.assert_array_equal(bitlaw.fake_quantize(x, "int4/row"), x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"granularity": "foo"}, "granularity must be one of tensor"),
        ({"granularity": "block"}, "block and tile must suit block, got 0 and 0"),
        ({"axis": 1}, "axis must be -1 or -2, got 1"),
    ],
)
def test_bad_quantizers_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Quantizer(**fields)


def test_stochastic_rounding_needs_a_key_and_agrees_through_every_door():
    x = np.random.default_rng(13).normal(size=(3, 16, 64)).astype(np.float32)
    with pytest.raises(ValueError, match="key must be given for stochastic rounding, got None"):
        bitlaw.fake_quantize(x, "mxfp4/stochastic")
    with pytest.raises(ValueError, match=r"key must be u32\[2\] or a threefry key of jax"):
        bitlaw.fake_quantize(x, "mxfp4/stochastic", key=np.zeros(3, np.uint32))
    key = jax.random.key(5)
    for text in ("mxfp4/stochastic", "int4/channel/stochastic", "uint4/stochastic"):
        host = bitlaw.fake_quantize(x, text, key=key)
        rounded = jax.jit(lambda x, k, t=text: bitlaw.fake_quantize(x, t, key=k))
        np.testing.assert_array_equal(rounded(x, jax.random.key_data(key)), host)
        assert (rounded(x, jax.random.key(6)) != host).any()
    each = np.stack([bitlaw.fake_quantize(a, "int4/row/stochastic", key=key) for a in x])
    mapped = jax.vmap(lambda a: bitlaw.fake_quantize(a, "int4/row/stochastic", key=key))(x)
    np.testing.assert_array_equal(mapped, each)  # rows are numbered anew in every example


@pytest.mark.parametrize("text", ["quest3/row/hadamard16", "quest3/channel/hadamard16"])
def test_a_rotated_quantizer_passes_the_rotated_masked_gradient(text):
    """y = H q(H x), dx = H (mask * (H g)), the mask that of the rotated values."""
    columns = text.startswith("quest3/channel")
    x, g = np.random.default_rng(14).normal(size=(2, 32, 48)).astype(np.float32)
    one = np.array([[1.0]])
    for _ in range(4):
        one = np.block([[one, one], [one, -one]])
    turn = lambda a: (a.reshape(-1, 16) @ (one / 4)).reshape(a.shape)
    across = lambda a: a.T if columns else a
    rotated = turn(np.ascontiguousarray(across(x))).astype(np.float32)
    inner, pull = jax.vjp(lambda r: bitlaw.fake_quantize(r, "quest3/row"), jnp.asarray(rotated))
    passed = pull(jnp.asarray(turn(np.ascontiguousarray(across(g))), jnp.float32))[0]
    y, pull = jax.vjp(lambda x: bitlaw.fake_quantize(x, text), jnp.asarray(x))
    np.testing.assert_allclose(y, across(turn(np.asarray(inner))), atol=2e-5)
    np.testing.assert_allclose(pull(jnp.asarray(g))[0], across(turn(np.asarray(passed))), atol=2e-5)
