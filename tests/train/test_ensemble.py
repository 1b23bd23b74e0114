"""Seeds trained in one program, and products in bfloat16 over parameters in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw.formats import Scheme
from bitlaw.models import lm
from bitlaw.models.layers import Structure, grids_of
from bitlaw.models.lm import ModelConfig
from bitlaw.train import loop, step
from bitlaw.train.loop import Recipe

MODEL = ModelConfig(width=8, depth=1, context=16)
HALF = dataclasses.replace(MODEL, compute="bfloat16")
W4A4 = Scheme.parse("w=quest4/channel a=quest4/row")


def recipe(scheme=W4A4, model=MODEL, **changes):
    return Recipe(scheme, model, 0, 4, 1e-2, warmup=5, **changes)


def trained(recipe, corpus, budgets):
    return list(loop.train(recipe, corpus, budgets, lambda *_: None))


@pytest.fixture(scope="module")
def together(corpus):
    return trained(recipe(members=2), corpus, [24, 40])


def test_an_ensemble_is_its_seeds_trained_alone(together, corpus):
    """Up to rounding: a product over a batch of matrices may add up in another order."""
    assert [(branch.steps, branch.seed) for branch in together] == [
        (24, 0), (24, 1), (40, 0), (40, 1),
    ]  # fmt: skip
    for seed in (0, 1):
        alone = trained(dataclasses.replace(recipe(), seed=seed), corpus, [24, 40])
        members = [branch for branch in together if branch.seed == seed]
        for one, member in zip(alone, members, strict=True):
            assert one.seed == seed
            assert member.loss == pytest.approx(one.loss, rel=2e-3)
            assert jax.tree.map(jnp.shape, member.params) == jax.tree.map(jnp.shape, one.params)
    assert together[0].loss != pytest.approx(together[1].loss, rel=1e-4)


def test_a_member_that_diverges_takes_nobody_with_it(together, corpus, monkeypatch):
    real = loop._fresh

    def poisoned(*arguments):
        state = real(*arguments)
        head = state.params["head"].at[0].set(jnp.nan)
        return dataclasses.replace(state, params=state.params | {"head": head})

    monkeypatch.setattr(loop, "_fresh", poisoned)
    branches = trained(recipe(members=2), corpus, [24, 40])
    assert [branch.loss for branch in branches[::2]] == [None, None]
    assert [branch.loss for branch in branches[1::2]] == [b.loss for b in together[1::2]]


def test_a_pruned_scheme_is_no_ensemble(corpus):
    pruned = recipe(Scheme.parse("s=0.5"), members=2)
    with pytest.raises(ValueError, match="members must be 1 for a pruned scheme, got 2"):
        trained(pruned, corpus, [4])


def test_parameters_stay_float32_and_products_are_bfloat16():
    structure, grids = Structure.of(W4A4), grids_of(W4A4)
    params = step.fresh_params(0, HALF)
    names = ("inputs", "segment_ids", "positions")
    batch = {name: jnp.ones((4, 16), jnp.int32) for name in names}

    def loss(params):
        logits = lm.apply(params, batch, HALF, structure, grids)
        assert logits.dtype == jnp.float32
        return jnp.sum(logits)

    gradients = jax.eval_shape(jax.grad(loss), params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, gradients))} == {jnp.dtype("float32")}
    lines = jax.jit(loss).lower(params).as_text().splitlines()
    operands = lambda what: [
        line.split(" : (")[1].split(") -> ")[0] for line in lines if what in line
    ]
    quantized = [types.split(",")[0] for types in operands("@bitlaw.fake_quantize")]
    assert sum(first.endswith("xf32>") for first in quantized) == 4  # matrices
    assert sum(first.endswith("xbf16>") for first in quantized) == 4  # activations
    products = operands("stablehlo.dot_general")
    assert len(products) == 7 and all(types.count("bf16") == 2 for types in products)


def test_bfloat16_follows_float32(together, corpus):
    (half,) = trained(recipe(model=HALF), corpus, [40])
    assert half.loss == pytest.approx(together[2].loss, rel=0.05)
    assert {np.asarray(leaf).dtype.name for leaf in jax.tree.leaves(half.params)} == {"float32"}


def test_experts_compute_in_float32_only():
    with pytest.raises(ValueError, match="compute must be float32 with experts, got bfloat16"):
        ModelConfig(8, 1, experts="4/top2/capacity1.25", compute="bfloat16")
    with pytest.raises(ValueError, match="compute must be float32 or bfloat16, got float16"):
        ModelConfig(8, 1, compute="float16")
