"""What a scheme adds to a training step, against dense in the same run: `python -m bench.train`.

One step of AdamW on a decoder of width 512, a program per scheme, in turns; the overhead is the
median over rounds of the ratio to dense in the same round.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import jax
import numpy as np

from bench import machine
from bitlaw.formats import Scheme
from bitlaw.models.layers import Structure, grids_of
from bitlaw.models.lm import ModelConfig
from bitlaw.train import step

RESULTS = pathlib.Path(__file__).parent / "results" / "train.jsonl"
MODEL = ModelConfig(width=512, depth=4, heads=8, kv_heads=8, context=128)
BATCH = 8
# Scheme -> the largest overhead that is the goal; None where there is none.
GOALS = {
    "dense": None,
    "w=int4/channel": 0.05,
    "w=int4/channel a=int4/row": 0.12,
    "w=quest4/channel a=quest4/row": None,
    "w=mxfp4 a=mxfp4": None,
    "w=nvfp4 a=nvfp4": None,
    "w=int4/channel/learned a=int8/learned": None,
    "w=mxfp4 a=mxfp4 g=fp8/stochastic": None,
}


def batch_rows() -> dict[str, np.ndarray]:
    """One batch of random bytes, each row one document."""
    shape = (1, BATCH, MODEL.context)
    text = np.random.default_rng(0).integers(0, 256, (1, BATCH, MODEL.context + 1)).astype(np.uint8)
    return {
        "inputs": text[..., :-1],
        "targets": text[..., 1:],
        "segment_ids": np.ones(shape, np.uint16),
        "positions": np.broadcast_to(np.arange(MODEL.context, dtype=np.uint16), shape).copy(),
        "weights": np.ones(shape, np.float32),
    }


class Trainer:
    """One scheme's compiled step; a call does one step and waits for it."""

    def __init__(self, scheme: str) -> None:
        parsed = Scheme.parse(scheme)
        self.structure, self.grids = Structure.of(parsed), grids_of(parsed)
        self.batches = batch_rows()
        params = step.fresh_params(0, MODEL)
        self.state = step.fresh_state(
            step.with_quantizers(params, self.batches, MODEL, self.structure, self.grids)
        )
        self()

    def __call__(self) -> float:
        """Seconds."""
        rates, keys = np.full(1, 1e-4, np.float32), step.step_keys(0, 0, 1)
        began = time.perf_counter()
        self.state, _ = step.train_chunk(
            self.state, self.batches, rates, MODEL, self.structure, self.grids, keys
        )
        jax.block_until_ready(self.state)
        return time.perf_counter() - began


def measure(schemes: list[str], rounds: int) -> list[dict]:
    """One row per scheme."""
    trainers = {scheme: Trainer(scheme) for scheme in schemes}
    seconds: dict[str, list[float]] = {scheme: [] for scheme in schemes}
    for _ in range(rounds):
        for scheme, trainer in trainers.items():
            seconds[scheme].append(trainer())
    dense = np.array(seconds["dense"])
    rows = []
    for scheme, times in seconds.items():
        overhead = float(np.median(np.array(times) / dense) - 1)
        fastest = min(times) / min(dense) - 1
        goal = GOALS.get(scheme)
        missed = goal is not None and overhead > goal
        rows.append(
            {
                "case": f"train step d{MODEL.width} x{MODEL.depth} {scheme}",
                "ms": round(1e3 * float(np.median(times)), 2),
                "overhead": round(overhead, 4),
                "overhead_of_fastest": round(float(fastest), 4),
                "missed": {"dense": f"{overhead:.3f} > {goal}"} if missed else {},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("schemes", nargs="*", help="besides dense; default: all with a row")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="append to bench/results/train.jsonl")
    options = parser.parse_args()
    here = machine.describe()
    print(json.dumps(here))
    schemes = list(dict.fromkeys(["dense", *(options.schemes or GOALS)]))
    for row in measure(schemes, options.rounds):
        print(
            f"{row['case']:64s} {row['ms']:8.1f} ms  {row['overhead']:+7.1%} over dense "
            f"({row['overhead_of_fastest']:+.1%} fastest)"
            + "".join(f"  GOAL MISSED ({why})" for why in row["missed"].values()),
            flush=True,
        )
        if options.save:
            with RESULTS.open("a") as out:
                out.write(json.dumps({"machine": here, **row}) + "\n")


if __name__ == "__main__":
    main()
