"""Ops: one decorated definition each, compiled kernels behind them. `OPS` is the registry."""

from bitlaw.ops import bits, hadamard, mask, pack, quantize, random, schedule, select, statistic
from bitlaw.ops.op import OPS, Op, isa, threads

__all__ = [
    "OPS",
    "Op",
    "bits",
    "hadamard",
    "isa",
    "mask",
    "pack",
    "quantize",
    "random",
    "schedule",
    "select",
    "statistic",
    "threads",
]
