"""Pruning: masks of one bit per weight, schedules that end on target, optax transformations."""

from bitlaw.sparsity.masks import BitMask, nm_mask, top_k_mask
from bitlaw.sparsity.schedules import Cubic

_UPDATES = ("PrunedState", "masks_of", "pruned")
__all__ = ["BitMask", "Cubic", "PrunedState", "masks_of", "nm_mask", "pruned", "top_k_mask"]


def __getattr__(name: str):
    # The transformations need optax, which a user of the masks need not have.
    if name in _UPDATES:
        from bitlaw.sparsity import updates

        return getattr(updates, name)
    raise AttributeError(f"module 'bitlaw.sparsity' has no attribute {name!r}")
