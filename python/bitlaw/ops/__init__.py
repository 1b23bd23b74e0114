"""Ops: one decorated definition each, compiled kernels behind them. `OPS` is the registry."""

from bitlaw.ops import (
    dispatch,
    histogram,
    mask,
    pack,
    quantize,
    schedule,
    select,
    stream,
    transposable,
)
from bitlaw.ops.op import OPS, Op, isa, threads

__all__ = [
    "OPS",
    "Op",
    "dispatch",
    "histogram",
    "isa",
    "mask",
    "pack",
    "quantize",
    "schedule",
    "select",
    "stream",
    "threads",
    "transposable",
]
