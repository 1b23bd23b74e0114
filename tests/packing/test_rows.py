"""Rows hold every token once and in order; targets stay inside their document."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlaw import packing
from bitlaw.ops import pack


def unpack(rows):
    """Every segment of every row, as tuples."""
    found = []
    for tokens, ids in zip(rows["tokens"], rows["tokens_segment_ids"], strict=True):
        found += [tuple(tokens[ids == s].tolist()) for s in range(1, ids.max(initial=0) + 1)]
    return found


@given(st.lists(st.integers(1, 50), max_size=80), st.integers(1, 30))
def test_every_token_lands_once_and_in_order(lengths, capacity):
    tokens = np.arange(1, sum(lengths) + 1)
    plan = packing.plan(lengths, capacity, overflow="split")
    rows = packing.materialize(plan, tokens)
    pieces = []
    at = 1
    for length in lengths:
        whole = list(range(at, at + length))
        pieces += [tuple(whole[i : i + capacity]) for i in range(0, length, capacity)]
        at += length
    assert sorted(unpack(rows)) == sorted(pieces)
    assert plan.split == sum(length > capacity for length in lengths)
    padding = rows["tokens_segment_ids"] == 0
    assert (rows["tokens"][padding] == 0).all() and (rows["tokens_positions"][padding] == 0).all()
    # Padding lies at the end of a row, positions count within a segment.
    assert (np.diff(padding.astype(int), axis=1) >= 0).all()
    for ids, positions in zip(rows["tokens_segment_ids"], rows["tokens_positions"], strict=True):
        for s in range(1, ids.max(initial=0) + 1):
            assert positions[ids == s].tolist() == list(range((ids == s).sum()))


def test_a_small_plan_by_hand():
    plan = packing.plan([3, 5, 8, 1, 1, 7, 2], 8)
    # Longest first: 8 | 7 +1 | 5 +3 | 2 +1
    assert plan.row.tolist() == [2, 2, 0, 1, 3, 1, 3]
    assert plan.start.tolist() == [5, 0, 0, 7, 2, 0, 0]
    assert plan.rows == 4 and plan.fill == 27 / 32


def test_no_target_is_padding_or_belongs_to_another_document():
    rows = packing.materialize(packing.plan([3, 2, 1], 8), np.array([1, 2, 3, 4, 5, 6]))
    batch = packing.shift(rows)
    assert batch["inputs"].tolist() == [[1, 2, 3, 4, 5, 6, 0]]
    assert batch["targets"].tolist() == [[2, 3, 4, 5, 6, 0, 0]]
    assert batch["weights"].tolist() == [[1, 1, 0, 1, 0, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 0], 8), "lengths must be at least 1, got 0 at 1"),
        (([3, -2], 8), "lengths must be at least 1, got -2 at 1"),
        (
            ([3, 9], 8),
            "lengths must be at most the capacity 8 (or overflow='split', 'drop' or "
            "'truncate'), got 9 at 1",
        ),
        (([1.5], 8), "lengths must be integers [n], got float64[1]"),
        (([3], 0), "capacity must be at least 1, got 0"),
        (([3], 8.5), "capacity must be an integer, got 8.5"),
        (((n for n in [3]), 8), "lengths must be integers [n], got generator"),
        (([[1, 2], [3]], 8), "lengths must be integers [n], got list"),
        (([2**61, 2**61], 8, "drop"), "lengths must sum to less than 2^62, got 4.61e+18"),
        (([2**40], 8, "split"), "must make fewer than 2^31 pieces, got 137438953472"),
    ],
)
def test_bad_lengths_are_refused_by_name(arguments, message):
    lengths, capacity, *overflow = arguments
    with pytest.raises(ValueError) as error:
        packing.plan(lengths, capacity, overflow=overflow[0] if overflow else "error")
    assert message in str(error.value)


def test_a_seed_and_ranks_are_checked():
    with pytest.raises(ValueError, match=r"seed must be a non-negative .* None, got 1\.5"):
        packing.plan([3], 8, seed=1.5)
    with pytest.raises(ValueError, match=r"ranks must be below 2\^24, got 16777216"):
        packing.plan([3], 8, ranks=2**24)


def test_tokens_must_be_as_many_as_planned():
    with pytest.raises(ValueError, match=r"tokens must be \[5\]"):
        packing.materialize(packing.plan([3, 2], 8), np.arange(4))


def test_no_lengths_give_no_rows():
    plan = packing.plan([], 8)
    assert plan.rows == 0 and packing.materialize(plan, np.array([], int))["tokens"].shape == (0, 8)


def test_every_array_of_a_row_by_hand():
    plan = packing.plan([3, 2, 1], 8, align=4)  # starts 0, 4, and a row of its own
    rows = packing.materialize(
        plan, np.arange(1, 7, dtype=np.int16), loss_mask=np.array([1, 1, 0, 1, 1, 1], bool)
    )
    assert {name: array.tolist() for name, array in rows.items()} == {
        "tokens": [[1, 2, 3, 0, 4, 5, 0, 0], [6, 0, 0, 0, 0, 0, 0, 0]],
        "tokens_segment_ids": [[1, 1, 1, 0, 2, 2, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]],
        "tokens_positions": [[0, 1, 2, 0, 0, 1, 0, 0], [0] * 8],
        "tokens_loss_mask": [[0, 1, 0, 0, 0, 1, 0, 0], [0] * 8],
        "tokens_cu_seqlens": [[0, 3, 5], [0, 1, 1]],
        "tokens_cu_seqlens_padded": [[0, 4, 6], [0, 1, 1]],
    }
    assert rows["tokens"].dtype == np.int16 and rows["tokens_loss_mask"].dtype == bool
    weights = packing.shift(rows)["weights"]
    assert weights.tolist() == [[1, 0, 0, 0, 1, 0, 0], [0] * 7]


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32", "int64", "complex128"])
def test_tokens_of_any_width(dtype):
    tokens = jnp.arange(1, 37).astype(dtype) if dtype == "bfloat16" else np.arange(1, 37)
    tokens = np.asarray(tokens, None if dtype == "bfloat16" else dtype).reshape(6, 3, 2)
    rows = packing.materialize(packing.plan([4, 2], 5), tokens)["tokens"]
    assert rows.dtype == tokens.dtype and rows.shape == (2, 5, 3, 2)
    assert (rows[0, :4] == tokens[:4]).all() and (rows[1, :2] == tokens[4:]).all()
    assert (rows[0, 4:] == 0).all() and (rows[1, 2:] == 0).all()


def test_a_row_has_as_many_boundaries_as_the_plan_allows_segments():
    rows = packing.materialize(packing.plan([1, 1], 8, max_segments=5), np.array([1, 2]))
    assert rows["tokens_cu_seqlens"].tolist() == [[0, 1, 2, 2, 2, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": [0, 2]}, "piece 1 of row 0 overlaps another"),
        ({"start": [0, 7]}, "piece 1 of row 0 reaches out of the row"),
        ({"source": [0, 4]}, "piece 1 of row 0 reaches out of the tokens"),
        ({"source": [-1, 3]}, "piece 0 of row 0 reaches out of the tokens"),
        ({"length": [3, 0]}, "piece 1 of row 0 reaches out of the row"),
        ({"row": [0, 1]}, "row must be in [0, 1), got 1 at 1"),
        ({"row": [0, -1]}, "row must be in [0, 1), got -1 at 1"),
    ],
)
def test_a_plan_that_was_tampered_with_is_refused(change, message):
    plan = packing.plan([3, 2], 8)
    plan = dataclasses.replace(plan, **{name: np.array(v) for name, v in change.items()})
    with pytest.raises(ValueError) as error:
        packing.materialize(plan, np.arange(5))
    assert message in str(error.value)


@pytest.mark.parametrize("overflow", ["split", "drop", "truncate"])
def test_a_list_of_documents_gives_the_rows_of_their_concatenation(overflow):
    lengths = np.random.default_rng(0).integers(1, 60, 40)
    tokens = np.random.default_rng(1).integers(1, 99, (lengths.sum(), 3)).astype(np.int16)
    mask = np.random.default_rng(2).random(len(tokens)) < 0.5
    plan = packing.plan(lengths, 32, overflow=overflow, seed=1)
    ends = np.cumsum(lengths)[:-1]
    want = packing.materialize(plan, tokens, loss_mask=mask)
    got = packing.materialize(plan, np.split(tokens, ends), loss_mask=np.split(mask, ends))
    assert want.keys() == got.keys()
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([[1, 2, 3], [4]], "tokens must be [5], the sum of the plan's lengths, got 4"),
        ([[1, 2], [3, 4, 5]], "piece 0 of row 0 reaches out of the tokens"),
        ([[1, 2, 3], [4.0, 5.0]], "parts must be int64[n], got float64[n] at 1"),
        ([[1, 2], [3, 4], [5]], "piece 0 of row 0 reaches out of the tokens"),
    ],
)
def test_documents_other_than_the_planned_are_refused(documents, message):
    with pytest.raises(ValueError) as error:
        packing.materialize(packing.plan([3, 2], 8), documents)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="an array of each sequence, got 2 arrays"):
        packing.materialize(packing.plan([3, 1, 1], 8), [np.arange(3), np.arange(2)])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((d for d in [[1, 2, 3]]), "tokens must be arrays [n, ...] of one kind: got generator"),
        (np.array([1, 2, None]), "tokens must be arrays [n, ...] of one kind: got object[3]"),
        ([[1, [2], 3]], "tokens must be arrays [n, ...] of one kind: setting an array element"),
        (None, "tokens must be arrays [n, ...] of one kind: got None"),
        (np.array(3), "of one kind: parts must be arrays, got a scalar at 0"),
    ],
)
def test_what_is_no_array_is_refused_by_name(tokens, message):
    with pytest.raises(ValueError) as error:
        packing.materialize(packing.plan([3], 8), tokens)
    assert message in str(error.value)


def test_features_and_rows_that_are_missing_are_named():
    plans = packing.plan({"a": [1], "b": [1]}, {"a": 4, "b": 4})
    with pytest.raises(ValueError, match=r"tokens must have \['b'\], got \['a'\]"):
        packing.materialize(plans, {"a": [[1]]})
    with pytest.raises(ValueError, match="tokens must map features, as the plan does, got list"):
        packing.materialize(plans, [[1]])
    with pytest.raises(ValueError, match=r"plan must be a packing\.Plan .*, got list"):
        packing.materialize([3], [1, 2, 3])
    with pytest.raises(ValueError, match=r"rows must have an array targets, got \['x'\]"):
        packing.shift({"x": np.ones(3)}, name="targets")


@pytest.mark.parametrize("width", [1, 3, 4])
def test_rows_larger_than_the_caches_equal_their_definition(width):
    rng, capacity = np.random.default_rng(width), 1999  # rows begin anywhere in a cache line
    length = rng.integers(1, capacity // 3, 2**26 // (width + 9) // 300)
    tokens = rng.integers(0, 256, (int(length.sum()), width)).astype(np.uint8)
    plan = packing.plan(length, capacity)
    assert plan.rows * capacity * (width + 9) > 2**26  # kPastCaches of core/fill.hpp
    rows = packing.materialize(plan, tokens)
    most = rows["tokens_cu_seqlens"].shape[1] - 1
    part = np.zeros_like(plan.sequence)
    want = pack.fill_rows.definition(
        [tokens], [], part, plan.source, plan.length, plan.row, plan.start,
        rows=plan.rows, capacity=capacity, max_segments=most,
    )  # fmt: skip
    for got, array in zip(rows.values(), want, strict=True):
        np.testing.assert_array_equal(got.reshape(array.shape), array)


def test_a_loss_mask_must_fit_the_tokens():
    with pytest.raises(
        ValueError, match=r"loss_mask must be bool\[5\] in the same arrays as tokens, 1, got int64"
    ):
        packing.materialize(packing.plan([3, 2], 8), np.arange(5), loss_mask=np.ones(5, int))
