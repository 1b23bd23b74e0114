"""The laws, each a plain function of sizes, budgets and named coefficients.

Units everywhere: ``n_params`` counts the weights a compression acts on (the block matrices, no
embeddings and no head), ``d_tokens`` counts training tokens (bytes, for a byte-level model), losses
are nats per token. Coefficients carry the units that make every term a loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def effective(
    n_params: ArrayLike,
    d_tokens: ArrayLike,
    eff: ArrayLike = 1.0,
    *,
    a: float,
    b: float,
    c: float,
    d: float,
    e: float,
) -> NDArray[np.float64]:
    """Loss of a model of N parameters trained on D tokens under a compression C.

        L(N, D, C) = a / (N * eff(C))^b + c / D^d + e

    A compression acts as if it made the model smaller: eff(C) is its effective parameter
    multiplier, one constant per compression, 1 for the dense baseline.

    Args:
        n_params: N, parameters of the dense model that the compression acts on.
        d_tokens: D, training tokens.
        eff: eff(C), dimensionless, above 0.
        a: nats * parameters^b.
        b: exponent of N, dimensionless.
        c: nats * tokens^d.
        d: exponent of D, dimensionless.
        e: nats, the loss that neither size nor data removes.
    Returns:
        f64, broadcast over the first three arguments.

    Source: arXiv:2502.16440 (Frantar, Evci, Park, Houlsby, Alistarh, 2025).
    """
    n_effective = np.asarray(n_params, np.float64) * np.asarray(eff, np.float64)
    return a * n_effective**-b + c * np.asarray(d_tokens, np.float64) ** -d + e
