"""Counts, masks and thresholds of torch's pruning, where its rules are ours: no ties, no
NaN, no half counts (torch rounds those it prunes to even, we those kept)."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bitlaw
from bitlaw import sparsity
from bitlaw.sparsity import NM, Channel, OneShot, Polynomial, select_threshold

torch = pytest.importorskip("torch", reason="the oracle is torch, which is not installed")


def distinct(*shape, seed=0):
    """Magnitudes that all differ."""
    rng = np.random.default_rng(seed)
    magnitudes = rng.permutation(np.arange(1, np.prod(shape) + 1)).astype(np.float32)
    return (magnitudes * rng.choice([-1, 1], magnitudes.size)).reshape(shape).astype(np.float32)


def module(w):
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(torch.tensor(w))
    return layer


@pytest.mark.parametrize("level", [0.0, 0.1, 0.25, 0.5, 0.77, 0.9])
@pytest.mark.parametrize("shape", [(5, 8), (64, 50)])
def test_unstructured_masks_are_those_of_torch_l1_unstructured(level, shape):
    from torch.nn.utils import prune

    w = distinct(*shape)
    layer = prune.l1_unstructured(module(w), "weight", amount=level)
    keep = OneShot(level, 0).keep_counts(w.size)[-1]
    mask = np.asarray(bitlaw.top_k_mask(w, int(keep)).to_bool())
    np.testing.assert_array_equal(mask, layer.weight_mask.numpy() == 1)


@pytest.mark.parametrize("level", [0.25, 0.5, 0.8])
def test_global_masks_are_those_of_torch_global_unstructured(level):
    from torch.nn.utils import prune

    both = distinct(37, 8)
    tree = {"a": both[:16], "b": both[16:]}
    layers = [module(w) for w in tree.values()]
    names = [(layer, "weight") for layer in layers]
    prune.global_unstructured(names, pruning_method=prune.L1Unstructured, amount=level)
    for mask, layer in zip(sparsity.global_masks(tree, level).values(), layers, strict=True):
        np.testing.assert_array_equal(mask.to_bool(), layer.weight_mask.numpy() == 1)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("level", [0.25, 0.5])
def test_channels_are_those_of_torch_ln_structured(axis, level):
    from torch.nn.utils import prune

    w = distinct(12, 20)
    layer = prune.ln_structured(module(w), "weight", amount=level, n=1, dim=axis)
    pattern = Channel(axis)
    keep = pattern.keep_counts(OneShot(level, 0), w.shape, level)[-1]
    mask = pattern.mask(w, int(keep)).to_bool()
    np.testing.assert_array_equal(mask, layer.weight_mask.numpy() == 1)


def test_n_of_m_are_those_of_the_torch_weight_norm_sparsifier():
    from torch.ao.pruning import WeightNormSparsifier

    w = distinct(16, 32)
    model = torch.nn.Sequential(module(w))
    sparsifier = WeightNormSparsifier(1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    mask = model[0].parametrizations.weight[0].mask.numpy() == 1
    np.testing.assert_array_equal(bitlaw.nm_mask(w, 2, 4, axis=-1).to_bool(), mask)


def test_levels_and_counts_are_those_of_the_torch_cubic_scheduler():
    from torch.ao.pruning import WeightNormSparsifier
    from torch.ao.pruning.scheduler.cubic_scheduler import CubicSL

    final, initial, begin, every, updates = 0.8, 0.1, 3, 2, 5
    model = torch.nn.Sequential(module(distinct(24, 16)))
    sparsifier = WeightNormSparsifier(final, sparse_block_shape=(1, 1))
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    scheduler = CubicSL(sparsifier, initial, begin, every, updates, initially_zero=True)
    ours = Polynomial(final, begin, begin + every * updates, initial=initial, preset="torch_ao")
    counts = dict(zip(ours.steps().tolist(), ours.keep_counts(24 * 16), strict=True))
    kept = 24 * 16
    for step in range(begin + every * updates + 4):
        (level,) = scheduler.get_last_sl()
        assert ours.sparsity(step) == pytest.approx(level, abs=1e-12)
        sparsifier.step()
        kept = counts.get(step, kept)
        mask = model[0].parametrizations.weight[0].mask
        assert int(mask.sum()) == kept, step
        scheduler.step()


@pytest.mark.parametrize("keep", [1, 7, 500, 999, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_thresholds_are_those_of_torch_kthvalue(keep, dtype):
    x = torch.tensor(np.random.default_rng(0).normal(size=1000)).to(getattr(torch, dtype))
    want = x.abs().kthvalue(1000 - keep + 1).values
    magnitude, ties = select_threshold(jnp.asarray(x.float().numpy()).astype(dtype), keep)
    assert float(magnitude) == float(want)
    assert int(ties) == keep - int((x.abs() > want).sum())


def test_sr_ste_gradients_are_those_of_torch_autograd():
    """The straight-through product in torch, with lambda (1 - mask) w added to its gradient."""

    class Sparse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w, mask, decay):
            ctx.save_for_backward(w, mask)
            ctx.decay = decay
            return w * mask

        @staticmethod
        def backward(ctx, g):
            w, mask = ctx.saved_tensors
            return g + ctx.decay * (1 - mask) * w, None, None

    w, x = distinct(16, 8) / 64, distinct(4, 16, seed=1) / 64
    tx = sparsity.sr_ste(optax.sgd(1.0), OneShot(0.5, 0), pattern=NM(2, 4), decay=0.25)
    state = tx.init({"w": jnp.asarray(w)})
    mask = np.asarray(state.masks["w"].to_bool())
    held = sparsity.prune({"w": jnp.asarray(w)}, state)
    theirs = torch.tensor(w, requires_grad=True)
    product = Sparse.apply(theirs, torch.tensor(mask).float(), 0.25)
    (torch.tensor(x) @ product).square().sum().backward()
    gradient = 2 * x.T @ (x @ np.asarray(held["w"]))
    _, state = tx.update({"w": jnp.asarray(gradient)}, state, held)
    np.testing.assert_allclose(w - np.asarray(state.dense["w"]), theirs.grad, rtol=1e-4, atol=1e-5)
