"""Low-bit and sparse training in JAX: exact fused kernels, and what a compression costs.

The public names, loaded on first use: `bitlaw.laws` needs no JAX, and `bitlaw --help` is quick.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

# Public name -> the module that has it.
_NAMES = {
    "fake_quantize": "bitlaw.formats",
    "quantize": "bitlaw.formats",
    "dequantize": "bitlaw.formats",
    "quantize_params": "bitlaw.formats",
    "compress_params": "bitlaw.formats",
    "decompress_params": "bitlaw.formats",
    "dot_general": "bitlaw.formats",
    "make_dot_general": "bitlaw.formats",
    "saved_bytes": "bitlaw.formats",
    "ste": "bitlaw.formats",
    "QArray": "bitlaw.formats",
    "QuantSpec": "bitlaw.formats",
    "Scheme": "bitlaw.formats",
    "BitMask": "bitlaw.sparsity",
    "top_k_mask": "bitlaw.sparsity",
    "nm_mask": "bitlaw.sparsity",
    "dispatch": "bitlaw.packing",
    "global_masks": "bitlaw.sparsity",
}
_MODULES = ("ops", "formats", "sparsity", "packing", "models", "train", "laws", "studies")

__all__ = [*_NAMES, *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"bitlaw.{name}")
    raise AttributeError(f"module 'bitlaw' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
