"""Tables drawn from the published coefficients of every law, on designs like their sources'."""

import itertools

import numpy as np

from bitlaw.laws import Table, forms

SIZES = np.geomspace(1e7, 1e10, 6)
BUDGETS = np.geomspace(1e9, 1e11, 5)
REPLICATION = {"a": 482.01, "alpha": 0.3478, "b": 2085.43, "beta": 0.3659, "e": 1.8169}
SPARSE = {
    "a_s": 16.8, "b_s": 0.722, "c_s": 45.0, "b_n": 0.245, "a_d": 6.90e8, "b_d": 0.203, "c": 0.651,
}  # fmt: skip
# Law -> (its columns, crossed; coefficients). Sources: chinchilla arXiv:2404.10102, sparse
# 2309.08520 (T5), routed 2202.01169, precision 2411.04330, qat 2505.14302 (W4A4) on the dense law
# of 2404.10102; capacity, gamma and average have no published coefficients of their own here.
DESIGNS = {
    "chinchilla": ({"n_params": SIZES, "d_tokens": BUDGETS}, REPLICATION),
    "average": ({"n_average": SIZES, "d_tokens": BUDGETS}, REPLICATION),
    "sparse": (
        {"sparsity": (0, 0.5, 0.75, 0.875), "n_nonzero": SIZES, "d_tokens": BUDGETS},
        SPARSE,
    ),
    "routed": (
        {"n_params": SIZES, "experts": 2.0 ** np.arange(10)},
        {"a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104, "e_start": 1.847, "e_max": 314.5},
    ),
    "precision": (
        {"n_params": SIZES[::2], "d_tokens": BUDGETS[::2], "bits_w": (2, 3, 4, 8),
         "bits_a": (3, 4, 8), "bits_kv": (3, 8)},
        {"a": 4299.0, "alpha": 0.4965, "b": 18060.0, "beta": 0.4965, "e": 2.7648,
         "gamma_w": 2.6745, "gamma_a": 2.2102, "gamma_kv": 0.9578},
    ),
    "capacity": (
        {"n_params": SIZES, "d_tokens": BUDGETS, "gmse": (0, 0.0005, 0.0095, 0.0345, 0.1175)},
        REPLICATION | {"f": 0.8, "k": 1.3},
    ),
    "qat": (
        {"n_params": SIZES, "d_tokens": BUDGETS, "group": (1, 32, 64, 128, 256)},
        REPLICATION | {"k": 0.1582, "g_n": 0.2186, "g_d": 0.0745, "g_g": 0.7779},
    ),
    "gamma": (
        {"n_params": SIZES, "d_tokens": BUDGETS},
        {"a": 1.5e5, "alpha": 0.59, "b": 5.2e5, "beta": 0.54, "gamma": 0.27, "e": 1.35,
         "eff_n[w=mxfp4]": 0.65, "eff_d[w=mxfp4]": 0.95},
    ),
}  # fmt: skip


def drawn(law, rng=None, sd=0.0, schemes=("dense", "w=mxfp4")):
    """The table of a law's design, with noise of standard deviation ``sd`` on log loss."""
    axes, params = DESIGNS[law]
    rows = np.array(list(itertools.product(*axes.values())), float)
    crossed = dict(zip(axes, rows.T, strict=True))
    found = forms.LAWS[law]
    if not found.has_schemes:
        columns, loss = crossed, found.predict(crossed, params)
    else:
        columns = {name: np.tile(column, len(schemes)) for name, column in crossed.items()}
        columns["scheme"] = np.repeat(schemes, len(rows)).tolist()
        loss = np.concatenate([found.predict(crossed, params, scheme) for scheme in schemes])
    noise = sd * rng.standard_normal(len(loss)) if sd else 0.0
    return Table.of(columns | {"loss": loss * np.exp(noise)})
