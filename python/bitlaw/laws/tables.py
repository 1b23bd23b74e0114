"""Published tables of runs, refitted by their own objective and set beside their published fits.

    record = refit("t5-sparse")

A table is found in the folder that BITLAW_DATA_DIR names, or downloaded once with pooch; either way
its sha256 must be the registered one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bitlaw.laws import forms
from bitlaw.laws.fit import fit
from bitlaw.laws.objective import Objective
from bitlaw.laws.record import Fit, Reference
from bitlaw.laws.table import Table, read_table

DATA_DIR = "BITLAW_DATA_DIR"
JAXPRUNER = (
    "https://raw.githubusercontent.com/google-research/jaxpruner/"
    "f133ee50f31a03d0152b8b272edb534065152f5d/jaxpruner/projects/bigsparse/"
)
ROUTING = (
    "https://raw.githubusercontent.com/google-deepmind/scaling_laws_for_routing/"
    "42da0c392b127df2c01fa7b705f72396050d05e5/data/"
)
SPARSITIES = (0.5, 0.75, 0.875)


@dataclass(frozen=True)
class RunTable:
    """A published table, and what its authors did with it.

    file       its path inside BITLAW_DATA_DIR
    url        where it is published; ``sha256`` of the file there
    source     paper and repository
    licence    of the file
    law        a name of `forms.LAWS`
    objective  the authors' own
    columns    {our name: the file's}
    derive     {our name: expression}
    keep       takes out the rows that the authors did not fit, with the reason
    references what was published, in the units of `forms`
    derived    what to compute from coefficients, by name
    note       what a reader must know about the rows
    """

    file: str
    url: str
    sha256: str
    source: str
    licence: str
    law: str
    objective: Objective
    columns: dict[str, str]
    derive: dict[str, str] = field(default_factory=dict)
    keep: Callable[[Table], Table] = lambda table: table
    references: tuple[Reference, ...] = ()
    derived: Callable[[dict[str, float]], dict[str, float]] = lambda params: {}
    note: str = ""


def sparse_multiplier(sparsity: float, params: dict[str, float]) -> float:
    """How many dense parameters one non-zero parameter is worth at sparsity S.

        m(S) = ((a_S (1 - S)^b_S + c_S) / (a_S + c_S))^(-1 / b_N)

    Against total parameters the multiplier is m(S) (1 - S). Source: arXiv:2309.08520.
    """
    a, b, c = params["a_s"], params["b_s"], params["c_s"]
    return float(((a * (1 - sparsity) ** b + c) / (a + c)) ** (-1 / params["b_n"]))


def _sparse_derived(params: dict[str, float]) -> dict[str, float]:
    return {f"m({s:.1%} sparse)": sparse_multiplier(s, params) for s in SPARSITIES}


T5_POINT = "loss at N = 604.0M non-zero, S = 0.75, 500k steps"


def _t5_derived(params: dict[str, float]) -> dict[str, float]:
    point = forms.sparse(0.75, 604.0e6, 500_000 * 128 * 512, **params)
    return _sparse_derived(params) | {T5_POINT: float(point)}


def sparse_params(vector: tuple[float, ...], n_unit: float, d_unit: float) -> dict[str, float]:
    """The coefficients of `forms.sparse` from a published vector in the authors' units.

    L = (a (1 - S)^b_S + c) (N / n_unit)^-b_N + e (D / d_unit)^-f + g
    """
    a_s, b_s, c_s, b_n, e, f, g = vector
    grown = n_unit**b_n
    return {
        "a_s": a_s * grown, "b_s": b_s, "c_s": c_s * grown, "b_n": b_n,
        "a_d": d_unit * e ** (1 / f), "b_d": f, "c": g,
    }  # fmt: skip


def _routed_rows(table: Table) -> Table:
    """The final losses of dense and S-BASE models routed in half of the layers, one expert each."""
    step, ids = table.number("step"), np.array(table.run_id)
    order = np.lexsort((step, ids))
    final = np.append(ids[order][1:] != ids[order][:-1], True)
    table = table[np.sort(order[final])]
    for name, kept, reason in (
        ("router_type", lambda x: np.isin(x, ("S-Base", "Dense")), "another router"),
        ("routing_frequency", lambda x: x == 0.5, "routed in another share of the layers"),
        ("k", lambda x: x == 1, "several experts per token"),
        ("flop_increase", lambda x: x == 1, "more FLOPs per token"),
        ("seed", lambda x: x == 42, "a replicate of another seed"),
        ("step", lambda x: x >= 249_000, "stopped early"),
    ):
        column = table.text(name) if name == "router_type" else table.number(name)
        table = table.without(~kept(column), reason)
    return table


_SPARSE = "arXiv:2309.08520"
_SPARSE_FILES = f"{_SPARSE}; google-research/jaxpruner @ f133ee5"
CONVERTED = "a_s, c_s and a_d converted from the units of its fit"
_ROUTED = "arXiv:2202.01169; google-deepmind/scaling_laws_for_routing @ 42da0c3"

TABLES = {
    "t5-sparse": RunTable(
        file="bigsparse/t5-data.csv",
        url=JAXPRUNER + "t5-data.csv",
        sha256="a9c31ee9e3c2c6fb815f15eb0c6cb07b55383148621abc1973feac72eaaa1cab",
        source=_SPARSE_FILES,
        licence="Apache-2.0",
        law="sparse",
        objective=Objective("log", 0.001, "mean"),
        columns={"loss": "val-loss"},
        derive={
            "n_nonzero": "24 * 12 * 768**2 * scale * (1 - sparsity)",
            "d_tokens": "steps * 128 * 512",
        },
        references=(
            Reference(
                "published",
                _SPARSE,
                sparse_params(
                    (0.56779, 0.72161, 1.52265, 0.24513, 0.63362, 0.20271, 0.65074),
                    1e6,
                    1e5 * 128 * 512,
                ),
                note="not the optimum of its own objective, and the better extrapolation; "
                + CONVERTED,
            ),
            Reference("measured", _SPARSE, {}, derived={T5_POINT: 1.48278}, note="not fitted"),
        ),
        derived=_t5_derived,
        note="T5 on C4, 48 runs; N counts non-zero parameters of the blocks, D tokens",
    ),
    "vit-sparse": RunTable(
        file="bigsparse/vit-data.json",
        url=JAXPRUNER + "vit-data.json",
        sha256="7ab6f79e94978c03f77182691f49cbf55725e205db2ba2d9da78a857fc515aa8",
        source=_SPARSE_FILES,
        licence="Apache-2.0",
        law="sparse",
        objective=Objective("loss", 0.01, "mean"),
        columns={"loss": "val-loss", "d_tokens": "total_examples"},
        derive={"n_nonzero": "12 * 12 * 768**2 * scale * (1 - sparsity)"},
        references=(
            Reference(
                "published",
                _SPARSE,
                sparse_params(
                    (1.30485, 0.82101, 2.07506, 0.39223, 0.27818, 0.88979, 4.51669), 1e6, 1e9
                ),
                note=CONVERTED,
            ),
        ),
        derived=_sparse_derived,
        note="ViT on JFT-4B, 112 runs; N counts non-zero parameters of the blocks, D images, "
        "so that 6 N D is not its FLOPs",
    ),
    "routing": RunTable(
        file="routing/curves.csv.gz",
        url=ROUTING + "curves.csv.gz",
        sha256="c03e7531add85e594f368d33bac4a0220280be858a7ed12d147cf73af6a3819f",
        source=_ROUTED,
        licence="CC-BY 4.0",
        law="routed",
        objective=Objective("log10", None, "mean"),
        columns={
            "run_id": "hyper_id",
            "n_params": "dense_parameter_count",
            "experts": "num_experts",
            "loss": "loss_validation",
        },
        keep=_routed_rows,
        references=(
            Reference(
                "published",
                "arXiv:2202.01169, second-hand",
                {
                    "a": -0.082, "b": -0.108, "c": 0.009, "d": 1.104,
                    "e_start": 1.847, "e_max": 314.5,
                },
                note="fitted by its authors to more settings than these rows",
            ),
        ),
        note="dense (E = 1) and S-BASE models after 250,000 steps, the final step of each run",
    ),
}  # fmt: skip


def published_table(name: str, download: bool = True) -> Table:
    """The rows of a published table that its authors fitted.

    Args:
        name: of TABLES.
        download: where BITLAW_DATA_DIR does not have it, fetch it with pooch.

    Raises:
        ValueError: unknown name; the table is neither there nor to be had, or not the registered
            one.
    """
    entry = _entry(name)
    path = found(name)
    if path is None:
        path = _downloaded(entry) if download else None
    if path is None:
        raise ValueError(f"{DATA_DIR} must be a folder that holds {entry.file}, got none")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != entry.sha256:
        raise ValueError(f"{path} must have the sha256 {entry.sha256}, got {digest}")
    table = entry.keep(read_table(path, entry.columns, entry.derive))
    return replace(table, source=f"{name}: {entry.source}; {entry.licence}")


def found(name: str) -> Path | None:
    """Where BITLAW_DATA_DIR holds this table, by its path or by its file's name alone."""
    folder, file = os.environ.get(DATA_DIR), _entry(name).file
    if not folder:
        return None
    places = (Path(folder) / file, Path(folder) / Path(file).name)
    return next((place for place in places if place.is_file()), None)


def _entry(name: str) -> RunTable:
    if name not in TABLES:
        raise ValueError(f"published must be one of {', '.join(TABLES)}, got {name!r}")
    return TABLES[name]


def _downloaded(entry: RunTable) -> Path:
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{DATA_DIR} must name a folder with {entry.file}, or pooch be installed to download "
            "it: pip install 'bitlaw[train]'"
        ) from error
    try:
        path = pooch.retrieve(
            entry.url, f"sha256:{entry.sha256}", Path(entry.file).name, pooch.os_cache("bitlaw")
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{entry.url} must be there to be downloaded, got: {error}; or put the file into the "
            f"folder that {DATA_DIR} names"
        ) from error
    return Path(path)


def refit(name: str, level: float = 0.9, resamples: int = 1000, seed: int = 0) -> Fit:
    """A published table fitted by its own objective, with what was published beside it."""
    entry, table = _entry(name), published_table(name)
    record = fit(
        table, entry.law, level=level, resamples=resamples, seed=seed, objective=entry.objective
    )
    law, columns = forms.LAWS[entry.law], {}
    for column in law.columns:
        columns[column] = np.array(record.table[column])
    references = []
    for reference in entry.references:
        if reference.params:
            fitted = law.predict(columns, reference.params)
            reference = replace(
                reference,
                objective=entry.objective.value(np.array(record.table["loss"]), fitted),
                derived=entry.derived(reference.params) | reference.derived,
            )
        references.append(reference)
    return replace(
        record,
        derived=entry.derived(record.params) if record.params else {},
        references=tuple(references),
        source=f"{table.source}; {entry.note}",
    )
