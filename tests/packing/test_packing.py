"""Nothing is lost, duplicated or overlapped in packing; targets stay inside their document."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlaw import packing


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


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_first_fit_decreasing_meets_its_bound(lengths):
    rows = packing.plan(lengths, 100).rows
    least = math.ceil(sum(lengths) / 100)
    # 11/9 OPT + 6/9 (Dosa, 2007); OPT is at least `least` and at least the pairs that exclude.
    opt = max(least, sum(length > 50 for length in lengths))
    assert opt <= rows
    if rows > 11 / 9 * opt + 6 / 9:
        assert rows <= 11 / 9 * best(lengths) + 6 / 9


def best(lengths):
    """The fewest rows, by branch and bound."""
    lengths = sorted(lengths, reverse=True)
    fewest = len(lengths)

    def place(i, room):
        nonlocal fewest
        if len(room) >= fewest:
            return
        if i == len(lengths):
            fewest = len(room)
            return
        for r in {room.index(x) for x in room if x >= lengths[i]}:
            place(i + 1, [*room[:r], room[r] - lengths[i], *room[r + 1 :]])
        place(i + 1, [*room, 100 - lengths[i]])

    place(0, [])
    return fewest


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
    ],
)
def test_bad_lengths_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError) as error:
        packing.plan(*arguments)
    assert message in str(error.value)


def test_tokens_must_be_as_many_as_planned():
    with pytest.raises(ValueError, match=r"tokens must be \[5\]"):
        packing.materialize(packing.plan([3, 2], 8), np.arange(4))


def test_no_lengths_give_no_rows():
    plan = packing.plan([], 8)
    assert plan.rows == 0 and packing.materialize(plan, np.array([], int))["tokens"].shape == (0, 8)
