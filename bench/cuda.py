"""The cases of bench/ops.py on another device: check against the CPU's bits, then time there.

A launch is one program over several inputs, enough of them that none is in the device's cache when
its turn comes again; launches are queued one behind the other, and the clock stops when the last
is done. So a time is the device's: starting a program costs the host more than a small op takes.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from bench import rivals
from bench.cases import Case
from bitlaw.ops import OPS

try:
    from bitlaw import _cuda
except ImportError:  # built without nvcc
    _cuda = None

ROTATED = 256 << 20  # bytes of input in turn, four times the 60 MB of an H200's second-level cache
MOST_COPIES = 16
LAUNCHES = 10
SLOW_SECONDS = 0.05  # of one launch
COPY_SHARE = 0.85  # of the copy bandwidth, the goal of what is read once and written once
ONE_PASS = re.compile(r"fake_quantize \w+/(row|block\d+)|prune|pack_bits|unpack_bits")
GOALS = {"top_k_mask 10 % of 100M float32": {"jnp.sort": 10, "lax.top_k": 5},
         "quantize int4/row 4096x4096 float32": {"definition": 2}}  # fmt: skip


def has_kernel(case: Case) -> bool:
    """Whether the case runs a CUDA kernel; without one the op is its own definition."""
    return _cuda is not None and case.op in _cuda.ops


@dataclass(frozen=True)
class Contender:
    """Something timed.

    Attributes:
        launch: starts one program over all inputs and returns what it will have written.
        wait: waits for that.
    """

    launch: Callable[[], object]
    wait: Callable[[object], object] = jax.block_until_ready


def seconds(contender: Contender, copies: int, launches: int, rounds: int = 5) -> float:
    """Median over rounds of the time per input; of what is slow, two rounds of one launch."""

    def timed(launches: int) -> float:
        began = time.perf_counter()
        for _ in range(launches):
            last = contender.launch()
        contender.wait(last)
        return (time.perf_counter() - began) / launches

    contender.wait(contender.launch())
    if (once := timed(1)) > SLOW_SECONDS:
        times = [once, timed(1)]
    else:
        times = [timed(launches) for _ in range(rounds)]
    return float(np.median(times)) / copies


def describe(device) -> dict:
    """The device: its name, its driver's version and its copy bandwidth, measured now."""
    return {
        "device": device.device_kind,
        "device_platform": device.client.platform_version.strip(),
        "device_copy_gbs": round(copy_gbs(device), 1),
    }


def copies_of(case: Case, rotated: int = ROTATED) -> int:
    """How many inputs take turns."""
    size = max(1, case.arrays[0].nbytes if case.arrays else 1)
    return int(np.clip(-(-rotated // size), 2, MOST_COPIES))


@functools.cache
def _each(function: Callable, donate: bool) -> Callable:
    """One program that calls a function of (first, *rest) for every first."""

    def program(firsts, rest):
        outs = [function(first, *rest) for first in firsts]
        return [out[0] if isinstance(out, tuple) else out for out in outs] if donate else outs

    return jax.jit(program, donate_argnums=0 if donate else ())


def fresh(function: Callable, arrays: tuple, copies: int, device) -> Contender:
    """New outputs at every call; what else the function takes is the same for all inputs."""
    firsts = [jax.device_put(arrays[0], device) for _ in range(copies)]
    rest = jax.device_put(arrays[1:], device)
    return Contender(lambda: _each(function, False)(firsts, rest))


def in_place(function: Callable, arrays: tuple, copies: int, device) -> Contender:
    """Every input is overwritten by its first output, and is the next launch's input."""
    box = [[jax.device_put(arrays[0], device) for _ in range(copies)]]
    rest = jax.device_put(arrays[1:], device)

    def launch():
        box[0] = _each(function, True)(box[0], rest)
        return box[0]

    return Contender(launch)


def in_torch(function: Callable, array: np.ndarray, copies: int, device) -> Contender:
    """A function of a torch tensor, one call per input."""
    import torch

    where = "cuda" if device.platform == "gpu" else "cpu"
    tensors = [rivals.tensor(array).to(where) for _ in range(copies)]
    wait = lambda _: torch.cuda.synchronize() if where == "cuda" else None
    return Contender(lambda: [function(x) for x in tensors], wait)


def _torch_runs_on(device) -> bool:
    """Whether torch can: one built for the CPU alone knows no GPU."""
    import torch

    return device.platform != "gpu" or torch.cuda.is_available()


def _scaled(x):
    return x * x.dtype.type(0.99)


def copy_gbs(device, n: int = 1 << 26, copies: int = 4, launches: int = LAUNCHES) -> float:
    """Bytes read and written per second, in 1e9, of scaling donated arrays of n floats."""
    contender = in_place(_scaled, (np.ones(n, np.float32),), copies, device)
    return 8 * n / seconds(contender, copies, launches) / 1e9


@functools.cache
def _bound(name: str, attributes: tuple, in_place: bool) -> Callable:
    return functools.partial(OPS[name], in_place=in_place, **dict(attributes))


def functions(case: Case) -> tuple[Callable, Callable, Callable]:
    """(the op, the op in place, its definition)."""
    it, attributes = OPS[case.op], tuple(case.attributes.items())
    if case.function:
        return case.function, functools.partial(case.function, in_place=True), case.definition
    definition = functools.partial(it.definition, **case.attributes)
    return _bound(case.op, attributes, False), _bound(case.op, attributes, True), definition


def contenders(case: Case, device, copies: int) -> dict[str, Contender]:
    """Name -> contender, the op's own first; rivals that are numpy's do not run here."""
    own, over, definition = functions(case)
    alias = OPS[case.op].alias is not None
    args = (case.arrays, copies, device)
    found = {"in place": in_place(over, *args)} if alias else {}
    found["fresh"] = fresh(own, *args)
    found["definition"] = fresh(definition, *args)
    if alias:
        found["definition in place"] = in_place(definition, *args)
    for name, rival in case.rivals.items():
        if hasattr(rival, "lower"):
            found[name] = fresh(rival, *args)
    for name, rival in case.libraries.items():
        if rival.torch and not _torch_runs_on(device):
            continue
        if rival.torch:
            found[name] = in_torch(rival.function, case.arrays[0], copies, device)
        else:
            found[name] = in_place(rival.function, (case.arrays[0],), copies, device)
    return found


def check(case: Case, device) -> None:
    """The op on the device gives the CPU's bits, on this very input."""
    own, _, _ = functions(case)
    wanted, got = (
        jax.tree.leaves(jax.jit(own)(*jax.device_put(case.arrays, where)))
        for where in (jax.devices("cpu")[0], device)
    )
    for g, w in zip(map(np.asarray, got), map(np.asarray, wanted), strict=True):
        np.testing.assert_array_equal(g.view(np.uint8), w.view(np.uint8), err_msg=case.name)


def moved(case: Case) -> int:
    """Bytes of all inputs, each read once, and of all outputs, each written once."""
    outs = jax.eval_shape(functions(case)[0], *case.arrays)
    size = lambda array: int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize
    return sum(map(size, (*case.arrays, *jax.tree.leaves(outs))))


def measure(case: Case, device, copy: float, launches: int, rotated: int = ROTATED) -> dict:
    """One row.

    Args:
        copy: `copy_gbs` of the device, which a row's bandwidth is a share of.
    """
    copies = copies_of(case, rotated)
    times = {
        name: seconds(contender, copies, launches)
        for name, contender in contenders(case, device, copies).items()
    }
    own = next(iter(times))
    gbs = moved(case) / times[own] / 1e9
    pairs = {"definition": "fresh", "definition in place": "in place"}
    ratios = {
        name: round(t / times[pairs.get(name, own)], 2)
        for name, t in times.items()
        if name not in ("in place", "fresh")
    }
    row = {"case": case.name, "copies": copies}
    row["ms"] = {name: round(1e3 * t, 4) for name, t in times.items()}
    row |= {"gbs": round(gbs, 1), "share_of_copy": round(gbs / copy, 3)}
    row |= {"times_faster_than": ratios}
    return row | {"missed": missed(row)}


def missed(row: dict) -> dict[str, str]:
    """Name -> figure and goal, of the goals on a GPU that the row does not meet."""
    goals, faster = GOALS.get(row["case"], {}), row["times_faster_than"]
    found = {k: f"{faster[k]} < {goal}" for k, goal in goals.items() if faster.get(k, goal) < goal}
    if ONE_PASS.match(row["case"]) and row["share_of_copy"] < COPY_SHARE:
        found["copy"] = f"{row['share_of_copy']} < {COPY_SHARE}"
    if faster.get("definition", 1) < 1:
        found["definition"] = f"{faster['definition']} < 1: the kernel stays, for its bits"
    return found


def line(row: dict) -> str:
    """A row as one line of text."""
    own = next(iter(row["ms"]))
    parts = [f"{row['case']:58s} {row['ms'][own]:9.4f} ms {own:8s} {row['gbs']:7.1f} GB/s"]
    parts.append(f"{100 * row['share_of_copy']:.0f} % of copy")
    parts += [f"{r:.1f}x faster than {name}" for name, r in row["times_faster_than"].items()]
    parts += [f"GOAL MISSED ({name}: {why})" for name, why in row["missed"].items()]
    return "  ".join(parts)
