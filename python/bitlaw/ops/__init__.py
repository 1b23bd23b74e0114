"""Ops: one decorated definition each, compiled kernels behind them. `OPS` is the registry."""

from bitlaw.ops import (
    bits,
    codes,
    dispatch,
    hadamard,
    histogram,
    learned,
    mask,
    pack,
    quantize,
    random,
    scale,
    schedule,
    select,
    statistic,
    stream,
    transposable,
)
from bitlaw.ops.op import OPS, Op, isa, threads

__all__ = [
    "OPS",
    "Op",
    "bits",
    "codes",
    "dispatch",
    "hadamard",
    "histogram",
    "isa",
    "learned",
    "mask",
    "pack",
    "quantize",
    "random",
    "scale",
    "schedule",
    "select",
    "statistic",
    "stream",
    "threads",
    "transposable",
]
