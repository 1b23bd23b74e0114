"""The README's Python runs as it stands."""

import pathlib
import re

import jax
import jax.numpy as jnp

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def test_the_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    w = jax.random.normal(jax.random.key(0), (64, 32))
    names = {"w": w}
    for block in blocks:
        exec(block, names)
    gradient = names["gradient"](w, jnp.ones((8, 64)))
    assert gradient.shape == w.shape and bool(jnp.isfinite(gradient).all())
    assert int((names["w"] != 0).sum()) == w.size // 2
    assert int(names["mask"].count()) == w.size // 2
    names["tx"].init({"w": w})
