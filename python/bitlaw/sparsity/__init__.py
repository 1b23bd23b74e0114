"""Pruning: masks of one bit per weight, schedules that end on target, optax transformations."""

from bitlaw.sparsity.export import load_sparse, report, save_sparse
from bitlaw.sparsity.global_masks import global_masks, masks_keeping
from bitlaw.sparsity.masks import BitMask, nm_mask, select_threshold, top_k_mask
from bitlaw.sparsity.patterns import NM, Block, Channel, Pattern, Unstructured, transposable_mask
from bitlaw.sparsity.schedules import ACDC, Constant, Cubic, Listed, OneShot, Polynomial, Schedule
from bitlaw.sparsity.targets import distribute

# The transformations need optax, which a user of the masks need not have.
_LATE = {
    "PrunedState": "updates",
    "masks_of": "updates",
    "prune": "updates",
    "pruned": "updates",
    "static": "updates",
    "Exchange": "regrow",
    "rigl": "regrow",
    "set_": "regrow",
    "ste": "straight_through",
    "sr_ste": "straight_through",
    "s_ste": "straight_through",
}
__all__ = [
    "ACDC",
    "NM",
    "BitMask",
    "Block",
    "Channel",
    "Constant",
    "Cubic",
    "Listed",
    "OneShot",
    "Pattern",
    "Polynomial",
    "Schedule",
    "Unstructured",
    "distribute",
    "global_masks",
    "load_sparse",
    "masks_keeping",
    "nm_mask",
    "report",
    "save_sparse",
    "select_threshold",
    "top_k_mask",
    "transposable_mask",
    *_LATE,
]


def __getattr__(name: str):
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(f"bitlaw.sparsity.{_LATE[name]}"), name)
    raise AttributeError(f"module 'bitlaw.sparsity' has no attribute {name!r}")
