"""The laws, each a plain function of columns and named coefficients, and the table of them.

Units everywhere: ``n_params`` counts the weights a compression acts on (the block matrices, no
embeddings and no head), ``d_tokens`` counts training tokens (bytes, for a byte-level model), losses
are nats per token. Coefficients carry the units that make every term a loss; their annotations say
where a fit searches for them (`law`). To add a law, write its function here and name it in LAWS; or
keep it in a module of your own and fit it as ``my_module:my_law``.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitlaw.laws.capacity import capacity as multiplier
from bitlaw.laws.law import (
    Exponent,
    Law,
    Multiplier,
    Offset,
    amplitude,
    imported,
    positive,
)

Loss = NDArray[np.float64]
OfSize = Annotated[float, amplitude(n_params="alpha")]
OfData = Annotated[float, amplitude(d_tokens="beta")]


def effective(
    n_params: ArrayLike,
    d_tokens: ArrayLike,
    eff: Multiplier = 1.0,
    *,
    a: Annotated[float, amplitude(n_params="b")],
    b: Exponent,
    c: Annotated[float, amplitude(d_tokens="d")],
    d: Exponent,
    e: Offset,
) -> Loss:
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


def chinchilla(
    n_params: ArrayLike,
    d_tokens: ArrayLike,
    *,
    a: OfSize,
    alpha: Exponent,
    b: OfData,
    beta: Exponent,
    e: Offset,
) -> Loss:
    """Loss of a dense model.

        L(N, D) = e + a / N^alpha + b / D^beta

    Args:
        n_params: N, parameters (all of them in the source).
        d_tokens: D, training tokens.
        a: nats * parameters^alpha.
        alpha: exponent of N, dimensionless.
        b: nats * tokens^beta.
        beta: exponent of D, dimensionless.
        e: nats, the loss that neither size nor data removes.

    Source: arXiv:2203.15556 (Hoffmann et al., 2022), equation 2, with A, B, E in lower case.
    """
    n, d = np.asarray(n_params, np.float64), np.asarray(d_tokens, np.float64)
    return e + a * n**-alpha + b * d**-beta


def average(
    n_average: ArrayLike,
    d_tokens: ArrayLike,
    *,
    a: Annotated[float, amplitude(n_average="alpha")],
    alpha: Exponent,
    b: OfData,
    beta: Exponent,
    e: Offset,
) -> Loss:
    """Loss of a model whose number of non-zero weights changes while it is trained.

        L(N_avg, D) = e + a / N_avg^alpha + b / D^beta,   N_avg = mean over steps of N(t)

    So pruning during training and training sparse from the start fall on one curve.

    Args:
        n_average: N_avg, non-zero parameters averaged over the training steps.
        d_tokens: D, training tokens.
        a: nats * parameters^alpha.
        alpha: exponent of N_avg, dimensionless.
        b: nats * tokens^beta.
        beta: exponent of D, dimensionless.
        e: nats, the loss that neither size nor data removes.

    Source: arXiv:2501.12486 (Jin et al., 2025).
    """
    return chinchilla(n_average, d_tokens, a=a, alpha=alpha, b=b, beta=beta, e=e)


def sparse(
    sparsity: ArrayLike,
    n_nonzero: ArrayLike,
    d_tokens: ArrayLike,
    *,
    a_s: Annotated[float, amplitude(n_nonzero="b_n")],
    b_s: Exponent,
    c_s: Annotated[float, amplitude(n_nonzero="b_n")],
    b_n: Exponent,
    a_d: Annotated[float, positive(1e-3, 1e2, d_tokens=1.0)],
    b_d: Exponent,
    c: Offset,
) -> Loss:
    """Loss of a model pruned to sparsity S in training.

        L(S, N, D) = (a_S (1 - S)^b_S + c_S) (1 / N)^b_N + (a_D / D)^b_D + c

    N counts NON-ZERO parameters, unlike ``effective``, whose N counts all of them.

    Args:
        sparsity: S, share of the weights that is zero, in [0, 1).
        n_nonzero: N, non-zero parameters.
        d_tokens: D, training tokens, or images.
        a_s: nats * parameters^b_n.
        b_s: exponent of 1 - S, dimensionless.
        c_s: nats * parameters^b_n.
        b_n: exponent of N, dimensionless.
        a_d: tokens (or images) * nats^(1 / b_d).
        b_d: exponent of D, dimensionless.
        c: nats, the loss that neither size nor data removes.

    Source: arXiv:2309.08520 (Frantar, Riquelme, Houlsby, Alistarh, Evci, 2023), equation 1.
    """
    density = 1 - np.asarray(sparsity, np.float64)
    n, d = np.asarray(n_nonzero, np.float64), np.asarray(d_tokens, np.float64)
    return (a_s * density**b_s + c_s) * n**-b_n + (a_d / d) ** b_d + c


def routed(
    n_params: ArrayLike,
    experts: ArrayLike,
    *,
    a: float,
    b: float,
    c: float,
    d: float,
    e_start: Annotated[float, positive(1.0, 4.0)],
    e_max: Annotated[float, positive(100.0, 1000.0)],
) -> Loss:
    """Loss of a model of N dense parameters whose routed layers choose among E experts.

        log10 L(N, E) = a log10 N + b log10 E^ + c log10 N log10 E^ + d
        1 / E^ = 1 / (E - 1 + (1 / E_start - 1 / E_max)^-1) + 1 / E_max

    Args:
        n_params: N, parameters of the dense model; E = 1 is dense.
        experts: E, experts per routed layer, one of them used per token.
        a: per decade of parameters, dimensionless.
        b: per decade of experts, dimensionless.
        c: per decade of both, dimensionless.
        d: log10 of nats.
        e_start: E^ at E = 1, experts.
        e_max: where E^ saturates, experts.

    Source: arXiv:2202.01169 (Clark et al., 2022), equations 1 and 2.
    """
    log_n = np.log10(np.asarray(n_params, np.float64))
    first = 1 / (1 / e_start - 1 / e_max)
    log_e = -np.log10(1 / (np.asarray(experts, np.float64) - 1 + first) + 1 / e_max)
    return 10.0 ** (a * log_n + b * log_e + c * log_n * log_e + d)


def precision(
    n_params: ArrayLike,
    d_tokens: ArrayLike,
    bits_w: ArrayLike = np.inf,
    bits_a: ArrayLike = np.inf,
    bits_kv: ArrayLike = np.inf,
    *,
    a: OfSize,
    alpha: Exponent,
    b: OfData,
    beta: Exponent,
    e: Offset,
    gamma_w: Annotated[float, positive(0.5, 8.0)],
    gamma_a: Annotated[float, positive(0.5, 8.0)],
    gamma_kv: Annotated[float, positive(0.5, 8.0)],
) -> Loss:
    """Loss of a model trained with weights, activations and key-value cache of few bits.

        L = a / N_eff^alpha + b / D^beta + e
        N_eff = N (1 - e^(-P_w / gamma_w)) (1 - e^(-P_a / gamma_a)) (1 - e^(-P_kv / gamma_kv))

    Args:
        n_params: N, parameters.
        d_tokens: D, training tokens.
        bits_w: P_w, bits of the weights; infinite is not quantized.
        bits_a: P_a, bits of the activations.
        bits_kv: P_kv, bits of the key-value cache.
        a: nats * parameters^alpha.
        alpha: exponent of N_eff, dimensionless.
        b: nats * tokens^beta.
        beta: exponent of D, dimensionless.
        e: nats, the loss that neither size nor data removes.
        gamma_w: bits.
        gamma_a: bits.
        gamma_kv: bits.

    Source: arXiv:2411.04330 (Kumar et al., 2024).
    """
    n = np.asarray(n_params, np.float64)
    for bits, gamma in ((bits_w, gamma_w), (bits_a, gamma_a), (bits_kv, gamma_kv)):
        n = n * -np.expm1(-np.asarray(bits, np.float64) / gamma)
    return chinchilla(n, d_tokens, a=a, alpha=alpha, b=b, beta=beta, e=e)


def capacity(
    n_params: ArrayLike,
    d_tokens: ArrayLike,
    gmse: ArrayLike,
    *,
    a: OfSize,
    alpha: Exponent,
    b: OfData,
    beta: Exponent,
    e: Offset,
    f: Annotated[float, positive(0.2, 3.0)],
    k: Annotated[float, positive(0.2, 3.0)],
) -> Loss:
    """Loss of a model whose effective size follows from the error of its number format.

        L = a / (N rho)^alpha + b / D^beta + e,   rho = tanh(f log_(1/4) GMSE)^k

    The published rho has a factor before tanh; here it is 1, as GMSE = 0 must give 1: next to a,
    which takes up any other, it is not identified.

    Args:
        n_params: N, parameters.
        d_tokens: D, training tokens.
        gmse: GMSE, least mean squared error of the format on N(0, 1), in [0, 1); 0 is not
            quantized.
        a: nats * parameters^alpha.
        alpha: exponent of N rho, dimensionless.
        b: nats * tokens^beta.
        beta: exponent of D, dimensionless.
        e: nats, the loss that neither size nor data removes.
        f: dimensionless.
        k: dimensionless.

    Source: arXiv:2506.01863.
    """
    n = np.asarray(n_params, np.float64) * multiplier(gmse, f=f, k=k)
    return chinchilla(n, d_tokens, a=a, alpha=alpha, b=b, beta=beta, e=e)


def qat(
    n_params: ArrayLike,
    d_tokens: ArrayLike,
    group: ArrayLike = 1.0,
    *,
    a: OfSize,
    alpha: Exponent,
    b: OfData,
    beta: Exponent,
    e: Offset,
    k: Annotated[float, amplitude(n_params="g_n", d_tokens="-g_d")],
    g_n: Exponent,
    g_d: Exponent,
    g_g: Exponent,
) -> Loss:
    """Loss of a model trained quantized in groups of G values, of one format.

        L = e + a / N^alpha + b / D^beta + k D^g_D (log2 G)^g_G / N^g_N

    The last term is the error of quantization; it grows with D, which ``effective`` denies.

    Args:
        n_params: N, parameters.
        d_tokens: D, training tokens.
        group: G, values that share a scale; 1 is not quantized.
        a: nats * parameters^alpha.
        alpha: exponent of N, dimensionless.
        b: nats * tokens^beta.
        beta: exponent of D, dimensionless.
        e: nats, the loss that neither size nor data removes.
        k: nats * parameters^g_n / tokens^g_d.
        g_n: exponent of N, dimensionless.
        g_d: exponent of D, dimensionless.
        g_g: exponent of log2 G, dimensionless.

    Source: arXiv:2505.14302 (Chen et al., 2025).
    """
    n, d = np.asarray(n_params, np.float64), np.asarray(d_tokens, np.float64)
    error = k * d**g_d * np.log2(np.asarray(group, np.float64)) ** g_g * n**-g_n
    return chinchilla(n, d, a=a, alpha=alpha, b=b, beta=beta, e=e) + error


def gamma(
    n_params: ArrayLike,
    d_tokens: ArrayLike,
    eff_n: Multiplier = 1.0,
    eff_d: Multiplier = 1.0,
    *,
    a: Annotated[float, positive(0.1, 10.0, n_params="alpha")],
    alpha: Exponent,
    b: Annotated[float, positive(0.1, 10.0, d_tokens="beta")],
    beta: Exponent,
    gamma: Exponent,
    e: Offset,
) -> Loss:
    """Loss where a compression costs parameters and data, and the two terms share an exponent.

        L = (a / (N eff_N)^alpha + b / (D eff_D)^beta)^gamma + e

    Args:
        n_params: N, parameters.
        d_tokens: D, training tokens.
        eff_n: multiplier of N, one per compression, dimensionless.
        eff_d: multiplier of D, one per compression, dimensionless.
        a: nats^(1 / gamma) * parameters^alpha.
        alpha: exponent of N, dimensionless.
        b: nats^(1 / gamma) * tokens^beta.
        beta: exponent of D, dimensionless.
        gamma: dimensionless.
        e: nats, the loss that neither size nor data removes.

    Source: arXiv:2505.14669 (Castro et al., 2025).
    """
    n = np.asarray(n_params, np.float64) * np.asarray(eff_n, np.float64)
    d = np.asarray(d_tokens, np.float64) * np.asarray(eff_d, np.float64)
    return (a * n**-alpha + b * d**-beta) ** gamma + e


LAWS = {
    form.__name__: Law.of(form)
    for form in (
        effective,
        chinchilla,
        sparse,
        routed,
        precision,
        capacity,
        qat,
        gamma,
        average,
    )
}


def find(name: str) -> Law:
    """The law of this name, or of ``module:function``.

    Raises:
        ValueError: there is none.
    """
    if ":" in name:
        return imported(name)
    if name not in LAWS:
        raise ValueError(f"law must be one of {sorted(LAWS)} or module:function, got {name!r}")
    return LAWS[name]
