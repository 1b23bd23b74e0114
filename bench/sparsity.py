"""Benchmarks of selection, patterns and pruned optimizer steps: check, then time, in one run.

    python -m bench.sparsity                 all
    python -m bench.sparsity global step     the cases whose name contains one of these
    python -m bench.sparsity --save          append the rows to bench/results/sparsity.jsonl

Contenders of a case are timed in turn, round by round, each from scores to mask; ratios are of
medians. "reads" is a time in units of one read of the weights (a sum of them) in the same run. A
selection reads its weights twice where the sample serves, a pattern once: that over "reads" is
"share", its share of the bandwidth that the sum has. "alone" is a time, in milliseconds, of calls
with none of another contender between: goals are not judged by it. What a rival leaves behind
(threads that spin for milliseconds, and another's branches in the predictor) is in all other times.
Rivals that are not installed are left out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
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
FASTER = {"np.partition": 4.0, "torch.kthvalue": 15.0, "jnp.sort": 100.0}  # goals, times
READ = "one read (sum)"

Calls = dict[str, Callable[[], object]]


def normal(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n, np.float32)


def by_partition(x: np.ndarray, keep: int) -> np.ndarray:
    a = np.abs(x)
    return a >= np.partition(a, len(a) - keep)[len(a) - keep]


def read_of(x: jax.Array) -> Callable[[], object]:
    """A sum over as many bytes, as f32."""
    bytes_alike = jnp.ones(x.nbytes // 4, jnp.float32)
    total = jax.jit(jnp.sum).lower(bytes_alike).compile()
    return lambda: total(bytes_alike).block_until_ready()


def selection_rivals(x: np.ndarray, on_device: jax.Array, keep: int) -> Calls:
    """The mask of the `keep` largest |x|, ties aside, by what else there is."""
    n = len(x)
    sort = jax.jit(lambda x: jnp.abs(x) >= jnp.sort(jnp.abs(x))[n - keep])
    sort = sort.lower(on_device).compile()
    calls = {
        "np.partition": lambda: by_partition(x, keep),
        "jnp.sort": lambda: sort(on_device).block_until_ready(),
    }
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(x)

        def kth():
            a = tensor.abs()
            return a >= a.kthvalue(n - keep + 1).values

        calls["torch.kthvalue"] = kth
    return calls


def selection(n: int, dtype: str, of_tree: bool) -> tuple[Calls, dict]:
    """The 10 % largest of n, of one array or of a tree of eight, and how much memory it takes."""
    x, keep = normal(n), n // 10
    on_device = jnp.asarray(x, dtype)
    parts = dict(enumerate(jnp.split(on_device, 8)))
    if of_tree:
        run = lambda t: [m.bits for m in sparsity.masks_keeping(t, keep).values()]
        run = jax.jit(run).lower(parts).compile()
        ours = lambda: jax.block_until_ready(run(parts))
        each = n // 8
    else:
        run = jax.jit(lambda x: [bitlaw.top_k_mask(x, keep).bits]).lower(on_device).compile()
        ours = lambda: jax.block_until_ready(run(on_device))
        each = n
    got = np.concatenate([np.unpackbits(b, bitorder="little")[:each] for b in ours()])
    if dtype == "float32":
        assert not got[~by_partition(x, keep)].any()  # which keeps all ties
    assert got.sum() == keep
    calls = {"ours": ours, READ: read_of(on_device)}
    if dtype == "float32":
        calls |= selection_rivals(x, on_device, keep)
        if of_tree and n > 10**7:
            del calls["jnp.sort"]  # half a minute, and in the row of the one array
    return calls, {"temp_bytes": run.memory_analysis().temp_size_in_bytes, "passes": 2}


def pattern(make: Callable, dtype: str, n: int = 4096) -> tuple[Calls, dict]:
    """A mask of n x n."""
    x = jnp.asarray(normal(n * n).reshape(n, n), dtype)
    ours = jax.jit(lambda x: make(x).bits)
    return {"ours": lambda: ours(x).block_until_ready(), READ: read_of(x)}, {"passes": 1}


def steps(n: int, moments: str) -> tuple[Calls, dict]:
    """One AdamW step of n parameters in 24 matrices: bare, pruned between updates, and at one."""
    rows = n // 24 // 2048
    start = jnp.asarray(normal(rows * 2048).reshape(rows, 2048))
    bare = optax.adamw(1e-3)
    wrapped = sparsity.pruned(bare, OneShot(0.75, 10**6), moments=moments)
    always = sparsity.pruned(bare, Cubic(0.75, 1, 60), moments=moments)
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

    calls = {
        "ours": stepper(always),
        "between updates": stepper(wrapped),
        "bare adamw": stepper(bare),
    }
    return calls, {}


def cases() -> Iterator[tuple[str, Callable[[], tuple[Calls, dict]], dict[str, float]]]:
    """(name, its contenders, goals: at most so many reads, milliseconds, or times the bare step)"""
    for n in SIZES:
        size = f"10 % of {n:.0e}".replace("+0", "")
        for name, of_tree in (("top_k_mask", False), ("global_masks", True)):
            yield f"{name} {size} f32", functools.partial(selection, n, "float32", of_tree), FASTER
    for dtype in ("bfloat16", "float16"):
        yield f"top_k_mask 10 % of 1e8 {dtype}", lambda d=dtype: selection(10**8, d, False), {}
    along = lambda x: bitlaw.nm_mask(x, 2, 4, axis=-1)
    down = lambda x: bitlaw.nm_mask(x, 2, 4)
    both = lambda x: sparsity.transposable_mask(x, 2, 4)
    for dtype in ("float32", "bfloat16"):
        for name, make in (("along", along), ("down", down)):
            case = functools.partial(pattern, make, dtype)
            yield f"nm_mask 2:4 {name} 4096x4096 {dtype}", case, {"reads": 1.5}
    yield "transposable_mask 2:4 4096x4096 float32", lambda: pattern(both, "float32"), {}
    goals = {"ms": 250.0, "between / bare": 1.1}
    for moments in ("keep", "reset_regrown"):
        name = f"pruned step of 1e8 parameters, moments {moments}"
        yield name, lambda m=moments: steps(STEP_PARAMS, m), goals if moments == "keep" else {}


def once(call: Callable[[], object]) -> float:
    """Milliseconds; of calls that are short the median of nine, as threads wake at the first."""
    times: list[float] = []
    while not times or (len(times) < 9 and times[0] < 10):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times))


def measure(name: str, calls: Calls, goals: dict[str, float], rounds: int = 9) -> dict:
    """One row: medians in milliseconds, ratios of them, and which goals are missed."""
    times = {key: [once(call)] for key, call in calls.items()}
    for _ in range(rounds):
        for key, call in calls.items():
            if sum(times[key]) < 2000:  # what takes long is far behind
                times[key].append(once(call))
    ms = {key: float(np.median(t[1:] or t)) for key, t in times.items()}
    found = {"ms": ms["ours"]}
    if READ in ms:
        found["reads"] = ms["ours"] / ms[READ]
    if "bare adamw" in ms:
        found["between / bare"] = ms["between updates"] / ms["bare adamw"]
    faster = {rival: ms[rival] / ms["ours"] for rival in FASTER if rival in ms}
    missed = [f"{key} {found[key]:.2f} > {goal}" for key, goal in goals.items() if key in found
              and found[key] > goal]  # fmt: skip
    missed += [f"{key} {x:.1f} < {FASTER[key]:g}" for key, x in faster.items() if x < FASTER[key]]
    rounded = lambda some: {key: round(x, 3) for key, x in some.items()}
    return {
        "case": name,
        "ms": rounded(ms),
        **rounded({key: x for key, x in found.items() if key != "ms"}),
        "times_faster_than": rounded(faster),
        "missed": missed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="cases whose name contains one of these")
    parser.add_argument("--save", action="store_true", help=f"append to {RESULTS.name}")
    options = parser.parse_args()
    here = machine.describe()
    print(json.dumps(here))
    for name, make, goals in cases():
        if options.names and not any(part in name for part in options.names):
            continue
        calls, more = make()
        row = measure(name, calls, goals) | more
        if "passes" in row:
            row["share"] = round(row.pop("passes") / row["reads"], 3)
            row["alone"] = round(float(np.median([once(calls["ours"]) for _ in range(9)])), 3)
        shown = ", ".join(f"{key} {ms:.2f}" for key, ms in row["ms"].items())
        print(f"{name:52s} {shown} ms", flush=True)
        print(" " * 52, {k: v for k, v in row.items() if k not in ("case", "ms")}, flush=True)
        if options.save:
            with RESULTS.open("a") as out:
                out.write(json.dumps({"machine": here, **row}) + "\n")


if __name__ == "__main__":
    main()
