"""Experts: every token by brute force, what capacity drops, and that packing changes nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from bitlaw.formats import Scheme
from bitlaw.models import count, layers, lm, moe
from bitlaw.models.layers import Structure
from bitlaw.models.lm import ModelConfig
from bitlaw.models.moe import Experts
from bitlaw.train.loss import summed_cross_entropy

N, D, F = 24, 6, 10
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
IDS = RNG.integers(0, 256, N)
REAL = np.arange(N) < 21


def block_of(experts, kind="relu2"):
    shapes = {"up": (D, F), "down": (F, D)} | ({"gate": (D, F)} if kind == "swiglu" else {})
    rng = np.random.default_rng(1)
    block = {k: rng.normal(size=(experts.count, *s)).astype(np.float32) for k, s in shapes.items()}
    return block | {"router": rng.normal(size=(D, experts.count)).astype(np.float32)}


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 6))
def mlp(x, block, experts, kind, structure, grids, train):
    tokens = {"ids_N": IDS, "real_N": REAL, "train": train}
    return moe.mlp(x, block, experts, kind, structure, grids, **tokens)


def run(block, experts, kind="relu2", structure=None, grids=None, x=X, train=None):
    train = experts.capacity is not None if train is None else train
    return mlp(x, block, experts, kind, structure or Structure(), grids or {}, train)


def one_mlp(x, block, e, kind):
    w = {k: block[k][e].astype(np.float64) for k in ("up", "gate", "down") if k in block}
    h = x @ w["up"]
    if kind == "swiglu":
        gate = x @ w["gate"]
        return (h * gate / (1 + np.exp(-gate))) @ w["down"]
    return np.maximum(h, 0) ** 2 @ w["down"]


def brute_force(block, experts, kind="relu2"):
    """Token by token in float64; `token` priority: first come, first served."""
    slots, taken = np.inf, np.zeros(experts.count)
    if experts.capacity:
        slots = np.ceil(experts.capacity * N * experts.k / experts.count)
    y = np.zeros((N, D))
    for n in np.flatnonzero(REAL):
        logits = X[n].astype(np.float64) @ block["router"]
        best = np.argsort(-logits, kind="stable")[: experts.k]
        gates = softmax(logits[best]) if experts.normalize == "mixtral" else softmax(logits)[best]
        if experts.router == "hash":
            best, gates = [IDS[n] % experts.count], [1.0]
        for e, gate in zip(best, gates, strict=True):
            if taken[e] < slots:
                y[n] += gate * one_mlp(X[n].astype(np.float64), block, e, kind)
            taken[e] += 1
    return y


@pytest.mark.parametrize(
    "text, kind",
    [
        ("4/top2", "relu2"),
        ("4/top2/mixtral", "swiglu"),
        ("3/hash", "relu2"),
        ("5/sbase", "relu2"),
        ("4/top1/capacity0.5", "relu2"),
        ("4/top2/mixtral/capacity0.75", "swiglu"),
        ("3/hash/capacity0.75", "relu2"),
    ],
)
def test_every_token_equals_brute_force(text, kind):
    experts = Experts.parse(text)
    block = block_of(experts, kind)
    y, _ = run(block, experts, kind)
    expected = brute_force(block, experts, kind)
    np.testing.assert_allclose(y, expected, atol=2e-4)  # sums of 10 squares near 100, in f32
    assert (np.asarray(y)[~REAL] == 0).all() and np.abs(expected[REAL]).max() > 10
    if experts.capacity:
        whole = brute_force(block, dataclasses.replace(experts, capacity=None), kind)
        assert np.abs(expected - whole).max() > 1, "something was dropped"


def test_outside_of_training_slots_are_twice_as_many():
    block, half = block_of(Experts(4)), Experts.parse("4/top1/capacity0.25")
    measured, trained = (np.asarray(run(block, half, train=t)[0]) for t in (False, True))
    whole = brute_force(block, Experts.parse("4/top1/capacity0.5"))
    np.testing.assert_allclose(measured, whole, atol=2e-4)  # as above
    assert np.abs(trained - whole).max() > 1


def test_a_capacity_of_all_tokens_equals_dropless_in_value_and_gradient():
    block = block_of(Experts(4))

    def loss(block, x, text):
        y, balance = run(block, Experts.parse(text), x=x)
        return jnp.sum(y**2) + balance

    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    dropless, in_slots = (gradient(block, X, text) for text in ("4/top2", "4/top2/capacity2/gate"))
    for one, other in zip(jax.tree.leaves(dropless), jax.tree.leaves(in_slots), strict=True):
        assert np.abs(one).max() > 0.1
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("text", ["2/top1", "2/top1/capacity2"])
def test_a_scheme_quantizes_each_expert_by_itself(text):
    scheme = Scheme.parse("w=quest2/channel a=int8/row")
    structure, grids = Structure.of(scheme), layers.grids_of(scheme)
    experts, block = Experts.parse(text), block_of(Experts(2))
    y, _ = run(block, experts, structure=structure, grids=grids)
    chosen = np.argmax(X @ block["router"], axis=1)
    gates = softmax(X @ block["router"], axis=1).max(axis=1)
    for e in range(2):
        one = {name: jnp.asarray(block[name][e]) for name in ("up", "down")}
        product = lambda x, w: layers.linear(x, w, structure, grids)
        alone = np.asarray(layers.mlp(jnp.asarray(X), one, "relu2", product)) * gates[:, None]
        here = REAL & (chosen == e)
        np.testing.assert_allclose(np.asarray(y)[here], alone[here], rtol=1e-3, atol=1e-3)


def test_expert_choice_equals_brute_force():
    block = block_of(Experts(4))
    y = moe.expert_choice_mlp(jnp.asarray(X), block, 3, "relu2", Structure(), {}, REAL)
    scores = softmax(X.astype(np.float64) @ block["router"], axis=1)
    expected = np.zeros((N, D))
    for e in range(4):
        for n in np.argsort(-np.where(REAL, scores[:, e], -1), kind="stable")[:3]:
            expected[n] += scores[n, e] * one_mlp(X[n].astype(np.float64), block, e, "relu2")
    np.testing.assert_allclose(y, expected, atol=2e-4)  # as above
    assert (expected[REAL] == 0).all(axis=1).any() and (np.abs(expected) > 1).any()


def test_soft_equals_brute_force_and_ignores_padding():
    block = block_of(Experts(2))
    block |= {"phi": RNG.normal(size=(D, 6)).astype(np.float32), "scale": np.float32(2)}
    run_soft = lambda x: moe.soft_mlp(jnp.asarray(x), block, "relu2", Structure(), {}, REAL)
    x = X.astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    logits = unit @ (2 * block["phi"] / np.linalg.norm(block["phi"].astype(np.float64), axis=0))
    slots = softmax(logits[REAL], axis=0).T @ x[REAL]
    outputs = np.array([one_mlp(slots[s], block, s // 3, "relu2") for s in range(6)])
    np.testing.assert_allclose(run_soft(X), softmax(logits, axis=1) @ outputs, atol=2e-4)
    changed = np.where(REAL[:, None], X, 99)
    np.testing.assert_array_equal(run_soft(changed)[REAL], run_soft(X)[REAL])
    with pytest.raises(ValueError, match="experts must divide slots, got 2 and 5"):
        moe.soft_mlp(X, block | {"phi": block["phi"][:, :5]}, "relu2", Structure(), {}, REAL)


CONFIG = ModelConfig(width=8, depth=1, context=24, experts="3/top2/mixtral")


def documents_loss(params, batch, config):
    logits = lm.apply(params, batch, config, Structure(), {})
    return summed_cross_entropy(logits, batch["targets"], batch["weights"])


loss_and_gradient = jax.jit(jax.value_and_grad(documents_loss), static_argnums=2)


def row_of(*documents, length=24):
    """One packed row of these documents, filled up with padding."""
    sizes = [len(d) - 1 for d in documents]
    rest = length - sum(sizes)
    ids = np.repeat([*range(1, 1 + len(sizes)), 0], [*sizes, rest])
    columns = {
        "inputs": np.concatenate([*(d[:-1] for d in documents), np.zeros(rest)]),
        "targets": np.concatenate([*(d[1:] for d in documents), np.zeros(rest)]),
        "segment_ids": ids,
        "positions": np.concatenate([*map(np.arange, sizes), np.zeros(rest)]),
    }
    batch = {name: column[None].astype(np.int32) for name, column in columns.items()}
    return batch | {"weights": (ids > 0)[None].astype(np.float32)}


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_packed_loss_and_gradients_equal_the_sum_of_single_documents_without_a_capacity():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 256, n) for n in (8, 11, 6)]
    keys = jax.random.split(jax.random.key(1), 2)
    params = lm.init(keys[0], CONFIG) | {"head": jax.random.normal(keys[1], (8, 256))}
    packed = flat(loss_and_gradient(params, row_of(*documents), CONFIG))
    alone = sum(flat(loss_and_gradient(params, row_of(d), CONFIG)) for d in documents)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        exact = sum(flat(loss_and_gradient(wide, row_of(d), CONFIG)) for d in documents)
    assert exact.dtype == np.float64
    # Other shapes sum in another order; packing may not cost more than twice the rounding of f32.
    assert np.abs(packed - exact).max() <= 2 * np.abs(alone - exact).max()


def test_s_base_balances_in_training_only_and_learned_routers_have_a_loss():
    block = block_of(Experts(4))
    block["router"][:, 0] += 3 * X.mean(0) + 1
    tokens = {"ids_N": IDS, "real_N": REAL}

    def chosen(text, train):
        routing = moe.route(X, block, Experts.parse(text), **tokens, train=train)
        return np.asarray(routing.experts)[REAL, 0]

    best = np.argmax(X @ block["router"], axis=1)[REAL]
    assert np.array_equal(chosen("4/sbase", False), best)
    crowded, spread = (np.bincount(chosen("4/sbase", t), minlength=4) for t in (False, True))
    assert spread.max() < crowded.max()
    losses = [float(run(block, Experts.parse(f"4/{r}"))[1]) for r in ("top1", "sbase", "hash")]
    # The best experts are too crowded, also those of S-BASE, which it is measured with.
    assert losses[0] == losses[1] > moe.BALANCE and losses[2] == 0


@pytest.mark.parametrize("text", ["4/top2", "4/hash/capacity1.25", "4/sbase"])
@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
def test_counts_equal_the_leaves(text, mlp):
    config = ModelConfig(width=16, depth=2, context=32, mlp=mlp, experts=text)
    params = jax.eval_shape(lambda: lm.init(jax.random.key(0), config))
    assert count.n_total(config) == sum(leaf.size for leaf in jax.tree.leaves(params))
    per_expert = 2 * (3 if mlp == "swiglu" else 2) * 16 * 64
    dense = 2 * 4 * 16 * 16 + per_expert
    assert count.n_dense(config) == dense == count.n_params(ModelConfig(16, 2, mlp=mlp))
    assert count.n_params(config) == dense + 3 * per_expert
    assert count.n_active(config) == dense + (per_expert if text == "4/top2" else 0)
    more = count.flops_per_token(config) - count.flops_per_token(
        ModelConfig(16, 2, context=32, mlp=mlp)
    )
    assert more == 6 * (count.n_active(config) - dense + count.n_routers(config))


EXPERTS = st.builds(
    lambda count, router, k, capacity, priority, mixtral: Experts(
        count,
        router,
        k=min(k, count) if router == "top" else 1,
        normalize="mixtral" if mixtral and router == "top" and min(k, count) > 1 else "vmoe",
        capacity=capacity,
        priority=priority if capacity else "token",
    ),
    st.integers(1, 64),
    st.sampled_from(["top", "hash", "sbase"]),
    st.integers(1, 4),
    st.none() | st.floats(1e-9, 1e9, exclude_min=True),
    st.sampled_from(moe.PRIORITIES),
    st.booleans(),
)


@given(EXPERTS)
def test_parse_inverts_str(experts):
    assert Experts.parse(str(experts)) == experts


@pytest.mark.parametrize(
    "text, message",
    [
        ("8", r"experts must be a number and a router .*, got '8'"),
        ("8/soft", r"experts must be a number and a router .*, got '8/soft'"),
        ("0/hash", "experts must be at least 1, got 0"),
        ("4/top5", r"k must be in 1..4 experts, got 5"),
        ("4/top1/mixtral", "mixtral must have k of at least 2"),
        ("4/hash/mixtral", r"experts must have mods of .*, got 'mixtral' in '4/hash/mixtral'"),
        ("4/top2/capacity0", "capacity must be above 0, got 0"),
        ("4/top2/capacity1/capacity2", "experts must say capacity once"),
        ("4/top2/gate", "experts must have a capacity for a priority"),
        ("4/top2/", r"experts must have mods of .*, got ''"),
    ],
)
def test_bad_experts_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(width=16, depth=1, experts=text)
