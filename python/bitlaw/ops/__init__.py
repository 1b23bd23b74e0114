"""Ops: one decorated definition each, compiled kernels behind them. `OPS` is the registry."""

from bitlaw.ops import dispatch, mask, pack, quantize, schedule, select, stream
from bitlaw.ops.op import OPS, Op, isa, threads

__all__ = [
    "OPS",
    "Op",
    "dispatch",
    "isa",
    "mask",
    "pack",
    "quantize",
    "schedule",
    "select",
    "stream",
    "threads",
]
