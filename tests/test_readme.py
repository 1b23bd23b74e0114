"""The README's Python runs as it stands."""

import pathlib
import re

import flax
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    w = jax.random.normal(jax.random.key(0), (64, 32))
    documents = [np.arange(n) for n in (3000, 700, 5)]
    names = {"w": w, "params": {"dense": {"kernel": w}}, "documents": documents, "np": np}
    names["flax"] = flax
    seen = {}
    for block in blocks:
        exec(block, names)
        seen |= {name: names[name] for name in ("gradient", "mask") if name in names}
        if "mask" in names and "pruned" not in seen:
            seen["pruned"] = names["w"]
    gradient = seen["gradient"](w, jnp.ones((8, 64)))
    assert gradient.shape == w.shape and bool(jnp.isfinite(gradient).all())
    assert int((seen["pruned"] != 0).sum()) == w.size // 2
    assert int(seen["mask"].count()) == w.size // 2
    names["tx"].init({"w": w})
    assert names["layer"].init(jax.random.key(0), w)["params"]["kernel"].shape == (32, 512)
    assert (tmp_path / "model.safetensors").exists()
    assert names["q"].nbytes < w.nbytes / 6
    assert (names["rows"]["tokens_segment_ids"] > 0).sum() == sum(map(len, documents))
