"""The cases of bench/ops.py: which ops, on what, against whom, with which goals."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from bench import rivals
from bitlaw.formats import QuantSpec
from bitlaw.formats.format import FORMATS
from bitlaw.formats.quantizer import Quantizer
from bitlaw.ops import OPS, hadamard, quantize, statistic
from bitlaw.ops.scale import outer_scale


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
        spec: of a quantization that other libraries have too.
        exact: whether the function equals its definition bit for bit; not where scales are of sums.
        fresh: whether calls that make a new output are timed too. One program serves many formats:
            they are timed for the first of them, and where there are rivals.
    """

    op: str
    label: str
    make: Callable[[], tuple]
    attributes: dict
    rivals: dict[str, Callable]
    goals: dict[str, float]
    function: Callable | None = None
    definition: Callable | None = None
    spec: QuantSpec | None = None
    exact: bool = True
    fresh: bool = True

    @property
    def name(self) -> str:
        return f"{self.op} {self.label}"

    @property
    def libraries(self) -> dict[str, rivals.Rival]:
        """Name -> another library's way to do this."""
        return rivals.of(self.spec) if self.spec else {}

    @functools.cached_property
    def arrays(self) -> tuple:
        return self.make()


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# Formats that others have too.
RIVALLED = ("int4", "int8", "uint4", "e4m3", "nf4", "mxfp8", "mxfp6", "mxfp4", "nvfp4")
# Besides every format per tensor, row and block.
VARIANTS = (
    *("int4/row/stochastic", "int4/block32/stochastic", "mxfp4/stochastic", "int4/stochastic"),
    *("int4/row/mse_search", "int4/block32/mse_search"),
    *("int4/row/hadamard128", "quest4/row/hadamard128", "int4/block128/hadamard128"),
)


def _specs() -> Iterator[QuantSpec]:
    """Every format per tensor, per row and per block of 32, or of its own size."""
    for name, fmt in FORMATS.items():
        for granularity in ("tensor", "row", f"block{fmt.block or 32}"):
            yield QuantSpec.parse(f"{name}/{granularity}")
    yield from map(QuantSpec.parse, VARIANTS)


def _quantize_goals(spec: QuantSpec) -> dict[str, float]:
    goals = {"definition in place": 5.0 if spec.block else 1.0, "definition": 1.0}
    if spec.rule == "mse_search":
        goals["in-place scale"] = 20.0
    elif spec.rounding == "stochastic":
        goals["in-place scale"] = 3.0
    elif spec.granularity == "tensor" or spec.hadamard or spec.scaling == "e4m3":
        goals["in-place scale"] = 2.0
    elif spec.rule == "absmax":
        goals["in-place scale"] = 1.5
    return goals


@functools.cache
def _quantizer(structure: Quantizer) -> tuple[Callable, Callable]:
    """(the op as `bitlaw.fake_quantize` calls it, its definition); formats of a kind share both."""

    def function(x, grid, key, in_place=False):
        return structure(x, grid, key if structure.stochastic else None, in_place=in_place)

    def definition(x, grid, key):
        xp, grid = x.__array_namespace__(), grid[None]
        rows, block = x.shape[0], structure.block or x.shape[1]
        one, plain = x.reshape(1, -1), {"pruned": False, "hadamard": structure.hadamard}
        if structure.scaling == "e4m3":
            high, _ = statistic.group_statistic.definition(
                one, block=x.size, statistic="absmax", **plain
            )
            outer = outer_scale.definition(high, grid)
            grid = xp.concatenate([grid[:, :4], outer], axis=1)
        grids = xp.broadcast_to(grid, (rows, 5))
        whole = structure.granularity == "tensor"
        scale, zero = quantize.scale_of(
            one if whole else x,
            grid if whole else grids,
            block=x.size if whole else block,
            kind=structure.kind,
            statistic=structure.statistic,
            scaling=structure.scaling,
            **plain,
        )
        scale, zero = (xp.broadcast_to(a, (rows, a.shape[1])) for a in (scale, zero))
        noise = structure.noise(key, rows, 1, xp)
        attributes = structure.attributes() | {"estimator": "identity", "block": block} | plain
        return quantize.fake_quantize_scaled.definition(x, scale, zero, grids, noise, **attributes)[
            0
        ]

    return function, definition


@functools.lru_cache(maxsize=1)
def _matrix(n: int, dtype: str) -> np.ndarray:
    return _normal(n, n).astype(jnp.dtype(dtype))


def _quantize_arrays(n: int, dtype: str, spec: QuantSpec) -> tuple:
    return _matrix(n, dtype), spec.grid, np.array([1, 2], np.uint32)


def _quantize_cases(n: int) -> Iterator[Case]:
    seen = set()
    for dtype in ("float32", "bfloat16"):
        for spec in _specs():
            function, definition = _quantizer(spec.structure)
            rivalled = spec.format in RIVALLED
            first = (spec.structure, dtype) not in seen
            seen.add((spec.structure, dtype))
            yield Case(
                op="fake_quantize",
                label=f"{_named(spec)} {n}x{n} {dtype}",
                make=functools.partial(_quantize_arrays, n, dtype, spec),
                attributes={},
                rivals={},
                goals=_quantize_goals(spec),
                function=function,
                definition=definition,
                spec=spec if rivalled else None,
                exact=not spec.structure.counts,
                fresh=first or rivalled,
            )


def _named(spec: QuantSpec) -> str:
    """The spec with what shares a scale always in it."""
    shared = f"block{spec.block}" if spec.block else spec.granularity
    words = str(spec).split("/")
    return str(spec) if shared in words else "/".join([words[0], shared, *words[1:]])


def _masked_cases(n: int) -> Iterator[Case]:
    """Fake quantization that keeps the mask of an estimator, as the forward of training does."""
    for text in ("int4/row", "int4/block32", "quest4/row"):
        spec = QuantSpec.parse(text)
        attributes = spec.structure.attributes() | {"block": spec.block or n, "pruned": False}
        attributes |= {"statistic": spec.structure.statistic, "estimator": spec.estimator}
        grid = np.broadcast_to(spec.grid, (n, 5))
        make = lambda grid=grid: (_matrix(n, "float32"), grid, np.zeros((n, 0), np.uint32))
        label = f"{text} {spec.estimator} {n}x{n} float32"
        yield Case("fake_quantize", label, make, attributes, {}, {})


def _rest(covered: set[str]) -> Iterator[Case]:
    """The largest example of every op that has no case of its own; lists are bench.packing's."""
    for name, it in OPS.items():
        examples = [*it.examples(np.random.default_rng(0))]
        if name not in covered and not any(isinstance(a, list) for a in examples[0][0]):
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


def _cuda_cases() -> Iterator[Case]:
    """A selection that takes a GPU's bandwidth, and packed codes (goals: bench/cuda.py)."""
    n = 100_000_000
    make = lambda: (_normal(1, n), np.array([n // 10], np.int32))
    sort = jax.jit(lambda x, keep: jnp.abs(x[0]) >= jnp.sort(jnp.abs(x[0]))[n - keep[0]])
    top_k = jax.jit(lambda x, keep: jax.lax.top_k(jnp.abs(x[0]), n // 10)[1])
    rivals = {"jnp.sort": sort, "lax.top_k": top_k}
    yield Case("top_k_mask", "10 % of 100M float32", make, {}, rivals, {})

    side, spec = 4096, QuantSpec.parse("int4/row")
    attributes = spec.structure.attributes() | {"block": side, "bits": 4}
    attributes |= {"statistic": "absmax", "estimator": "identity"}
    grid = np.broadcast_to(spec.grid, (side, 5))
    make = lambda: (_matrix(side, "float32"), grid, np.zeros((side, 0), np.uint32))
    yield Case("quantize", f"int4/row {side}x{side} float32", make, attributes, {}, {})


def cases(side: int = 4096, device: str = "cpu") -> Iterator[Case]:
    """Every case; quantization on matrices of side x side."""
    if device == "cuda":
        yield from _cuda_cases()
    own = [
        *_quantize_cases(side),
        *_masked_cases(side),
        *_mask_cases(),
        *_code_cases(),
        *_host_cases(),
    ]
    yield from own
    yield from _rest({case.op for case in own})
