"""What a stack of quantized layers keeps for its backward pass: `python -m bench.memory`.

    h[l + 1] = Q(h[l]) . Q(w[l])    for l in 0..15, by lax.scan; the loss is the mean of h^2

The unit is bytes of XLA's temporary memory, for the gradients of the weights and of the input, per
element of all layers' inputs: nothing depends on timing, so rows hold on any machine.

    python -m bench.memory                   every product
    python -m bench.memory packed            those whose name contains one of these
    python -m bench.memory --save            append the rows to bench/results/memory.jsonl
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

import bitlaw

RESULTS = pathlib.Path(__file__).parent / "results" / "memory.jsonl"
LAYERS, BATCH, WIDTH = 16, 2048, 512
DIMS = (((1,), (0,)), ((), ()))
ACTIVATIONS, WEIGHTS = "int4/row", "int4/channel"
# Bytes per element aimed at.
GOALS = {"packed": 1.2}


def products() -> dict[str, Callable]:
    """Name -> (h, w) -> their product."""
    found: dict[str, Callable] = {"dense": jnp.dot}
    found["fake_quantize"] = lambda h, w: jnp.dot(
        bitlaw.fake_quantize(h, ACTIVATIONS), bitlaw.fake_quantize(w, WEIGHTS)
    )
    for residual in ("packed", "full", "recompute"):
        found[residual] = functools.partial(
            bitlaw.dot_general,
            dimension_numbers=DIMS,
            lhs_spec=ACTIVATIONS,
            rhs_spec=WEIGHTS,
            residual=residual,
        )
    return found


def bytes_per_element(product: Callable) -> float:
    """Temporary bytes of the compiled gradient, over LAYERS x BATCH x WIDTH."""

    def loss(ws, h):
        h, _ = jax.lax.scan(lambda h, w: (product(h, w), None), h, ws)
        return (h * h).mean()

    shapes = (LAYERS, WIDTH, WIDTH), (BATCH, WIDTH)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (LAYERS * BATCH * WIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="products whose name contains one of these")
    parser.add_argument("--save", action="store_true", help="append to bench/results/memory.jsonl")
    options = parser.parse_args()
    for name, product in products().items():
        if options.names and not any(part in name for part in options.names):
            continue
        row = {"case": name, "bytes_per_element": round(bytes_per_element(product), 3)}
        row |= {"jax": jax.__version__, "bitlaw": importlib.metadata.version("bitlaw")}
        missed = row["bytes_per_element"] > GOALS.get(name, float("inf"))
        text = f"{name:16s} {row['bytes_per_element']:6.3f} bytes per element"
        print(text + (f"  GOAL MISSED (> {GOALS[name]})" if missed else ""), flush=True)
        if options.save:
            with RESULTS.open("a") as out:
                out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
