"""Ops: one decorated definition each, compiled kernels behind them. `OPS` is the registry."""

from bitlaw.ops import histogram, mask, pack, quantize, schedule, select, transposable
from bitlaw.ops.op import OPS, Op, isa, threads

__all__ = ["OPS", "Op", "histogram", "isa", "mask", "pack", "quantize", "schedule", "select"]
__all__ += ["threads", "transposable"]
