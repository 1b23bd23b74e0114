"""Streams: nothing lost, the same rows however they are pushed, and an exact resume."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitlaw import packing
from bitlaw.ops import op

DOCUMENTS = st.lists(st.integers(1, 20), max_size=60)


def documents(lengths):
    """Sequences of which no two tokens are alike."""
    ends = np.cumsum(lengths, dtype=int)
    return [np.arange(end - n, end, dtype=np.int32) + 1 for end, n in zip(ends, lengths)]  # noqa: B905


def same(rows, others):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            np.testing.assert_array_equal(row[name], other[name])


def stacked(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_the_fullest_row_makes_way_by_hand():
    stream = packing.Stream(10, bins=2)
    assert stream.push([6, 7]).rows == 0
    plan = stream.push([5])  # neither has room: the row with 7 goes, the one with 6 stays
    assert plan.sequence.tolist() == [1] and plan.source.tolist() == [6]
    plan = stream.push([4, 1, 5])  # 4 fills the 6: closed at once; 1 to the 5, then 5 in a new row
    assert plan.rows == 1 and plan.sequence.tolist() == [0, 3] and plan.start.tolist() == [0, 6]
    plan = stream.flush()
    assert plan.rows == 2 and plan.sequence.tolist() == [2, 4, 5]
    assert plan.row.tolist() == [0, 0, 1] and plan.start.tolist() == [0, 5, 0]
    assert stream.flush().rows == 0 and stream.sequences == 6


@given(DOCUMENTS, st.integers(1, 5), st.sampled_from([None, 2]), st.sampled_from([1, 4]))
def test_no_document_is_lost_or_doubled(lengths, bins, max_segments, align):
    stream = packing.Stream(20, bins, max_segments=max_segments, align=align)
    rows = list(stream.pack(documents(lengths), chunk=7))
    if rows:
        packing.verify(stacked(rows), sequences=documents(lengths))
    else:
        assert not lengths


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS, st.integers(1, 30), st.integers(1, 30))
def test_portions_change_no_row(lengths, one, other):
    rows = [list(packing.Stream(20, 3).pack(documents(lengths), chunk=n)) for n in (one, other)]
    same(*rows)


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS, st.integers(0, 40), st.integers(1, 9))
def test_a_resumed_iterator_gives_the_rows_that_were_left(lengths, taken, chunk):
    whole = list(packing.Stream(20, 3).pack(documents(lengths), chunk=chunk))
    first = packing.Stream(20, 3).pack(documents(lengths), chunk=chunk)
    rows = list(itertools.islice(first, taken))
    state = json.loads(json.dumps(first.state_dict()))
    second = packing.Stream(20, 3).pack(documents(lengths)[state["sequences"] :], chunk=chunk)
    second.load_state_dict(state)
    same(whole[len(rows) :], list(second))


def test_a_stream_of_lengths_resumes_exactly():
    lengths = np.random.default_rng(0).integers(1, 65, 500)
    one = packing.Stream(64, 8)
    one.push(lengths[:300])
    two = packing.Stream(64, 8)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for a, b in [(one.push(lengths[300:]), two.push(lengths[300:])), (one.flush(), two.flush())]:
        for name in ("sequence", "source", "length", "row", "start"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_64_bins_fill_99_percent():
    lengths = np.random.default_rng(0).lognormal(6, 1, 20_000).clip(1, 2048).astype(int)
    stream = packing.Stream(2048, 64)
    plans = [stream.push(lengths), stream.flush()]
    assert lengths.sum() / (sum(plan.rows for plan in plans) * 2048) > 0.99


@pytest.mark.parametrize("overflow", ["drop", "split", "truncate"])
def test_overflow_is_counted(overflow):
    stream = packing.Stream(4, 2, overflow=overflow)
    rows = list(stream.pack(documents([3, 9, 2])))
    tokens = sorted(np.concatenate([row["tokens"] for row in rows]))
    kept = {"drop": [1, 2, 3, 13, 14], "truncate": [1, 2, 3, 4, 5, 6, 7, 13, 14]}
    assert [t for t in tokens if t] == kept.get(overflow, list(range(1, 15)))
    assert (stream.dropped, stream.split, stream.truncated) == {
        "drop": (1, 0, 0), "split": (0, 1, 0), "truncate": (0, 0, 1)
    }[overflow]  # fmt: skip


def test_pieces_of_long_documents_resume_exactly():
    lengths = np.random.default_rng(0).integers(1, 50, 80)
    make = lambda: packing.Stream(16, 4, overflow="split")
    whole = list(make().pack(documents(lengths), chunk=9))
    first = make().pack(documents(lengths), chunk=9)
    rows = list(itertools.islice(first, 40))
    state = json.loads(json.dumps(first.state_dict()))
    second = make().pack(documents(lengths)[state["sequences"] :], chunk=9)
    second.load_state_dict(state)
    same(whole[len(rows) :], list(second))
    tokens = np.sort(np.concatenate([row["tokens"] for row in whole]))
    np.testing.assert_array_equal(tokens[tokens > 0], np.arange(lengths.sum()) + 1)


def test_rows_of_several_fills_are_those_of_one(monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 20, 300)
    whole = list(packing.Stream(32, 4).pack(documents(lengths)))
    monkeypatch.setattr(packing.stream, "_TOGETHER", 96)
    same(whole, list(packing.Stream(32, 4).pack(documents(lengths))))


def test_a_stream_with_open_rows_packs_nothing():
    stream = packing.Stream(8, 2)
    stream.push([3])
    with pytest.raises(ValueError, match="stream must have no open rows, got 1 open pieces"):
        stream.pack(documents([2]))


def test_an_array_that_is_kept_is_never_written_to_again(monkeypatch):
    monkeypatch.setattr(packing.stream, "_TOGETHER", 200)  # two rows
    monkeypatch.setattr(op, "_LARGE", 1)
    sequences = documents(np.random.default_rng(0).integers(1, 100, 500))
    kept = []
    for i, row in enumerate(packing.Stream(100, 8).pack(sequences)):
        if i % 3 == 0:
            kept.append((row["tokens"], row["tokens"].copy()))
    assert len(kept) > 50
    for array, copy in kept:
        np.testing.assert_array_equal(array, copy)


def test_lists_and_strided_arrays_are_packed_as_arrays_are():
    rows = packing.Stream(4, 1).pack([[1, 2], [3]])
    assert [row["tokens"].tolist() for row in rows] == [[1, 2, 3, 0]]
    strided = np.arange(12)[::3], np.arange(8).reshape(4, 2)[:, 1]
    rows = packing.Stream(8, 1).pack(strided)
    assert [row["tokens"].tolist() for row in rows] == [[0, 3, 6, 9, 1, 3, 5, 7]]


def test_mappings_and_boundaries():
    rows = packing.Stream(8, 2, max_segments=3).pack([{"tokens": d} for d in documents([3, 4])])
    (row,) = rows
    assert row["tokens"].tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    assert row["tokens_cu_seqlens"].tolist() == [0, 3, 7, 7]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 0], "lengths must be at least 1, got 0 at 1"),
        ([3, -1], "lengths must be at least 1, got -1 at 1"),
        ([9], "lengths must be at most the capacity 8"),
        ([1.5], "lengths must be integers"),
    ],
)
def test_bad_lengths_are_refused_and_place_nothing(lengths, message):
    stream = packing.Stream(8, 2)
    with pytest.raises(ValueError, match=message):
        stream.push(lengths)
    assert stream.sequences == 0 and stream.flush().rows == 0


def test_bad_arguments_are_refused_by_name():
    for arguments, options, message in [
        ((0,), {}, "capacity must be at least 1, got 0"),
        ((8, 0), {}, "bins must be at least 1, got 0"),
        ((8,), {"align": 0}, "align must be at least 1, got 0"),
        ((8.0,), {}, "capacity must be an integer, got 8.0"),
        ((8,), {"max_segments": 0}, "max_segments must be at least 1, got 0"),
        ((8,), {"overflow": "cut"}, "overflow must be error, drop, split or truncate"),
    ]:
        with pytest.raises(ValueError, match=message):
            packing.Stream(*arguments, **options)
    with pytest.raises(ValueError, match="capacity must be that of the state, 8, got 16"):
        packing.Stream(16).load_state_dict(packing.Stream(8).state_dict())
    with pytest.raises(ValueError, match="bins must be those of the state, 4, got 8"):
        packing.Stream(8, 8).load_state_dict(packing.Stream(8, 4).state_dict())
    with pytest.raises(ValueError, match=r"sequences must be arrays \[n, .* got a scalar at 0"):
        list(packing.Stream(8).pack([3]))
    with pytest.raises(ValueError, match=r"must be int32\[n\], got float32\[n\] at 1"):
        list(packing.Stream(8).pack([np.ones(2, np.int32), np.ones(2, np.float32)]))
    with pytest.raises(ValueError, match=r"sequences must have tokens, got \['x'\]"):
        list(packing.Stream(8).pack([{"x": [1]}]))
    with pytest.raises(ValueError, match=r"sequences must be arrays \[n, .* got object\[2\]"):
        list(packing.Stream(8).pack([np.array([1, None])]))
    with pytest.raises(ValueError, match="sequences must be an iterable of arrays, got int"):
        packing.Stream(8).pack(3)
    with pytest.raises(ValueError, match=r"bins must be below 2\^24"):
        packing.Stream(8, 2**24)
    with pytest.raises(ValueError, match=r"state must have state, open, .* got \[\]"):
        packing.Stream(8).load_state_dict({})
    packed = packing.Stream(8, 1).pack(documents([5, 5, 5]))
    next(packed)
    other = packing.Stream(8, 1).pack([])
    with pytest.raises(ValueError, match="sequences must go on behind number 0, got too few"):
        other.load_state_dict(packed.state_dict())
