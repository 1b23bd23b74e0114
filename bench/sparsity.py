"""Benchmarks of selection and of pruned optimizer steps: check, then time, rivals in the same run.

    python -m bench.sparsity                 all
    python -m bench.sparsity global          the rows whose name contains one of these
    python -m bench.sparsity --save          append the rows to bench/results/sparsity.jsonl

All contenders of a row are timed in turn, round by round; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bitlaw
from bench import machine
from bitlaw import sparsity
from bitlaw.sparsity import Cubic, OneShot

RESULTS = pathlib.Path(__file__).parent / "results" / "sparsity.jsonl"
SIZES = (10**6, 10**7, 10**8)
STEP_PARAMS = 100_000_000

Row = dict
Calls = dict[str, Callable[[], None]]


def normal(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n, np.float32)


def selection(n: int) -> Calls:
    """Scores, selection and mask of the 10 % largest of n."""
    x, keep = normal(n), n // 10
    on_device = jnp.asarray(x)
    parts = {f"w{i}": part for i, part in enumerate(jnp.split(on_device, 8))}
    ours = jax.jit(lambda x: bitlaw.top_k_mask(x, keep).bits)
    tree = jax.jit(lambda t: [m.bits for m in sparsity.masks_keeping(t, keep).values()])
    want = by_partition(x, keep)
    np.testing.assert_array_equal(np.unpackbits(ours(on_device), bitorder="little")[:n], want)
    got = np.concatenate([np.unpackbits(b, bitorder="little")[: n // 8] for b in tree(parts)])
    np.testing.assert_array_equal(got, want)
    total = jax.jit(lambda x: jnp.sum(x))
    calls = {
        "top_k_mask": lambda: ours(on_device).block_until_ready(),
        "global_masks": lambda: jax.block_until_ready(tree(parts)),
        "one read (sum)": lambda: total(on_device).block_until_ready(),
        "np.partition": lambda: by_partition(x, keep),
    }
    if n <= 10**7:
        sort = jax.jit(lambda x: jnp.abs(x) >= jnp.sort(jnp.abs(x))[n - keep])
        calls["jnp.sort"] = lambda: sort(on_device).block_until_ready()
    return calls


def by_partition(x: np.ndarray, keep: int) -> np.ndarray:
    a = np.abs(x)
    return a >= np.partition(a, len(a) - keep)[len(a) - keep]


def pattern(n: int = 4096) -> Calls:
    """2:4 of n x n, beside one read of it."""
    x = jnp.asarray(normal(n * n).reshape(n, n))
    ours = jax.jit(lambda x: bitlaw.nm_mask(x, 2, 4).bits)
    both = jax.jit(lambda x: sparsity.transposable_mask(x, 2, 4).bits)
    total = jax.jit(lambda x: jnp.sum(x))
    return {
        "nm_mask 2:4": lambda: ours(x).block_until_ready(),
        "transposable_mask 2:4": lambda: both(x).block_until_ready(),
        "one read (sum)": lambda: total(x).block_until_ready(),
    }


def steps(n: int) -> Calls:
    """One AdamW step of n parameters in 24 matrices: bare, pruned between updates, and at one."""
    rows = n // 24 // 2048
    start = jnp.asarray(normal(rows * 2048).reshape(rows, 2048))
    bare = optax.adamw(1e-3)
    wrapped = sparsity.pruned(bare, OneShot(0.75, 10**6))
    always = sparsity.pruned(bare, Cubic(0.75, 1, 60))
    gradients = {f"w{i}": start * 0.1 for i in range(24)}

    def stepper(tx):
        p = {name: start + i for i, name in enumerate(gradients)}
        box = [p, tx.init(p)]

        def step(p, state, gradients):
            updates, state = tx.update(gradients, state, p)
            return optax.apply_updates(p, updates), state

        run = jax.jit(step, donate_argnums=(0, 1))

        def call():
            box[:] = jax.block_until_ready(run(*box, gradients))

        return call

    return {
        "adamw": stepper(bare),
        "pruned between updates": stepper(wrapped),
        "pruned at an update": stepper(always),
    }


def rows() -> Iterator[tuple[str, Callable[[], Calls]]]:
    for n in SIZES:
        yield f"selection 10 % of {n:.0e}", lambda n=n: selection(n)
    yield "pattern 4096x4096", pattern
    yield f"step of {STEP_PARAMS:.0e} parameters", lambda: steps(STEP_PARAMS)


def measure(name: str, calls: Calls, rounds: int = 7) -> Row:
    """Medians in milliseconds."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            times[key].append(1e3 * (time.perf_counter() - start))
    return {"row": name, "ms": {key: round(float(np.median(t)), 3) for key, t in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="rows whose name contains one of these")
    parser.add_argument(
        "--save", action="store_true", help="append to bench/results/sparsity.jsonl"
    )
    options = parser.parse_args()
    here = machine.describe()
    print(json.dumps(here))
    for name, make in rows():
        if options.names and not any(part in name for part in options.names):
            continue
        row = measure(name, make())
        first = next(iter(row["ms"].values()))
        print(name)
        for key, ms in row["ms"].items():
            print(f"  {key:28s} {ms:10.3f} ms   {ms / first:8.2f} x the first", flush=True)
        if options.save:
            with RESULTS.open("a") as out:
                out.write(json.dumps({"machine": here, **row}) + "\n")


if __name__ == "__main__":
    main()
