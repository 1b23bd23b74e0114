"""Scaling laws: tables of runs in, coefficients and effective multipliers with intervals out.

numpy and scipy only.
"""

from bitlaw.laws import forms, published
from bitlaw.laws.fit import fit
from bitlaw.laws.record import Fit, SchemeFit
from bitlaw.laws.runs import Runs, read_runs

__all__ = ["Fit", "Runs", "SchemeFit", "fit", "forms", "published", "read_runs"]
