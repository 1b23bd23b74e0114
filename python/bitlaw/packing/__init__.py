"""Packing: plans from lengths, rows from plans, streams, masks, and the proof of a batch."""

from bitlaw.packing import dispatch, images
from bitlaw.packing.masks import attention_mask, block_ranges, segment_means
from bitlaw.packing.plan import Plan, plan
from bitlaw.packing.rows import materialize, shift
from bitlaw.packing.stream import Stream
from bitlaw.packing.verify import verify

__all__ = [
    "Plan",
    "Stream",
    "attention_mask",
    "block_ranges",
    "dispatch",
    "images",
    "materialize",
    "plan",
    "segment_means",
    "shift",
    "verify",
]
