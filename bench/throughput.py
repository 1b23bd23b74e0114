"""Training throughput of the gpu preset's models: `python -m bench.throughput --device cuda`.

Tokens and operations per second of whole chunks of steps, data included, for one seed and for
ensembles: what the preset's plan of time and its ensembles rest on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from bench import machine
from bitlaw.formats import Scheme
from bitlaw.models.count import flops_per_token, n_params
from bitlaw.models.layers import Structure, grids_of
from bitlaw.models.lm import ModelConfig
from bitlaw.studies.presets import GPU_BATCH, GPU_SIZES
from bitlaw.studies.run import GPU_FLOPS
from bitlaw.train import step

RESULTS = pathlib.Path(__file__).parent / "results" / "throughput.jsonl"
SCHEMES = ("dense", "w=quest4/channel a=quest4/row")
MEMBERS = (1, 2, 4)


def chunk(model: ModelConfig, batch: int, members: int) -> dict[str, np.ndarray]:
    """Random bytes, each row one document."""
    ensemble = (members,) if members > 1 else ()
    shape = (step.CHUNK, *ensemble, batch, model.context)
    text = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return {
        "inputs": text,
        "targets": np.roll(text, -1, axis=-1),
        "segment_ids": np.ones(shape, np.uint16),
        "positions": np.broadcast_to(np.arange(model.context, dtype=np.uint16), shape).copy(),
        "weights": np.ones(shape, np.float32),
    }


def measure(model: ModelConfig, scheme: str, members: int, batch: int, chunks: int) -> dict:
    """One row; the first chunk, which compiles, is not counted."""
    parsed = Scheme.parse(scheme)
    structure, grids = Structure.of(parsed), grids_of(parsed)
    states = [step.fresh_state(step.fresh_params(seed, model)) for seed in range(members)]
    state = jax.tree.map(lambda *x: jnp.stack(x), *states) if members > 1 else states[0]
    batches, rates = chunk(model, batch, members), np.full(step.CHUNK, 1e-4, np.float32)
    for count in range(chunks + 1):
        if count == 1:
            began = time.perf_counter()
        state, _ = step.train_chunk(state, batches, rates, model, structure, grids)
    seconds = (time.perf_counter() - began) / chunks
    rate = step.CHUNK * members * batch * model.context / seconds
    flops = rate * flops_per_token(model)
    case = f"train d{model.width} x{model.depth} {model.compute} {scheme} members={members}"
    return {
        "case": case,
        "n_params": n_params(model),
        "ms_per_step": round(1e3 * seconds / step.CHUNK, 3),
        "tokens_per_second": round(rate),
        "tflops": round(flops / 1e12, 2),
        "share_of_peak": round(flops / GPU_FLOPS, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--widths", type=int, nargs="*", help="of the preset's sizes; default: all")
    parser.add_argument("--schemes", nargs="*", default=SCHEMES)
    parser.add_argument("--members", type=int, nargs="*", default=MEMBERS, help="seeds at a time")
    parser.add_argument("--batch", type=int, default=GPU_BATCH, help="rows")
    parser.add_argument("--chunks", type=int, default=3, help=f"of {step.CHUNK} steps, timed")
    parser.add_argument("--save", action="store_true", help=f"append to {RESULTS.name}")
    options = parser.parse_args()
    try:
        device = jax.devices(options.device)[0]
    except RuntimeError:
        parser.error(f"--device {options.device} needs one, found: {jax.default_backend()}")
    with jax.default_device(jax.devices("cpu")[0]):
        here = machine.describe() | {"device": device.device_kind}
    sizes = [size for size in GPU_SIZES if not options.widths or size.width in options.widths]
    with jax.default_device(device):
        for size in sizes:
            model = dataclasses.replace(size.model, compute="bfloat16")
            for scheme in options.schemes:
                for members in options.members:
                    row = measure(model, scheme, members, options.batch, options.chunks)
                    print(json.dumps(row), flush=True)
                    if options.save:
                        with RESULTS.open("a") as out:
                            out.write(json.dumps({"machine": here, **row}) + "\n")


if __name__ == "__main__":
    main()
