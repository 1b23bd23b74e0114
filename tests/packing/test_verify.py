"""A good batch passes; each way to spoil one is named with its row and column."""

import numpy as np
import pytest

from bitlaw import packing

DOCUMENTS = [np.array([1, 2, 3]), np.array([4, 5]), np.array([6, 7, 8, 9])]


def good(**options):
    plan = packing.plan([3, 2, 4], 8, **options)  # 6 7 8 9 1 2 3 . | 4 5
    return packing.materialize(plan, np.concatenate(DOCUMENTS))


@pytest.mark.parametrize("options", [{}, {"align": 4}, {"ranks": 4}, {"max_segments": 3}])
def test_a_good_batch_passes(options):
    packing.verify(good(**options), sequences=DOCUMENTS)
    packing.verify(packing.shift(good(**options)))


SPOILED = [
    ("tokens_segment_ids", 0, 1, -1, "row 0, column 1: a segment id is negative"),
    ("tokens_segment_ids", 0, 6, 1, "row 0, column 6: a segment comes back after another"),
    ("tokens_segment_ids", 0, 2, 0, "row 0, column 2: a position of padding is not 0"),
    ("tokens_segment_ids", 1, 0, 2, "row 1, column 0: a segment's number is not the next"),
    ("tokens_segment_ids", 0, 6, 3, "row 0, column 6: a segment's first position is not 0"),
    ("tokens_segment_ids", 0, 4, 1, "row 0, column 4: a position is not one more than the last"),
    ("tokens_positions", 0, 4, 4, "row 0, column 4: a segment's first position is not 0"),
    ("tokens_positions", 0, 2, 9, "row 0, column 2: a position is not one more than the last"),
    ("tokens_positions", 1, 5, 1, "row 1, column 5: a position of padding is not 0"),
    ("tokens", 1, 2, 7, "row 1, column 2: tokens holds a token where the segment id says padding"),
    ("tokens_loss_mask", 1, 2, True, "row 1, column 2: the loss counts padding"),
    ("tokens_loss_mask", 0, 4, True, "row 0, column 4: the loss counts the first token of a segm"),
    ("tokens_cu_seqlens", 0, 1, 3, "row 0, column 1 of tokens_cu_seqlens: the segments say [0, 4"),
    ("tokens_cu_seqlens_padded", 1, 2, 3, "row 1, column 2 of tokens_cu_seqlens_padded: the segm"),
]


@pytest.mark.parametrize(("name", "row", "column", "value", "message"), SPOILED)
def test_a_spoiled_row_is_named(name, row, column, value, message):
    rows = good()
    rows[name][row, column] = value
    with pytest.raises(ValueError) as error:
        packing.verify(rows)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "row", "column", "value", "message"),
    [
        ("weights", 0, 3, 1, "row 0, column 3: a target belongs to another document than its"),
        ("weights", 0, 6, np.nan, "row 0, column 6: a weight is negative or not finite"),
        ("weights", 1, 4, 1, "row 1, column 4: the loss counts padding"),
        ("weights", 1, 1, 1, "row 1, column 1: a target belongs to another document than its inp"),
        ("targets", 0, 1, 3, "row 0, column 1: a target is not the next input"),
        ("positions", 0, 0, 1, "row 0, column 0: a segment's first position is not 0"),
    ],
)
def test_a_spoiled_target_is_named(name, row, column, value, message):
    batch = {key: array.copy() for key, array in packing.shift(good()).items()}
    batch[name][row, column] = value
    with pytest.raises(ValueError) as error:
        packing.verify(batch)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (DOCUMENTS[:2], "row 0, column 0: segment 1 is none of the sequences"),
        ([*DOCUMENTS, [4, 5]], "the rows must hold every sequence, got 1 of them in none"),
        ([[1, 2, 4], *DOCUMENTS[1:]], "row 0, column 4: segment 2 is none of the sequences"),
    ],
)
def test_a_lost_or_strange_document_is_named(documents, message):
    with pytest.raises(ValueError) as error:
        packing.verify(good(), sequences=documents)
    assert message in str(error.value)


def test_missing_and_misshapen_arrays_are_named():
    with pytest.raises(ValueError, match="batch must have inputs, got"):
        packing.verify({"tokens": np.zeros((1, 4), int)})
    rows = good()
    with pytest.raises(ValueError, match=r"tokens_positions must be \[2, 8\], got \[2, 7\]"):
        packing.verify(rows | {"tokens_positions": rows["tokens_positions"][:, 1:]})
    batch = packing.shift(rows)
    del batch["weights"]
    with pytest.raises(ValueError, match=r"tokens_positions must be integers .*, got float64"):
        packing.verify(rows | {"tokens_positions": rows["tokens_positions"] * 1.0})
    with pytest.raises(ValueError, match="batch must be a mapping of arrays, got list"):
        packing.verify([rows])
    with pytest.raises(ValueError, match="batch must have weights"):
        packing.verify(batch)


def test_a_batch_without_rows_passes():
    packing.verify(packing.materialize(packing.plan([], 8), np.zeros(0, int)))
