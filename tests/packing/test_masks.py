"""Masks by hand, block ranges against the mask, means of documents against one at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bitlaw import packing


def test_a_mask_by_hand():
    mask = packing.attention_mask(jnp.array([1, 1, 2, 0]))
    assert mask.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    mask = packing.attention_mask(jnp.array([1, 1, 2, 0]), causal=False)
    assert mask.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block", [1, 4, 16])
def test_block_ranges_are_the_tightest_around_the_mask(causal, block):
    rng = np.random.default_rng(0)
    lengths = rng.geometric(0.15, 40).clip(1, 32)
    plan = packing.plan(lengths, 32, algorithm="first_fit", align=4)
    ids = packing.materialize(plan, np.zeros(lengths.sum(), np.int32))["tokens_segment_ids"]
    ids = np.concatenate([ids, np.zeros_like(ids[:1])])
    ranges = jax.jit(packing.block_ranges, static_argnums=1, static_argnames="causal")
    begin, end = ranges(ids, block, causal=causal)
    assert (np.asarray(end) > 0).any() and (np.asarray(end) == 0).any()
    mask = np.asarray(packing.attention_mask(ids, causal=causal))
    seen = mask.reshape(len(ids), 32 // block, block, 32 // block, block).any((2, 4))
    for r, b in np.ndindex(begin.shape):
        keys = np.flatnonzero(seen[r, b])
        want = (keys[0], keys[-1] + 1) if keys.size else (0, 0)
        assert (int(begin[r, b]), int(end[r, b])) == want


def test_a_block_must_divide_the_row():
    with pytest.raises(ValueError, match=r"segment_ids must be i32\[\.\.\., L\], got float32\[4\]"):
        packing.block_ranges(np.ones(4, np.float32), 2)
    with pytest.raises(ValueError, match="block must divide axis 1 of segment_ids, got 3 and"):
        packing.block_ranges(jnp.ones((2, 8), jnp.int32), 3)


def test_means_of_documents_equal_one_at_a_time():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 25)
    losses = rng.normal(size=lengths.sum()).astype(np.float32)
    plan = packing.plan(lengths, 32)
    rows = packing.materialize(plan, losses)
    weights = rows["tokens_loss_mask"].astype(np.float32)
    segments = rows["tokens_cu_seqlens"].shape[1] - 1
    noisy = np.where(weights == 0, np.nan, rows["tokens"])  # what is not counted may be anything
    mean, weight = packing.segment_means(noisy, weights, rows["tokens_segment_ids"], segments)
    nth = dict(zip(plan.sequence.tolist(), range(len(lengths)), strict=True))
    ends = np.cumsum(lengths)
    for s, n in enumerate(lengths):
        r, at = plan.row[nth[s]], plan.start[nth[s]]
        segment = rows["tokens_segment_ids"][r, at] - 1
        alone = losses[ends[s] - n + 1 : ends[s]].astype(np.float64)
        assert weight[r, segment] == n - 1
        naive = np.abs(np.float32(alone.astype(np.float32).mean()) - alone.mean()) if n > 1 else 0
        error = abs(float(mean[r, segment]) - (alone.mean() if n > 1 else 0))
        assert error <= 2 * naive + 2e-7 * np.abs(alone).max(initial=0)  # a rounding of the sum


def test_packed_loss_and_gradients_equal_the_sum_over_documents():
    """One attention head over a packed batch against each document alone, both against float64."""
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 17, n) for n in (9, 2, 30, 1, 14, 21)]
    width = 8
    params = {name: rng.normal(size=(17, width)) / 2 for name in ("embed", "head")}
    params["score"] = rng.normal(size=(width, width)) / 2

    def loss(params, batch):
        x = params["embed"][batch["inputs"]]
        scores = jnp.einsum("bld,de,bme->blm", x, params["score"], x)
        mask = packing.attention_mask(batch["segment_ids"])
        scores = jnp.where(mask, scores, -1e30)
        y = jax.nn.softmax(scores) @ x + x
        logits = jax.nn.log_softmax(y @ params["head"].T)
        chosen = jnp.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
        return -(batch["weights"] * chosen).sum()

    def batch_of(capacity, max_segments=None):
        plan = packing.plan([len(d) for d in documents], capacity, max_segments=max_segments)
        rows = packing.materialize(plan, np.concatenate(documents).astype(np.int32))
        batch = packing.shift(rows)
        packing.verify(rows, sequences=documents)
        packing.verify(batch)
        return batch

    def run(dtype, batch):
        cast = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
        return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss))(cast, batch))

    packed, alone = batch_of(40), batch_of(31, max_segments=1)
    assert len(alone["inputs"]) == len(documents) > len(packed["inputs"])
    with jax.enable_x64(True):
        exact = run(jnp.float64, alone)
    got, naive = run(jnp.float32, packed), run(jnp.float32, alone)
    for e, g, n in zip(*map(jax.tree.leaves, (exact, got, naive)), strict=True):
        assert np.abs(g - e).max() <= 2 * np.abs(n - e).max() + 1e-7 * np.abs(e).max()
