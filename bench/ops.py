"""Benchmarks of the ops: check, then time, each against its definition and what else a user has.

    python -m bench.ops                    every case
    python -m bench.ops nm_mask top_k      the cases whose name contains one of these
    python -m bench.ops --save             append the rows to bench/results/ops.jsonl

All contenders of a case are timed in turn, round by round, in one process; ratios are of medians.
"in place" donates the input, "fresh" makes a new output every call (and pays for its page faults).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bench import machine
from bitlaw.formats import QuantSpec
from bitlaw.ops import OPS, hadamard

RESULTS = pathlib.Path(__file__).parent / "results" / "ops.jsonl"


@dataclasses.dataclass(frozen=True)
class Case:
    """One op on one input.

    Attributes:
        op, label: the row's name is "op label".
        make: the op's arrays, made when the case is reached.
        attributes: of the op.
        rivals: name -> function of the arrays that does the same job another way.
        goals: rival name, or "in-place scale", -> the speed ratio aimed at (at least; for
            "in-place scale": time at most this many times a donated x * c).
        function, definition: (*arrays, in_place) and (*arrays), where more than one op is called.
    """

    op: str
    label: str
    make: Callable[[], tuple]
    attributes: dict
    rivals: dict[str, Callable]
    goals: dict[str, float]
    function: Callable | None = None
    definition: Callable | None = None

    @property
    def name(self) -> str:
        return f"{self.op} {self.label}"

    @functools.cached_property
    def arrays(self) -> tuple:
        return self.make()


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _quantize_arrays(shape: tuple, dtype: str, grid: np.ndarray, stochastic: bool) -> tuple:
    x = _normal(*shape).astype(jnp.dtype(dtype))
    noise = np.zeros((shape[0], 3 if stochastic else 0), np.uint32)
    if stochastic:
        noise[:, 2] = np.arange(shape[0])
    return x, np.broadcast_to(grid, (shape[0], grid.size)).copy(), noise


# A compiled program serves every format of a kind, so one or two stand for it.
_KINDS = ("int4", "uint4", "quest4/absmax", "e4m3", "e2m1", "nf4")


def _quantize_goals(text: str) -> dict[str, float]:
    """Time against an in-place scale at most, speed against the jitted definition at least."""
    goals = {"definition in place": 5.0 if "block" in text or "nvfp4" in text else 1.0}
    if "stochastic" in text:
        return goals | {"in-place scale": 3.0}
    if "hadamard" in text:
        return goals | {"in-place scale": 2.0}
    if "mse_search" in text:  # eight maps and a sum each
        return goals | {"in-place scale": 16.0}
    return goals | {"in-place scale": 1.5}


def _quantize_cases() -> Iterator[Case]:
    n = 4096
    shared = [f"{name}/{group}" for group in ("row", "block32") for name in _KINDS]
    shared += ["mxfp4/block32", "mxfp8/block32", "nvfp4"]
    rare = [
        ("int4/channel", "identity"), ("int4/row", "clip_rounded"), ("quest4/row", "trust"),
        ("int4/row/stochastic", "identity"), ("e4m3/row/stochastic", "identity"),
        ("mxfp4/block32/stochastic", "identity"), ("int4/row/mse_search", "identity"),
        ("int4/block32/mse_search", "identity"), ("int4/row/hadamard128", "identity"),
    ]  # fmt: skip
    cases = [(text, "identity", dtype) for dtype in ("float32", "bfloat16") for text in shared]
    cases += [(text, estimator, "float32") for text, estimator in rare]
    for text, estimator, dtype in cases:
        spec = QuantSpec.parse(text)
        q = spec.structure
        shape, block = q.layout((n, n))
        attributes = q.attributes() | {"block": block, "statistic": q.statistic}
        attributes |= {"estimator": estimator, "pruned": False}
        label = f"{text} {estimator} {n}x{n} {dtype}"
        make = functools.partial(_quantize_arrays, shape, dtype, spec.grid, q.stochastic)
        goals = _quantize_goals(text) if text != "int4/channel" and estimator == "identity" else {}
        yield Case("fake_quantize", label, make, attributes, {}, goals)
    for name, bits in [("int4/row", 4), ("mxfp4", 4), ("mxfp8", 8)]:
        spec = QuantSpec.parse(name)
        q = spec.structure
        shape, block = q.layout((n, n))
        attributes = q.attributes() | {"block": block, "statistic": q.statistic, "bits": bits}
        make = functools.partial(_quantize_arrays, shape, "float32", spec.grid, False)
        label = f"{name} {n}x{n} float32"
        yield Case("quantize", label, make, attributes, {}, {"definition": 1.0})


def _tensor_case() -> Case:
    """The scale of a whole tensor is composed of three ops."""
    spec, n = QuantSpec.parse("int4"), 4096

    def definition(x, grid):
        scale = jnp.abs(x).max() / grid[3]
        return jnp.clip(jnp.rint(x / scale), grid[0], grid[1]) * scale

    return Case(
        "fake_quantize",
        f"int4/tensor identity {n}x{n} float32",
        lambda: (_normal(n, n), spec.grid),
        {},
        {},
        {"in-place scale": 2.0, "definition": 1.0},
        lambda x, grid, in_place=False: spec.structure(x, grid, in_place=in_place),
        definition,
    )


def _rest(covered: set[str]) -> Iterator[Case]:
    """The largest example of every op that has no case of its own."""
    for name, it in OPS.items():
        if name not in covered:
            examples = it.examples(np.random.default_rng(0))
            size = lambda example: sum(np.size(a) for a in example[0])
            arrays, attributes = max(examples, key=size)
            make = functools.partial(tuple, arrays)
            yield Case(name, "largest example", make, attributes, {}, {})


def _mask_cases() -> Iterator[Case]:
    n = 1 << 24
    make = lambda: (_normal(1, n), np.array([n // 10], np.int32))

    def partition(x, keep):
        a = np.abs(x[0])
        return a >= np.partition(a, n - int(keep[0]))[n - int(keep[0])]

    sort = jax.jit(lambda x, keep: jnp.abs(x[0]) >= jnp.sort(jnp.abs(x[0]))[n - keep[0]])
    rivals = {"np.partition": partition, "jnp.sort": sort}
    goals = {"np.partition": 4.0, "jnp.sort": 100.0}
    yield Case("top_k_mask", "10 % of 16M float32", make, {}, rivals, goals)

    def top_2(x):
        groups = jnp.abs(x).reshape(-1, 4)
        index = jax.lax.top_k(groups, 2)[1]
        return (jnp.arange(4) == index[..., None]).any(-2).reshape(x.shape)

    rivals = {"lax.top_k": jax.jit(top_2)}
    for along_rows in (False, True):
        label = f"2:4 {'down' if along_rows else 'along'} 2048x2048 float32"
        attributes = {"n": 2, "m": 4, "along_rows": along_rows}
        make = lambda: (_normal(1, 2048, 2048),)
        yield Case("nm_mask", label, make, attributes, rivals, {"lax.top_k": 15.0})

    bits = lambda: np.random.default_rng(1).integers(0, 256, (4096, 512)).astype(np.uint8)
    make = lambda: (_normal(4096, 4096), bits())
    yield Case("prune", "4096x4096 float32", make, {}, {}, {})


def _code_cases() -> Iterator[Case]:
    """Bits, random thresholds, rotations and the gradients of learned scales."""
    n = 4096
    draw = lambda high, *shape: np.random.default_rng(1).integers(0, high, shape, dtype=np.uint8)
    for bits in (3, 4):
        codes, packed = f"{bits} bits of {n}x{n}", functools.partial(draw, 256, n, n * bits // 8)
        make = lambda bits=bits: (draw(1 << bits, n, n),)
        yield Case("pack_bits", codes, make, {"bits": bits}, {}, {"definition": 4.0})
        attributes = {"bits": bits, "n": n}
        make = lambda packed=packed: (packed(),)
        yield Case("unpack_bits", codes, make, attributes, {}, {"definition": 4.0})

    attributes = {"rows": n, "cols": n}
    rival = jax.jit(
        lambda noise: jax.random.uniform(jax.random.wrap_key_data(noise[0, :2]), (n, n))
    )
    make = lambda: (np.array([[1, 2, 0]], np.uint32),)
    rivals = {"jax.random.uniform": rival}
    yield Case("uniform", f"{n}x{n}", make, attributes, rivals, {"jax.random.uniform": 4.0})

    def product(x, signs, matrix):
        del signs
        return jnp.dot(x.reshape(-1, matrix.shape[0]), matrix).reshape(x.shape)

    for block in (16, 128, 1024):
        matrix = jnp.asarray(hadamard.butterflies(np.eye(block, dtype=np.float32), block))
        goals = {"definition in place": 3.0} | ({"in-place scale": 2.0} if block == 128 else {})
        rivals = {"jnp.dot": jax.jit(functools.partial(product, matrix=matrix))}
        make = lambda: (_normal(n, n), np.zeros((n, 0), np.uint8))
        attributes = {"block": block, "inverse": False}
        yield Case("hadamard", f"{block} of {n}x{n} float32", make, attributes, rivals, goals)

    for label, items, block in [("row", n, n), ("block32", n, 32)]:

        def make(items=items, block=block):
            scale = np.full((items, n // block), 0.3, np.float32)
            grid = np.tile(np.float32([-7, 7, 0, 7, 1]), (items, 1))
            return _normal(n, n)[::-1].copy(), _normal(n, n), scale, scale[:, :0], grid

        attributes = {"block": block, "estimator": "lsq", "pruned": False}
        goals = {"definition in place": 1.5}
        yield Case("learned_gradient", f"lsq {label} {n}x{n} float32", make, attributes, {}, goals)


def _host_cases() -> Iterator[Case]:
    def lengths():
        drawn = np.random.default_rng(0).lognormal(6, 1, 1_000_000)
        return drawn.clip(1, 2048).astype(np.int64)[:, None], np.array([2048])

    attributes = {"algorithm": "first_fit_decreasing", "max_segments": 0, "align": 1}
    yield Case("fit_rows", "1M lengths, first fit decreasing", lengths, attributes, {}, {})


def cases() -> Iterator[Case]:
    """Every case."""
    own = [*_quantize_cases(), _tensor_case(), *_mask_cases(), *_code_cases(), *_host_cases()]
    yield from own
    yield from _rest({case.op for case in own})


def _on_device(arrays):
    return tuple(jax.device_put(jnp.array(a)) for a in arrays)


def _fresh(function, arrays) -> Callable[[], None]:
    return lambda: jax.block_until_ready(function(*arrays))


def _donated(function, arrays) -> Callable[[], None]:
    """Calls that hand the first array on: each call overwrites the memory of the last."""
    run = jax.jit(function, donate_argnums=0)
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
        calls["in place"] = _donated(functools.partial(op, in_place=True), arrays)
    calls["fresh"] = _fresh(jax.jit(op), arrays)
    calls["definition"] = _fresh(jax.jit(definition), arrays)
    if it.alias:
        calls["definition in place"] = _donated(definition, arrays)
        calls["in-place scale"] = _donated(lambda x: x * x.dtype.type(0.99), arrays[:1])
    for name, rival in case.rivals.items():
        jitted = hasattr(rival, "lower")
        calls[name] = _fresh(rival, arrays) if jitted else lambda r=rival: r(*case.arrays)
    return calls


def check(case: Case) -> None:
    """The op equals its definition bit for bit on this very input (2 ulp for sums)."""
    it = OPS[case.op]
    if it.host:  # the naive definition would take hours; tests/ops compares them
        return
    if case.function:
        want = case.function(*case.arrays)
        np.testing.assert_array_equal(jax.jit(case.function)(*case.arrays), want)
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


def measure(case: Case, rounds: int = 9) -> dict:
    """One row: medians in milliseconds, GB/s, shares and ratios."""
    calls = contenders(case)
    for call in calls.values():
        call()
    slow = {name: _once(call) > 1.0 for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds):
        for name, call in calls.items():
            if k < 3 or not slow[name]:
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
    pairs |= dict.fromkeys(case.rivals, own)
    row["times_faster_than"] = {
        rival: round(median[rival] / median[mine], 2)
        for rival, mine in pairs.items()
        if rival in median
    }
    row["missed"] = _missed(case, row)
    return row


def _once(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _missed(case: Case, row: dict) -> dict[str, str]:
    missed = {}
    for name, goal in case.goals.items():
        if name == "in-place scale":
            if row["over_in_place_scale"] > goal:
                missed[name] = f"{row['over_in_place_scale']} > {goal}"
        elif row["times_faster_than"][name] < goal:
            missed[name] = f"{row['times_faster_than'][name]} < {goal}"
    return missed


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="cases whose name contains one of these")
    parser.add_argument("--save", action="store_true", help="append to bench/results/ops.jsonl")
    options = parser.parse_args()
    here = machine.describe()
    print(json.dumps(here))
    for case in cases():
        if options.names and not any(name in case.name for name in options.names):
            continue
        check(case)
        row = measure(case)
        print(line(row), flush=True)
        if options.save:
            with RESULTS.open("a") as out:
                out.write(json.dumps({"machine": here, **row}) + "\n")


if __name__ == "__main__":
    main()
