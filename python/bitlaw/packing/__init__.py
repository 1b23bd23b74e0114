"""Packing sequences into rows: plans from lengths, rows from plans, targets that stay inside."""

from bitlaw.packing import dispatch
from bitlaw.packing.plan import Plan, plan
from bitlaw.packing.rows import materialize, shift

__all__ = ["Plan", "dispatch", "materialize", "plan", "shift"]
