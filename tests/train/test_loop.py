"""Training: branches are runs of their own, one program serves a study, divergence ends one run."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from bitlaw.formats import Scheme, SparseSpec
from bitlaw.models import count, lm
from bitlaw.models.layers import Structure
from bitlaw.models.lm import ModelConfig
from bitlaw.train import checkpoint, loop, step
from bitlaw.train.loop import Recipe

MODEL = ModelConfig(width=8, depth=1, context=16)
W4A4 = "w=quest4/channel a=quest4/row"

MORE = (
    "w=binary", "w=ternary/channel", "w=nf4 a=int8/fixed(0.05)", "w=uint4/block32/learned",
    "w=int4/channel/lsq_plus a=int8/learned", "w=uint4/channel/learned a=uint4/pact",
    "w=e4m3/delayed a=e4m3/delayed", "w=int4/block16x16",
    "w=int4/channel/stochastic a=mxfp8/stochastic", "w=mxint8 a=mxfp6/away g=e5m2/toward_zero",
    "w=quest4/channel/hadamard16 a=quest4/row/hadamard16", "w=int3/channel/mse_search",
    "w=fp8/scale_pow2 a=fp8 g=fp8", "w=bitlaw.formats.switched:switched_fp8",
)  # fmt: skip


def recipe(scheme="dense", **changes):
    fields = {"model": MODEL, "seed": 0, "batch": 4, "learning_rate": 1e-2, "warmup": 5}
    return Recipe(scheme=Scheme.parse(scheme), **fields | changes)


def trained(recipe, corpus, budgets, on_chunk=lambda *_: None):
    return list(loop.train(recipe, corpus, budgets, on_chunk))


def same(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


# Scales learned by gradient, taken from past steps, and random numbers of every step.
STATEFUL = "w=int4/channel/learned a=e4m3/delayed g=fp8/stochastic"


@pytest.mark.parametrize("scheme", ["dense", W4A4, STATEFUL])
def test_branches_equal_separate_runs_bit_for_bit(scheme, corpus):
    budgets = [24, 61, 90]  # stable parts end inside chunks
    branches = trained(recipe(scheme), corpus, budgets)
    for branch in branches:
        (alone,) = trained(recipe(scheme), corpus, [branch.steps])
        assert alone.loss == branch.loss
        assert same(alone.params, branch.params)
    assert len({branch.loss for branch in branches}) == 3


@pytest.mark.parametrize(
    "scheme",
    [
        *("dense", W4A4, "s=0.75", "w=quest4/channel s=0.5", "w=int4/block6"),
        "w=nvfp4 a=mxfp4",
        *(pytest.param(scheme, marks=pytest.mark.slow) for scheme in MORE),
    ],
)
def test_training_lowers_the_loss(scheme, corpus):
    seen = []
    (branch,) = trained(recipe(scheme), corpus, [90], lambda *chunk: seen.append(chunk))
    assert [chunk[1] for chunk in seen] == [32, 64, 68, 90]  # the stable part ends at 68
    assert sum(chunk[0] for chunk in seen) == 90
    assert branch.loss < 0.7 * np.log(256)
    assert seen[-1][3] < 0.7 * np.log(256)


def test_schemes_of_one_size_see_one_order_of_the_data_and_sizes_their_own(corpus, monkeypatch):
    salts, seen = [], []

    def spied(self, *arguments, salt):
        salts.append(salt)
        return batches(self, *arguments, salt=salt)

    batches = type(corpus).train_batches
    monkeypatch.setattr(type(corpus), "train_batches", spied)
    for changes in ({}, {"scheme": W4A4}, {"model": dataclasses.replace(MODEL, depth=2)}):
        trained(recipe(**changes), corpus, [2])
        seen.append(set(salts))
        salts.clear()
    assert seen == [{768}, {768}, {1536}]


def test_chunks_change_no_bit(corpus):
    rates = np.full(20, 1e-2, np.float32)
    ends = []
    for cuts in ([0, 20], [0, 1, 13, 20]):
        state = step.fresh_state(step.fresh_params(0, MODEL))
        losses = []
        for begin, end in itertools.pairwise(cuts):
            batches = corpus.train_batches(0, 4, begin, end, salt=0)
            state, some = step.train_chunk(state, batches, rates[begin:end], MODEL, Structure(), {})
            losses.extend(some)
        ends.append((state, losses))
    assert same(*ends)


def test_the_seed_alone_decides_the_first_parameters():
    tx = loop.optimizer.sparse(SparseSpec(0.5), 100)
    params = step.fresh_params(3, MODEL)
    assert same(params, step.fresh_state(params, tx).params)
    assert not same(params, step.fresh_params(4, MODEL))


@pytest.mark.parametrize(
    "scheme, share",
    [
        ("s=0.5", 0.5),
        ("w=quest4/channel s=0.75", 0.25),
        ("w=int4/channel s=2:4", 0.5),
        ("s=1:4/transposable", 0.25),
        ("s=0.5/block4x4", 0.5),
        ("s=0.75/oneshot", 0.25),
        ("s=0.75/acdc", 0.25),
        ("s=0.75/static", 0.25),
        ("s=0.75/ste", 0.25),
        ("s=2:4/sr_ste", 0.5),
        ("s=2:4/s_ste", 0.5),
        ("s=2:4/global", 0.5),
    ],
)
def test_pruned_runs_end_at_their_exact_sparsity_matrix_by_matrix(scheme, share, corpus):
    (branch,) = trained(recipe(scheme), corpus, [60])
    for path, leaf in jax.tree_util.tree_leaves_with_path(branch.params):
        kept = leaf.size * share if lm.is_compressed(path, leaf) else leaf.size
        if path[0].key != "head":
            assert np.count_nonzero(leaf) == kept
    assert count.n_nonzero(branch.params) == count.n_params(MODEL) * share


def test_a_wide_decoder_keeps_exactly_a_quarter_of_every_matrix(corpus):
    model = ModelConfig(width=64, depth=2, heads=2, context=16)
    (branch,) = trained(recipe("s=0.75", model=model), corpus, [20])
    for block in branch.params["blocks"]:
        for name, (rows, cols) in model.matrices.items():
            assert np.count_nonzero(block[name]) == rows * cols // 4


@pytest.mark.parametrize("scheme", ["s=0.75/rigl", "s=0.75/set", "s=0.75/global"])
def test_regrowing_and_global_runs_end_at_their_exact_count(scheme, corpus):
    """Weights grown last may still be zero; global counts hold for all matrices together."""
    (branch,) = trained(recipe(scheme), corpus, [60])
    kept = count.n_params(MODEL) // 4
    assert 0.9 * kept <= count.n_nonzero(branch.params) <= kept
    assert scheme != "s=0.75/global" or count.n_nonzero(branch.params) == kept


def test_a_run_may_start_from_a_checkpoint(corpus, tmp_path):
    (dense,) = trained(recipe(), corpus, [60])
    checkpoint.save(tmp_path / "dense", dense.params, {})
    (pruned,) = trained(recipe("s=0.5", init=str(tmp_path / "dense")), corpus, [60])
    (scratch,) = trained(recipe("s=0.5"), corpus, [60])
    assert pruned.loss < scratch.loss
    assert count.n_nonzero(pruned.params) == count.n_params(MODEL) // 2
    model = dataclasses.replace(MODEL, depth=2)
    with pytest.raises(ValueError, match=r"leaf \['blocks'\]\[1\].* got absent"):
        trained(recipe(model=model, init=str(tmp_path / "dense")), corpus, [4])


def test_a_study_compiles_once_per_model_and_structure(corpus):
    compiled = []
    model = dataclasses.replace(MODEL, mlp_hidden=24)  # a shape no other test has compiled
    for scheme in ("dense", "w=quest4/channel", "s=0.5"):
        trained(recipe(scheme, model=model), corpus, [30])
    listen = jax.monitoring.register_event_duration_secs_listener
    listen(lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None)
    for scheme, seed, budget in (
        ("dense", 1, 61),
        ("w=quest2/channel", 2, 33),
        ("w=quest8/channel", 0, 7),
        ("s=0.75", 1, 50),
        ("s=0.25", 0, 90),
    ):
        trained(recipe(scheme, model=model, seed=seed, learning_rate=2e-3), corpus, [budget])
    assert compiled == []
    trained(recipe("w=quest8/channel s=0.75", model=model), corpus, [9])
    assert len(compiled) == 2  # the listener does hear: training and validation of a new structure


def test_a_diverged_branch_has_no_loss_and_the_others_go_on(corpus, monkeypatch):
    real = step.train_chunk

    def poisoned(state, batches, rates, *others):
        return real(state, batches, np.where(rates == poison, np.nan, rates), *others)

    monkeypatch.setattr(step, "train_chunk", poisoned)
    # In the cool-down of the first, then in the stable part of both.
    poison = loop.optimizer.wsd(20, 21, steps=24, peak=1e-2, warmup=5)[0]
    first, second = trained(recipe(), corpus, [24, 48])
    assert (first.loss, first.params) == (None, None)
    assert second.loss < np.log(256)
    poison = np.float32(1e-2)
    assert [branch.loss for branch in trained(recipe(), corpus, [24, 48])] == [None, None]


def test_a_learning_rate_that_blows_up_ends_as_diverged(corpus):
    (branch,) = trained(recipe(learning_rate=1e38), corpus, [40])
    assert branch.loss is None


@pytest.mark.parametrize("scheme, budgets", [("dense", [8, 4]), ("dense", [0]), ("s=0.5", [4, 8])])
def test_bad_budgets_are_named(scheme, budgets, corpus):
    with pytest.raises(ValueError, match="budgets must ascend"):
        trained(recipe(scheme), corpus, budgets)


def test_a_corpus_of_another_context_is_named(corpus):
    model = dataclasses.replace(MODEL, context=32)
    with pytest.raises(ValueError, match="corpus must be the model's, got 16 and 32"):
        trained(recipe(model=model), corpus, [4])
