"""Benchmarks of the ops: check, then time, each against its definition and what else a user has.

    python -m bench.ops                    every case
    python -m bench.ops nm_mask top_k      the cases whose name contains one of these
    python -m bench.ops --save             append the rows to bench/results/ops.jsonl
    python -m bench.ops --rounds 1 --side 512    that everything runs; no figures
    python -m bench.ops --device cuda      those with a CUDA kernel, on a GPU (bench/cuda.py)

All contenders of a case are timed in turn, round by round, in one process; ratios are of medians.
"in place" donates the input, "fresh" makes a new output every call (and pays for its page faults).
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import random
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bench import cuda, machine, rivals
from bench.cases import Case, cases
from bitlaw.ops import OPS

RESULTS = {
    name: pathlib.Path(__file__).parent / "results" / file
    for name, file in (("cpu", "ops.jsonl"), ("cuda", "cuda.jsonl"))
}


def _on_device(arrays):
    return tuple(jax.device_put(jnp.array(a)) for a in arrays)


@functools.cache
def _jitted(function: Callable, **options) -> Callable:
    """One per function: cases that share a program share its compilation."""
    return jax.jit(function, **options)


@functools.cache
def _in_place(function: Callable) -> Callable:
    return functools.partial(function, in_place=True)


def _scaled(x):
    return x * x.dtype.type(0.99)


def _fresh(function, arrays) -> Callable[[], None]:
    return lambda: jax.block_until_ready(function(*arrays))


def _donated(function, arrays) -> Callable[[], None]:
    """Calls that hand the first array on: each call overwrites the memory of the last."""
    run = _jitted(function, donate_argnums=0)
    box = [jnp.array(arrays[0]), *arrays[1:]]

    def call():
        out = run(*box)
        box[0] = jax.block_until_ready(out[0] if isinstance(out, tuple) else out)

    return call


def contenders(case: Case) -> dict[str, Callable[[], None]]:
    """Name -> a timed call, the op's own first."""
    it = OPS[case.op]
    if it.host:
        return {"numpy": lambda: it.numpy(*case.arrays, **case.attributes)}
    arrays = _on_device(case.arrays)
    op = case.function or functools.partial(it, **case.attributes)
    definition = case.definition or functools.partial(it.definition, **case.attributes)
    calls = {}
    if it.alias:
        calls["in place"] = _donated(_in_place(op), arrays)
    if case.fresh:
        calls["fresh"] = _fresh(_jitted(op), arrays)
        calls["definition"] = _fresh(_jitted(definition), arrays)
    if it.alias:
        calls["definition in place"] = _donated(definition, arrays)
        calls["in-place scale"] = _donated(_scaled, arrays[:1])
    for name, rival in case.rivals.items():
        jitted = hasattr(rival, "lower")
        calls[name] = _fresh(rival, arrays) if jitted else lambda r=rival: r(*case.arrays)
    for name, rival in case.libraries.items():
        if rival.torch:
            x = rivals.tensor(case.arrays[0])
            calls[name] = lambda r=rival, x=x: r.function(x)
        else:
            calls[name] = _donated(rival.function, arrays[:1])
    return calls


def check(case: Case) -> None:
    """The op equals its definition bit for bit on this very input (2 ulp for sums).

    Quantization of matrices on the first 64 rows of it; so the rivals, up to rounding.
    """
    it = OPS[case.op]
    if it.host:  # the naive definition would take hours; tests/ops compares them
        return
    if case.definition:
        arrays = case.arrays[0][:64], *case.arrays[1:]
        got = np.asarray(_jitted(case.function)(*_on_device(arrays)))
        want = case.definition(*arrays)
        if case.exact:
            np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
        else:
            rivals.close(got, want, case.name)
        if case.spec:
            rivals.check(case.spec)
        return
    got = jax.jit(lambda *a: it(*a, **case.attributes))(*_on_device(case.arrays))
    got = list(map(np.asarray, got if isinstance(got, tuple) else (got,)))
    if given := it.given(*case.arrays, **case.attributes):
        at, outs = given
        want = outs(got[at])
    else:
        want = it.definition(*case.arrays, **case.attributes)
    want = want if isinstance(want, tuple) else (want,)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g.view(np.uint8), np.ascontiguousarray(w).view(np.uint8))


def measure(case: Case, rounds: int = 31) -> dict:
    """One row: medians in milliseconds, GB/s, shares and ratios."""
    calls = contenders(case)
    for call in calls.values():
        call()
    times = {name: [_once(call)] for name, call in calls.items()}
    # Slow ones take fewer rounds: what they are compared with is far away.
    wanted = {name: 1 if t > 0.5 else 3 if t > 0.03 else rounds for name, (t,) in times.items()}
    order, rng = list(calls.items()), random.Random(0)
    for k in range(1, rounds):
        rng.shuffle(order)  # none always after the same, whose memory and threads it meets
        for name, call in order:
            if k < wanted[name]:
                times[name].append(_once(call))
    median = {name: float(np.median(t)) for name, t in times.items()}
    own = next(name for name in ("in place", "fresh", "numpy") if name in median)
    # The first array is read, and written again in place; masks and grids are small beside it.
    first = case.arrays[0].nbytes if case.arrays else 0
    moved = first * (2 if own == "in place" else 1)
    row = {"case": case.name, "ms": {n: round(1e3 * t, 3) for n, t in median.items()}}
    row["gbs"] = round(moved / median[own] / 1e9, 1)
    if "in-place scale" in median:
        row["over_in_place_scale"] = round(median["in place"] / median["in-place scale"], 2)
    pairs = {"definition": "fresh", "definition in place": "in place"}
    pairs |= dict.fromkeys((*case.rivals, *case.libraries), own)
    row["times_faster_than"] = {
        rival: round(median[rival] / median[mine], 2)
        for rival, mine in pairs.items()
        if rival in median
    }
    row["missed"] = missed(case, row)
    return row


def _once(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def missed(case: Case, row: dict) -> dict[str, str]:
    """Name -> figure and goal, of the goals of what was measured that the row does not meet."""
    found, faster = {}, row["times_faster_than"]
    for name, goal in (case.goals | {n: r.goal for n, r in case.libraries.items()}).items():
        if name == "in-place scale":
            if row["over_in_place_scale"] > goal:
                found[name] = f"{row['over_in_place_scale']} > {goal}"
        elif name in faster and faster[name] < goal:
            found[name] = f"{faster[name]} < {goal}"
    return found


def line(row: dict) -> str:
    """A row as one line of text."""
    own = next(name for name in ("in place", "fresh", "numpy") if name in row["ms"])
    parts = [f"{row['case']:58s} {row['ms'][own]:9.3f} ms {own:8s} {row['gbs']:6.1f} GB/s"]
    if "over_in_place_scale" in row:
        parts.append(f"{row['over_in_place_scale']:.2f}x in-place scale")
    parts += [
        f"{ratio:.1f}x faster than {name}" for name, ratio in row["times_faster_than"].items()
    ]
    parts += [f"GOAL MISSED ({name}: {why})" for name, why in row["missed"].items()]
    return "  ".join(parts)


def _on_gpu(case: Case, device, copy: float, rounds: int) -> dict | None:
    """The row of a case; None where it failed, which is printed: the others go on."""
    try:
        cuda.check(case, device)
        return cuda.measure(case, device, copy, rounds)
    except Exception as error:
        print(f"{case.name} FAILED: {type(error).__name__}: {error}", flush=True)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="cases whose name contains one of these")
    parser.add_argument(
        "--save", action="store_true", help="append to bench/results/ops.jsonl or cuda.jsonl"
    )
    parser.add_argument(
        "--rounds", type=int, help="calls of each contender, at most (default 31; 9 on a GPU)"
    )
    parser.add_argument("--side", type=int, default=4096, help="of the matrices to quantize")
    parser.add_argument("--device", choices=RESULTS, default="cpu", help="where to run")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    rounds = options.rounds or (9 if on_gpu else 31)
    try:
        device = jax.devices(options.device)[0]
    except RuntimeError:
        parser.error(f"--device {options.device} needs one, found: {jax.default_backend()}")
    with jax.default_device(jax.devices("cpu")[0]):
        here = machine.describe()
    here |= cuda.describe(device) if on_gpu else {}
    print(json.dumps(here))
    wanted = lambda case: not options.names or any(name in case.name for name in options.names)
    chosen = list(filter(wanted, cases(options.side, options.device)))
    if on_gpu:
        chosen = list(filter(cuda.has_kernel, chosen))
    out = rivals.skipped() if any(case.spec for case in chosen) else {}
    for name, why in out.items():
        print(f"rival {name} skipped: {why}")
    rows = []
    for case in chosen:
        if on_gpu:
            row = _on_gpu(case, device, here["device_copy_gbs"], rounds)
            if row is None:
                continue
            rows.append(row)
        else:
            check(case)
            rows.append(measure(case, rounds))
        print((cuda.line if on_gpu else line)(rows[-1]), flush=True)
        if options.save:
            with RESULTS[options.device].open("a") as file:
                file.write(json.dumps({"machine": here, **rows[-1]}) + "\n")
    short = sum(bool(row["missed"]) for row in rows)
    counts = f"{len(out)} of {len(rivals.MODULES)} rivals skipped"
    print(f"{len(rows)} cases, {short} miss a goal; {counts}")
    if failed := len(chosen) - len(rows):
        raise SystemExit(f"{failed} cases failed")


if __name__ == "__main__":
    main()
