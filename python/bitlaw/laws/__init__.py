"""Scaling laws: tables of runs in, coefficients and effective multipliers with intervals out.

numpy and scipy only.
"""

from bitlaw.laws import forms, published
from bitlaw.laws.fit import check, fit
from bitlaw.laws.law import LawError
from bitlaw.laws.objective import Objective
from bitlaw.laws.record import Fit, Profile, Reference, SchemeFit
from bitlaw.laws.runs import Runs, read_runs
from bitlaw.laws.table import Table, read_table

__all__ = [
    "Fit",
    "LawError",
    "Objective",
    "Profile",
    "Reference",
    "Runs",
    "SchemeFit",
    "Table",
    "check",
    "fit",
    "forms",
    "published",
    "read_runs",
    "read_table",
]
