"""Benchmarks of packing and dispatch, each against what else a user has, in one run.

    python -m bench.packing                every case; rivals that are not installed are left out
    python -m bench.packing plan stream    the cases whose name contains one of these
    python -m bench.packing --save         append the rows to bench/results/packing.jsonl

Times are the fastest of a few calls, by two clocks: "wall", which a user waits by, and "cpu", the
processor time of all threads together, which two threads do not shorten and neighbours on a shared
machine disturb less. Every goal of speed is judged by both: `missed` maps a goal to the clocks by
which it was missed (for a goal of fill, which no clock measures, to none).
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bench import machine
from bitlaw import dispatch, packing

RESULTS = pathlib.Path(__file__).parent / "results" / "packing.jsonl"

Row = dict


def timed(call: Callable, repeats: int = 5) -> tuple[dict[str, float], object]:
    """Least wall and processor seconds of a call, and what it returned."""
    wall, cpu, out = [], [], None
    for _ in range(repeats):
        out = None  # its memory is there to be used again
        at, used = time.perf_counter(), time.process_time()
        out = call()
        wall.append(time.perf_counter() - at)
        cpu.append(time.process_time() - used)
    return {"wall": min(wall), "cpu": min(cpu)}, out


def faster(ours: dict, theirs: dict, ours_items: int = 1, theirs_items: int = 1) -> dict:
    """How many times more items per second than theirs, by wall and by processor time."""
    return {key: round(theirs[key] / theirs_items / (ours[key] / ours_items), 2) for key in ours}


def missed(goal: str, by_clock: dict, reached: Callable[[float], bool]) -> dict[str, list[str]]:
    """{goal: the clocks by which it was not reached}; nothing where it was by all."""
    clocks = [clock for clock, x in by_clock.items() if not reached(x)]
    return {goal: clocks} if clocks else {}


def row(name: str, seconds: dict, **more) -> Row:
    return {"case": name, "ms": {k: round(1e3 * s, 3) for k, s in seconds.items()}, **more}


def lengths(kind: str, n: int) -> tuple[np.ndarray, int]:
    """Drawn lengths, and the capacity they are packed into."""
    rng = np.random.default_rng(0)
    drawn = {
        "lognormal": lambda: (rng.lognormal(6, 1, n), 2048),
        "gamma": lambda: (rng.gamma(5, 20, n), 4096),
        "uniform": lambda: (rng.integers(1024, 3073, n), 4096),
    }[kind]()
    return drawn[0].clip(1, drawn[1]).astype(np.int64), drawn[1]


def documents(n: int) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Lognormal lengths, sequences of them, and their capacity."""
    of, capacity = lengths("lognormal", n)
    tokens = np.random.default_rng(1).integers(1, 50_000, of.sum()).astype(np.int32)
    return of, np.split(tokens, np.cumsum(of)[:-1]), capacity


def plans() -> Iterator[Row]:
    n = 1_000_000
    for kind in ("lognormal", "gamma", "uniform"):
        of, capacity = lengths(kind, n)
        for algorithm in ("first_fit_decreasing", "best_fit_decreasing", "first_fit", "wrap"):
            options = {"algorithm": algorithm, "overflow": "split"}
            seconds, plan = timed(functools.partial(packing.plan, of, capacity, **options))
            more = {"fill": round(plan.fill, 5)}
            if algorithm.endswith("decreasing"):
                more["missed"] = missed("0.25 s", seconds, lambda s: s < 0.25)
                if plan.fill < 0.997:
                    more["missed"]["fill 99.7%"] = []
            yield row(f"plan {kind} 1M {algorithm}", seconds, **more)


def long_plans() -> Iterator[Row]:
    for algorithm in ("first_fit_decreasing", "best_fit_decreasing"):
        options = {"algorithm": algorithm}
        of, capacity = lengths("lognormal", 10_000_000)
        few, _ = timed(functools.partial(packing.plan, of[:1_000_000], capacity, **options), 3)
        many, plan = timed(functools.partial(packing.plan, of, capacity, **options), 2)
        growth = round(many["cpu"] / few["cpu"], 2)
        yield row(f"plan lognormal 10M {algorithm}", many, fill=round(plan.fill, 5), over_1M=growth)


def numba_plans() -> Iterator[Row]:
    """First fit decreasing in numba as sampler packages do it: a linear scan, in groups of 100k."""
    try:
        import numba
    except ImportError:
        return

    @numba.njit
    def scan(of, capacity):
        room, rows = np.empty(len(of), np.int64), 0
        placed = np.empty(len(of), np.int64)
        for i in range(len(of)):
            r = 0
            while r < rows and room[r] < of[i]:
                r += 1
            if r == rows:
                room[r] = capacity
                rows += 1
            room[r] -= of[i]
            placed[i] = r
        return placed, rows

    of, capacity = lengths("lognormal", 200_000)

    def theirs():
        rows = 0
        for at in range(0, len(of), 100_000):
            rows += scan(np.sort(of[at : at + 100_000])[::-1].copy(), capacity)[1]
        return rows

    theirs()
    other, rows = timed(theirs, 2)
    seconds, plan = timed(lambda: packing.plan(of, capacity))
    ratio = faster(seconds, other)
    yield row(
        "plan lognormal 200k first_fit_decreasing against numba",
        seconds,
        fill=round(plan.fill, 5),
        times_faster_than={"numba": ratio},
        fill_of={"numba": round(of.sum() / rows / capacity, 5)},
        missed=missed("4x numba", ratio, lambda x: x >= 4),
    )


def trl_plans() -> Iterator[Row]:
    """Plans and rows against trl's best fit decreasing over a table of tokens.

    trl gives tokens end to end and lengths; our rows are padded and have segment ids, positions and
    a loss mask besides, 13 bytes per token for its 4.
    """
    try:
        import datasets
        from trl.data_utils import pack_dataset
    except ImportError:
        return
    of, sequences, capacity = documents(50_000)
    table = datasets.Dataset.from_dict({"input_ids": sequences}).with_format("arrow")
    datasets.disable_progress_bars()
    datasets.disable_caching()
    options = {"batch_size": len(of), "keep_in_memory": True}
    other, packed = timed(lambda: pack_dataset(table, capacity, "bfd", map_kwargs=options), 2)
    tokens = np.concatenate(sequences)
    fill_of = {"trl bfd": round(of.sum() / len(packed) / capacity, 5)}

    def joined(make):
        plan = make()
        order = np.lexsort((plan.start, plan.row))
        parts = [sequences[i] for i in plan.sequence[order].tolist()]
        return np.concatenate(parts), plan.length[order], np.bincount(plan.row)

    for algorithm in ("first_fit_decreasing", "best_fit_decreasing"):
        make = functools.partial(packing.plan, of, capacity, algorithm=algorithm)
        for what, call in [
            ("plan", make),
            ("plan and tokens end to end", functools.partial(joined, make)),
            ("plan and rows", lambda make=make: packing.materialize(make(), tokens)),
        ]:
            seconds, _ = timed(call, 7)
            ratio = faster(seconds, other)
            yield row(
                f"{what} of 50k documents {algorithm}",
                seconds,
                fill=round(make().fill, 5),
                times_faster_than={"trl bfd": ratio},
                fill_of=fill_of,
                missed=missed("20x trl bfd", ratio, lambda x: x >= 20),
            )


def streams() -> Iterator[Row]:
    of, sequences, capacity = documents(40_000)
    grain_rows = {bins: _grain(sequences[:3000], of[:3000], capacity, bins) for bins in (8, 64)}
    for bins in (8, 64, 512):

        def ours(bins=bins):
            return sum(1 for _ in packing.Stream(capacity, bins).pack(iter(sequences)))

        seconds, rows = timed(ours, 5)
        fill = of.sum() / rows / capacity
        more = {"fill": round(fill, 4), "items_per_s": round(len(of) / seconds["wall"])}
        for name, (other, items, other_fill) in grain_rows.get(bins, {}).items():
            ratio = faster(seconds, other, len(of), items)
            more.setdefault("times_faster_than", {})[name] = ratio
            more.setdefault("fill_of", {})[name] = round(other_fill, 4)
            if bins == 64:
                failed = more.setdefault("missed", {})
                failed |= missed(f"50x {name}", ratio, lambda x: x >= 50)
                if fill < other_fill:
                    failed[f"fill of {name}"] = []
        yield row(f"stream of 40k documents {bins} bins", seconds, **more)


def _grain(sequences: list, of: np.ndarray, capacity: int, bins: int) -> dict:
    """Name -> (seconds, items, fill) of grain's packers.

    As they come, sequences are read by 16 threads; an array in memory is read faster by none.
    """
    try:
        import grain
    except ImportError:
        return {}
    source = grain.MapDataset.source([{"tokens": s} for s in sequences])
    found = {}
    for name, threads in [("FirstFit", 16), ("FirstFit", 0), ("BestFit", 0)]:
        packer = getattr(grain.experimental, f"{name}PackIterDataset")
        dataset = packer(
            source.to_iter_dataset(grain.ReadOptions(num_threads=threads)),
            length_struct={"tokens": capacity},
            num_packing_bins=bins,
            shuffle_bins=False,
        )
        used = lambda d=dataset: sum(bool(r["tokens_segment_ids"][0]) for r in d)
        seconds, rows = timed(used, 2)
        label = f"grain {name.lower().replace('fit', ' fit')}"
        label += "" if threads else " without read threads"
        found[label] = (seconds, len(sequences), of.sum() / rows / capacity)
    return found


def rows_of_plan() -> Iterator[Row]:
    of, sequences, capacity = documents(100_000)
    plan, tokens = packing.plan(of, capacity), np.concatenate(sequences)
    arrays = list(packing.materialize(plan, tokens).values())
    to = [array.copy() for array in arrays]  # as ours, into memory that has been used
    copy, _ = timed(lambda: [*map(np.copyto, to, arrays)], 7)
    seconds, _ = timed(lambda: packing.materialize(plan, tokens), 7)
    over = {key: round(seconds[key] / copy[key], 2) for key in seconds}
    size = sum(array.nbytes for array in arrays)
    yield row(
        f"materialize 100k documents into {size / 1e6:.0f} MB",
        seconds,
        over_copy=over,
        missed=missed("1.5 of a copy", over, lambda x: x <= 1.5),
    )


def dispatches() -> Iterator[Row]:
    tokens, k, experts = 1_000_000, 2, 64
    rng = np.random.default_rng(0)
    expert = jnp.asarray(rng.integers(0, experts, (tokens, k)), jnp.int32)
    gate = jnp.asarray(rng.random((tokens, k)), jnp.float32)
    capacity = dispatch.capacity(tokens, k, experts, 1.25)

    def one_hot(expert):
        hot = jax.nn.one_hot(expert.reshape(-1), experts, dtype=jnp.int32)
        nth = ((jnp.cumsum(hot, axis=0) - hot) * hot).sum(-1)
        return jnp.where(nth < capacity, expert.reshape(-1) * capacity + nth, -1)

    flat, gates = np.asarray(expert).reshape(-1), np.asarray(gate)

    def two_sorts():  # what priority by gate takes: tokens by gate, then choices by expert
        by_gate = np.argsort(-gates.max(1), kind="stable")
        return np.argsort(flat.reshape(-1, k)[by_gate].T.reshape(-1), kind="stable")

    rivals = {
        "one-hot cumsum": (_jitted(one_hot, expert), 10),
        "jnp.argsort": (_jitted(lambda e: jnp.argsort(e.reshape(-1), stable=True), expert), 3),
        "np.argsort": (lambda: np.argsort(flat, kind="stable"), 3),
        "np.argsort of gates and of experts": (two_sorts, 3),
    }
    others = {name: timed(call, 3)[0] for name, (call, _) in rivals.items()}
    plan = lambda priority: (
        lambda e, g: dispatch.plan(e, g, experts=experts, capacity=capacity, priority=priority)
    )
    calls = {p: _jitted(plan(p), expert, gate) for p in ("token", "choice", "gate")}
    calls["dropless"] = _jitted(lambda e: dispatch.dropless(e, experts=experts), expert)
    np.testing.assert_array_equal(calls["token"]().slot.reshape(-1), rivals["one-hot cumsum"][0]())
    for name, call in calls.items():
        seconds, _ = timed(call, 9)
        left_out = "np.argsort" if name == "gate" else "np.argsort of gates and of experts"
        ratios = {r: faster(seconds, other) for r, other in others.items() if r != left_out}
        failed = {}
        for rival, ratio in ratios.items():
            goal = rivals[rival][1]
            failed |= missed(f"{goal}x {rival}", ratio, lambda x, goal=goal: x >= goal)
        yield row(
            f"dispatch 1M x top-2 x 64 {name}", seconds, times_faster_than=ratios, missed=failed
        )


def _jitted(function: Callable, *arrays) -> Callable:
    run = jax.jit(function)
    jax.block_until_ready(run(*arrays))
    return lambda: jax.block_until_ready(run(*arrays))


GROUPS = {
    "plan": plans,
    "long plan": long_plans,
    "numba plan": numba_plans,
    "trl plan": trl_plans,
    "stream": streams,
    "materialize": rows_of_plan,
    "dispatch": dispatches,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="groups whose name contains one of these")
    parser.add_argument("--save", action="store_true", help="append to bench/results/packing.jsonl")
    options = parser.parse_args()
    here = machine.describe()
    print(json.dumps(here))
    for name, group in GROUPS.items():
        if options.names and not any(part in name for part in options.names):
            continue
        for result in group():
            print(json.dumps(result), flush=True)
            if options.save:
                with RESULTS.open("a") as out:
                    out.write(json.dumps({"machine": here, **result}) + "\n")


if __name__ == "__main__":
    main()
