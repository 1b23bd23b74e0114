"""Padded and packed rows of the same examples: one loss, one gradient, and the sets they are of."""

import jax
import numpy as np
import pytest

from bitlaw.models.lm import ModelConfig
from bitlaw.models.vit import ViTConfig
from bitlaw.train import data, glyphs, layouts

MODEL = ModelConfig(width=8, depth=1, context=31)


@pytest.fixture(scope="module")
def letters():
    return glyphs.load((10, 14))


def texts():
    rng = np.random.default_rng(0)
    documents = [bytes(rng.integers(0, 256, n).tolist()) for n in rng.integers(2, 33, 40)]
    return layouts.text(documents, documents[:5], MODEL)


def pictures(letters):
    config = ViTConfig(8, 1, 16, len(glyphs.CHARACTERS))
    return layouts.pictures(letters, config, patch=4, capacity=16)


def test_both_layouts_of_a_step_have_one_loss_and_one_gradient():
    examples = texts()
    params = examples.init(jax.random.key(0))
    params["head"] = jax.random.normal(jax.random.key(1), params["head"].shape)
    chosen = examples.chosen(0, 0, 10)
    found = {}
    for layout in layouts.LAYOUTS:
        batch = examples.batch(chosen, layouts.planning(layout))
        assert len(batch["weights"]) == 10 or layout == layouts.PACKED
        loss = jax.jit(jax.value_and_grad(examples.loss, has_aux=True))
        (summed, count), gradient = loss(params, batch)
        leaves = [np.ravel(x) for x in jax.tree.leaves(gradient)]
        found[layout] = np.concatenate([[summed, count], *leaves])
    padded, packed = found[layouts.PADDED], found[layouts.PACKED]
    assert padded[1] == packed[1] == examples.lengths[chosen].sum() - 10
    # The same sums in another order: some ulp of the largest.
    np.testing.assert_allclose(packed, padded, rtol=1e-4, atol=1e-5 * np.abs(padded).max())


def test_the_layouts_train_alike_and_every_step_is_told(letters):
    examples = pictures(letters)
    chosen = [examples.chosen(3, step, 12) for step in range(4)]
    *steps, results = layouts.alternate(examples, chosen, seed=3, learning_rate=0.01)
    assert [s.layout for s in steps[:4]] == ["packed", "padded", "padded", "packed"]
    for which, pair in zip(chosen, zip(*[iter(steps)] * 2, strict=True), strict=True):
        assert {s.tokens for s in pair} == {examples.lengths[which].sum()}
        assert pair[0].loss == pytest.approx(pair[1].loss, rel=1e-5)  # rounding, four steps of it
        positions = {s.layout: s.positions for s in pair}
        assert positions["padded"] == 12 * 16 > positions["packed"]
    assert results["packed"].loss == pytest.approx(results["padded"].loss, rel=1e-5)
    assert steps[0].loss == pytest.approx(np.log(62), rel=1e-5)  # the head starts at zero


def test_steps_take_every_example_once_per_epoch():
    examples = texts()
    epochs = [[examples.chosen(1, 5 * e + s, 8) for s in range(5)] for e in range(2)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(40))
    assert not np.array_equal(epochs[0], epochs[1])


def test_glyphs_are_the_ink_of_every_character_in_every_face(letters):
    images, labels = letters.train
    held_out = len(letters.validation[0])
    assert len(images) + held_out == 2 * len(glyphs.faces()) * len(glyphs.CHARACTERS)
    assert 0.05 < held_out / len(images) < 0.2
    assert len(glyphs.faces()) >= 20 and set(labels) == set(range(62))
    for image in images:  # cropped: ink on all four sides
        assert all(edge.any() for edge in (image[0], image[-1], image[:, 0], image[:, -1]))
        assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
    names = np.array([*glyphs.CHARACTERS])[labels]
    height = {c: np.mean([images[i].shape[0] for i in np.flatnonzero(names == c)]) for c in "xl"}
    assert height["l"] > 1.2 * height["x"]  # native aspect ratios


def test_functions_are_cut_at_definitions(monkeypatch):
    source = b"import os\n\ndef f():\n    pass\n\nclass A:\n    def g(self):\n        return 1\n"
    other = b"async def h():\n    " + b"x" * 100
    monkeypatch.setattr(data, "stdlib", lambda: iter([("a.py", source), ("b.py", other + source)]))
    monkeypatch.setattr(data, "_is_validation", lambda name: name == "b.py")
    train, held_out = data.functions(60)
    assert b"".join(train) == source
    assert train == [
        b"import os\n\n",
        b"def f():\n    pass\n\n",
        b"class A:\n",
        b"    def g(self):\n        return 1\n",
    ]
    assert held_out == []  # too long, or trained on
