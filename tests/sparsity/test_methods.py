"""The methods beside gradual pruning: exact counts at every step, and what each promises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from bitlaw import sparsity
from bitlaw.sparsity import ACDC, NM, Block, Constant, Cubic, Exchange, Listed, OneShot

OPTIMIZERS = {
    "adamw": optax.adamw(1e-2),
    "lion": optax.lion(1e-3),
    "adafactor": optax.adafactor(1e-2),
    "muon": optax.contrib.muon(1e-2),
    "multi_steps": optax.MultiSteps(optax.adamw(1e-2), 2),
}
METHODS = {
    "rigl": lambda tx: sparsity.rigl(tx, 0.75, Exchange(1, 12, every=3)),
    "set": lambda tx: sparsity.set_(tx, 0.75, Exchange(1, 12, every=3)),
    "ste": lambda tx: sparsity.ste(tx, Constant(0.75, 0, 1)),
    "sr_ste": lambda tx: sparsity.sr_ste(tx, OneShot(0.75, 0), pattern=NM(1, 4)),
    "s_ste": lambda tx: sparsity.s_ste(tx, 1, 4),
    "static": lambda tx: sparsity.static(tx, 0.75, scores="random"),
    "global": lambda tx: sparsity.pruned(tx, OneShot(0.75, 1), scope="global"),
    "block": lambda tx: sparsity.pruned(tx, Cubic(0.75, 0, 1), pattern=Block(4, 4)),
    "n:m": lambda tx: sparsity.pruned(tx, Cubic(0.75, 0, 1), pattern=NM(1, 4)),
    "masked": lambda tx: sparsity.pruned(tx, Cubic(0.75, 0, 1), moments="mask", grads="masked"),
}


def params(seed=0):
    rng = np.random.default_rng(seed)
    make = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(np.float32))
    return {"a": make(24, 16), "b": {"w": make(16, 40), "bias": make(40)}}


def gradients(p, k):
    return jax.tree.map(lambda x: jnp.sin(3 * x + k) + 0.1, p)


def stepper(tx):
    @jax.jit
    def step(p, state, k):
        updates, state = tx.update(gradients(p, k), state, p)
        return optax.apply_updates(p, updates), state

    return step


def nonzero(p):
    return int((p["a"] != 0).sum()), int((p["b"]["w"] != 0).sum())


# In a loop, over a batch and on a mesh: every method and every optimizer.
TOGETHER = [
    ("masked", "adamw"), ("rigl", "muon"), ("set", "lion"), ("ste", "adafactor"),
    ("sr_ste", "multi_steps"), ("s_ste", "lion"), ("static", "muon"), ("global", "adamw"),
]  # fmt: skip
# Step by step: each method with one optimizer, each engine with every one.
ENGINES = ("rigl", "ste", "s_ste", "global")
CASES = [(method, "adamw") for method in METHODS]
CASES += [(method, name) for method in ENGINES for name in OPTIMIZERS if name != "adamw"]
CASES = [case for case in CASES if case not in TOGETHER]


@pytest.mark.parametrize(("method", "optimizer"), CASES)
def test_counts_are_exact_at_every_step_with_any_optimizer(method, optimizer):
    tx = METHODS[method](OPTIMIZERS[optimizer])
    p = params()
    state, step = tx.init(p), stepper(tx)
    for k in range(1, 9):
        p, state = step(p, state, k)
        if method == "global":
            assert sum(nonzero(p)) == (384 + 640) // 4
        else:
            assert int(sparsity.masks_of(state)["a"].count()) == 96, (method, k)
            assert nonzero(p) == (96, 160) or method in ("rigl", "set")  # grown ones are zero
            assert nonzero(p)[0] <= 96 and nonzero(p)[1] <= 160
        assert (p["b"]["bias"] != 0).all()


@pytest.mark.parametrize(("method", "optimizer"), TOGETHER)
def test_under_scan_vmap_and_sharding_the_methods_are_those_of_each_alone(method, optimizer):
    tx = METHODS[method](OPTIMIZERS[optimizer])

    def run(p):
        def body(carry, k):
            p, state = carry
            updates, state = tx.update(gradients(p, k), state, p)
            return (optax.apply_updates(p, updates), state), None

        p, state = jax.lax.scan(body, (p, tx.init(p)), jnp.arange(1, 7))[0]
        return p, sparsity.masks_of(state)

    alone = params(0), params(1)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    place = lambda *x: jax.device_put(jnp.stack(x), NamedSharding(mesh, P(None, "d")))
    both, masks = jax.jit(jax.vmap(run))(jax.tree.map(place, *alone))
    one = jax.jit(run)
    for i, p in enumerate(alone):
        got = jax.tree.map(lambda x, i=i: x[i], (both, masks))
        kept = [int(m.count()) for m in (got[1]["a"], got[1]["b"]["w"])]
        assert kept == [96, 160] or (method == "global" and sum(kept) == 256)
        assert nonzero(got[0])[0] <= kept[0] and nonzero(got[0])[1] <= kept[1]
        if optimizer not in ("muon", "adafactor"):  # whose sums XLA orders by the mesh
            (ours, theirs), (own, their) = zip(got, one(p), strict=True)
            for x, y in zip(*map(jax.tree.leaves, (own, their)), strict=True):
                np.testing.assert_array_equal(x, y)
            for x, y in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5)  # a fused multiply-add, or not


def test_rigl_drops_the_smallest_and_grows_the_largest_gradients():
    tx = sparsity.rigl(optax.sgd(0.0), 0.5, Exchange(1, 4, every=4, alpha=0.5))
    p = {"w": jnp.arange(1.0, 17.0).reshape(4, 4)}
    state = tx.init(p)
    p = sparsity.prune(p, state)
    before = np.asarray(sparsity.masks_of(state)["w"].to_bool())
    g = jnp.arange(16.0)[::-1].reshape(4, 4)
    updates, state = tx.update({"w": g}, state, p)
    p = optax.apply_updates(p, updates)
    after = np.asarray(sparsity.masks_of(state)["w"].to_bool())
    kept = before & after
    assert before.sum() == after.sum() == 8
    # alpha = .5 of 8: the 4 smallest active go, then the 4 largest gradients of the rest come.
    active = np.flatnonzero(before)
    assert set(active[4:]) <= set(np.flatnonzero(after))
    others = np.setdiff1d(np.arange(16), active[4:])
    assert set(np.flatnonzero(after)) == set(active[4:]) | set(others[:4])
    np.testing.assert_array_equal(np.asarray(p["w"])[~kept], 0)


def test_set_grows_elsewhere_at_random_and_rigl_by_gradient():
    same = []
    for seed in (0, 1):
        ends = []
        for method in (sparsity.rigl, sparsity.set_):
            tx = method(optax.sgd(0.1), 0.5, Exchange(1, 9, every=2), seed=seed)
            p = params()
            state, step = tx.init(p), stepper(tx)
            for k in range(1, 9):
                p, state = step(p, state, k)
            ends.append(np.asarray(sparsity.masks_of(state)["a"].to_bool()))
        same.append((ends[0] == ends[1]).all())
    assert same == [False, False]


def test_ste_revives_what_its_dense_weight_earns():
    tx = sparsity.ste(optax.sgd(1.0), Constant(0.5, 0, 1))
    p = {"w": jnp.asarray([[1.0, 2.0], [3.0, 4.0]])}
    state = tx.init(p)
    p = sparsity.prune(p, state)
    assert p["w"].tolist() == [[0, 0], [3, 4]]
    updates, state = tx.update({"w": jnp.asarray([[-9.0, 0.0], [0.0, 2.0]])}, state, p)
    p = optax.apply_updates(p, updates)
    assert state.dense["w"].tolist() == [[10, 2], [3, 2]]
    assert p["w"].tolist() == [[10, 0], [3, 0]]


def test_ste_parameters_are_the_masked_dense_weights():
    tx = sparsity.ste(optax.adamw(1e-1), Cubic(0.75, 2, 6))
    p = params()
    state, step = tx.init(p), stepper(tx)
    for k in range(1, 9):
        p, state = step(p, state, k)
        want = np.asarray(state.masks["a"].apply(state.dense["a"]))
        np.testing.assert_array_equal(np.asarray(p["a"]) == 0, want == 0)
        # p + (target - p): two roundings, of numbers up to 4, never added up over the steps.
        np.testing.assert_allclose(p["a"], want, rtol=0, atol=2 * 4 * 2.0**-24)


def test_sr_ste_adds_decay_times_the_pruned_weights_to_the_gradient():
    """g + decay (1 - mask) w, by the formula."""
    tx = sparsity.sr_ste(optax.sgd(0.5), OneShot(0.5, 0), pattern=NM(2, 4), decay=0.1)
    p = {"w": params()["a"]}
    state = tx.init(p)
    w, mask = np.asarray(p["w"]), np.asarray(state.masks["w"].to_bool())
    g = np.asarray(gradients(p, 0)["w"])
    _, state = tx.update({"w": jnp.asarray(g)}, state, sparsity.prune(p, state))
    want = w - np.float32(0.5) * (g + np.where(mask, 0, np.float32(0.1) * w))
    np.testing.assert_allclose(state.dense["w"], want, rtol=1e-6)  # a fused multiply-add


def test_s_ste_hands_out_the_soft_threshold_times_a_frozen_scale():
    tx = sparsity.s_ste(optax.sgd(0.1), 2, 4)
    p = {"w": params()["a"]}
    state = tx.init(p)
    w = np.asarray(p["w"], np.float64).reshape(6, 4, 16)
    t = np.sort(np.abs(w), axis=1)[:, 1:2]
    s = np.sign(w) * np.maximum(np.abs(w) - t, 0)
    assert float(state.scale["w"]) == pytest.approx((w * s).sum() / (s * s).sum(), rel=1e-5)
    step, frozen = stepper(tx), state.scale["w"]
    for k in range(3):
        p, state = step(p, state, k)
    assert state.scale["w"] == frozen
    w = np.asarray(state.dense["w"], np.float64).reshape(6, 4, 16)
    t = np.sort(np.abs(w), axis=1)[:, 1:2]
    want = float(frozen) * np.sign(w) * np.maximum(np.abs(w) - t, 0)
    np.testing.assert_allclose(np.asarray(p["w"]).reshape(6, 4, 16), want, atol=1e-6)
    assert (np.count_nonzero(want, axis=1) == 2).all()


def test_acdc_trains_dense_between_and_ends_exact():
    tx = sparsity.pruned(optax.sgd(0.1), ACDC(0.75, 2, 10, 4), moments="reset_regrown")
    p = params()
    state, step = tx.init(p), stepper(tx)
    counts = []
    for k in range(1, 13):
        p, state = step(p, state, k)
        counts.append(nonzero(p)[0])
    assert counts == [384, 96, 96, 96, 96, 96, 384, 384, 384, 96, 96, 96]


@pytest.mark.parametrize("moments", ["keep", "mask", "reset_regrown"])
def test_moments_of_pruned_weights(moments):
    schedule = Listed((2, 4), (0.5, 0.0))
    tx = sparsity.pruned(optax.adam(1e-2), schedule, moments=moments)
    p = params()
    state, step = tx.init(p), stepper(tx)
    for k in range(1, 4):
        p, state = step(p, state, k)
    pruned = ~np.asarray(sparsity.masks_of(state)["a"].to_bool())
    mu = np.asarray(state.inner[0].mu["a"])
    assert (mu[~pruned] != 0).all() and (mu[pruned] == 0).all() == (moments == "mask")
    p, state = step(p, state, 4)
    first = 0.1 * np.asarray(gradients(p, 5)["a"])
    p, state = step(p, state, 5)
    mu = np.asarray(state.inner[0].mu["a"])
    alone = np.isclose(mu, first, rtol=1e-6, atol=0)  # the moment of a first step
    assert alone[pruned].all() == (moments == "reset_regrown") and not alone[~pruned].any()
    assert (np.asarray(state.inner[0].mu["b"]["bias"]) != 0).all()


def test_masked_gradients_leave_no_moments():
    tx = sparsity.pruned(optax.adam(1e-2), OneShot(0.5, 0), grads="masked")
    p = params()
    state = tx.init(p)
    pruned = ~np.asarray(sparsity.masks_of(state)["a"].to_bool())
    _, state = tx.update(gradients(p, 1), state, p)
    assert (np.asarray(state.inner[0].mu["a"])[pruned] == 0).all()


def test_saliency_keeps_what_the_loss_would_miss():
    tx = sparsity.pruned(optax.sgd(0.0), OneShot(0.5, 1), scores="saliency")
    p = {"w": jnp.asarray([[1.0, 2.0], [3.0, 4.0]])}
    updates, _ = tx.update({"w": jnp.asarray([[9.0, 3.0], [1.0, 0.1]])}, tx.init(p), p)
    assert optax.apply_updates(p, updates)["w"].tolist() == [[1, 2], [0, 0]]


def test_gradual_n_m_keeps_the_top_n_and_prunes_the_rest_of_all_leaves_together():
    """By a sort of what is not among the top 2 of 4, over both leaves (arXiv:2309.08520)."""
    tx = sparsity.pruned(
        optax.sgd(0.0), Listed((1, 2), (0.3, 0.5)), pattern=NM(2, 4), scope="global"
    )
    p = params()
    w = {"a": np.asarray(p["a"]), "b": np.asarray(p["b"]["w"])}
    always = {k: np.asarray(sparsity.nm_mask(x, 2, 4).to_bool()) for k, x in w.items()}
    others = np.concatenate([np.abs(w[k][~always[k]]) for k in w])
    state, step = tx.init(p), stepper(tx)
    for k, kept in ((1, round(1024 * 0.7)), (2, 512)):
        p, state = step(p, state, k)
        threshold = np.sort(others)[::-1][kept - 512 - 1] if kept > 512 else np.inf
        for got, name in ((p["a"], "a"), (p["b"]["w"], "b")):
            want = always[name] | (np.abs(w[name]) >= threshold)
            np.testing.assert_array_equal(np.asarray(got) != 0, want)
        assert sum(nonzero(p)) == kept


def test_erk_and_custom_levels_end_exactly_leaf_by_leaf():
    for distribution in ("erk", {"['a']": 0.5}):
        tx = sparsity.pruned(optax.sgd(0.1), Cubic(0.75, 0, 2), distribution=distribution)
        p = params()
        state, step = tx.init(p), stepper(tx)
        for k in range(1, 4):
            p, state = step(p, state, k)
        shapes = {"['a']": (24, 16), "['b']['w']": (16, 40)}
        levels = sparsity.distribute(0.75, shapes, distribution)
        want = tuple(round(np.prod(shape) * (1 - levels[path])) for path, shape in shapes.items())
        assert nonzero(p) == want


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tx: sparsity.pruned(tx, OneShot(0.5, 1), scope="tree"), "scope must be one of"),
        (
            lambda tx: sparsity.pruned(tx, OneShot(0.5, 1), pattern="2:4"),
            "pattern must be one of sparsity's patterns, got '2:4'",
        ),
        (
            lambda tx: sparsity.pruned(tx, 0.5).init(params()),
            "schedule must be one of sparsity's schedules, got 0.5",
        ),
        (lambda tx: sparsity.pruned(tx, OneShot(0.5, 1), moments="drop"), "moments must be one of"),
        (lambda tx: sparsity.pruned(tx, OneShot(0.5, 1), grads="no"), "grads must be one of"),
        (lambda tx: sparsity.pruned(tx, OneShot(0.5, 1), scores="no"), "scores must be one of"),
        (
            lambda tx: sparsity.pruned(tx, OneShot(0.5, 1), scope="global", pattern=Block(4, 4)),
            "scope global must be unstructured or n:m, and uniform, got block4x4",
        ),
        (
            lambda tx: sparsity.ste(tx, OneShot(0.5, 1), scope="global", distribution="erk"),
            "scope global must be unstructured or n:m, and uniform, got unstructured and erk",
        ),
        (
            lambda tx: sparsity.pruned(tx, OneShot(0.5, 1), normalize="rms"),
            "normalize must be None but for scope global, unstructured, got 'rms'",
        ),
        (
            lambda tx: sparsity.sr_ste(tx, OneShot(0.5, 0), decay=-1),
            "decay must be at least 0, got -1",
        ),
        (
            lambda tx: sparsity.pruned(tx, OneShot(0.4, 1), pattern=NM(2, 4)).init(params()),
            "final sparsity must be 1 - n/m for 2:4, got 0.4",
        ),
        (
            lambda tx: sparsity.pruned(tx, OneShot(1 - 1 / 7, 0), pattern=NM(1, 7)).init(params()),
            "m must divide axis -2 of x, got 7 and (24, 16)",
        ),
        (
            lambda tx: sparsity.pruned(tx, OneShot(0.5, 0), scores="saliency").init(params()),
            "gradients must be given for saliency",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError) as error:
        make(optax.sgd(0.1))
    assert message in str(error.value)


@pytest.mark.parametrize("moments", ["keep", "reset_regrown"])
def test_no_moments_are_copied_between_updates(moments):
    """XLA copied them for the refresh that may come: three times the step of the bare optimizer."""
    tx = sparsity.pruned(optax.adamw(1e-2), Cubic(0.75, 3, 5), moments=moments)
    p = {"w": jnp.ones((64, 128))}
    state = tx.init(p)

    def step(p, state):
        updates, state = tx.update(gradients(p, 1), state, p)
        return optax.apply_updates(p, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(p, state).compile().as_text()
    entry = compiled[compiled.index("ENTRY") :]
    assert " while(" in entry and "f32[64,128]{1,0} copy(" not in entry
