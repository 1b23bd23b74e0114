"""A grain pipeline packs, batches and resumes."""

import json

import numpy as np
import pytest

from bitlaw import packing

grain = pytest.importorskip("grain", reason="the grain extra")

DOCUMENTS = [
    np.arange(at, at + n, dtype=np.int32)
    for at, n in zip(range(1, 10_000, 100), np.random.default_rng(0).integers(1, 33, 90))  # noqa: B905
]


def dataset(**options):
    from bitlaw.packing.grain import PackIterDataset

    source = grain.MapDataset.source([{"tokens": d} for d in DOCUMENTS]).shuffle(3)
    return PackIterDataset(source.to_iter_dataset(), 32, 4, chunk=11, **options)


def test_every_document_is_in_one_row():
    rows = list(dataset())
    packing.verify(
        {name: np.stack([row[name] for row in rows]) for name in rows[0]}, sequences=DOCUMENTS
    )
    (batch, *_) = dataset().batch(3)
    assert batch["tokens"].shape == (3, 32)


@pytest.mark.parametrize("taken", [0, 1, 17, 30])
def test_an_iterator_resumes_exactly(taken):
    whole, first = list(dataset()), iter(dataset())
    for _ in range(taken):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    second = iter(dataset())
    next(second)
    second.set_state(state)
    left = list(second)
    assert len(left) == len(whole) - taken
    for row, other in zip(whole[taken:], left, strict=True):
        for name in row:
            np.testing.assert_array_equal(row[name], other[name])


def test_bad_options_are_refused_before_the_first_row():
    with pytest.raises(ValueError, match="overflow must be error, drop, split or truncate"):
        dataset(overflow="cut")
