"""A corpus of a few thousand bytes: words of different lengths, in 60 documents."""

import numpy as np
import pytest

from bitlaw.train import data


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("corpus")
    for i in range(60):
        words = rng.choice(["one", "three", "eleven", "a", "\n"], size=rng.integers(1, 120))
        (folder / f"{i}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture(scope="session")
def corpus(folder):
    return data.load([folder], context=16, validation_bytes=256)
