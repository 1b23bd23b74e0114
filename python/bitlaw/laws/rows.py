"""The runs of a table that enter the fit of a law, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitlaw.laws.law import Law
from bitlaw.laws.problem import Array
from bitlaw.laws.runs import MAX_ROWS, SEEDS, repeated
from bitlaw.laws.table import Table

SIZES = ("n_params", "n_average", "n_nonzero")


@dataclass(frozen=True)
class Rows:
    """The runs that enter a fit, checked; ``table`` knows their ids and what was excluded."""

    table: Table
    columns: dict[str, Array]
    absent: tuple[str, ...]  # optional columns that the table does not have
    scheme: NDArray[np.str_]  # all dense where the law has no multiplier per scheme
    label: NDArray[np.str_]  # the table's schemes, whatever the law
    seed: Array
    loss: Array

    def stored(self, law: Law) -> dict[str, tuple]:
        """The columns as the record keeps them."""
        kept: dict[str, tuple] = {"run_id": tuple(self.table.run_id)}
        if law.has_schemes:
            kept["scheme"] = tuple(self.scheme.tolist())
        for name in law.columns:
            if name not in self.absent:
                kept[name] = tuple(self.columns[name].tolist())
        seeds = tuple(self.seed.astype(int).tolist())
        return kept | {"seed": seeds, "loss": tuple(self.loss.tolist())}

    @property
    def size(self) -> Array:
        """What tells trunks apart: a column ``size``, or the dense size where it can be known."""
        if "size" in self.table.columns:
            return self.table.checked("size")
        name = next((name for name in SIZES if name in self.columns), next(iter(self.columns)))
        if name == "n_nonzero" and "sparsity" in self.columns:
            return np.round(self.columns[name] / (1 - self.columns["sparsity"]))
        return self.columns[name]

    @property
    def merged(self) -> tuple[str, ...]:
        """The schemes that this law cannot tell apart, if there are any.

        A law of the non-zero or average size means schemes to fall on one curve.
        """
        if "n_params" not in self.columns or len(set(self.scheme.tolist())) > 1:
            return ()
        names: dict[str, set[str]] = {}
        for label, key in zip(self.label.tolist(), self.configuration.tolist(), strict=True):
            names.setdefault(key, set()).add(label)
        return tuple(sorted(set().union(*(x for x in names.values() if len(x) > 1))))

    @property
    def configuration(self) -> NDArray:
        """A label per compression: the scheme and whatever is neither size nor budget."""
        others = [c for name, c in self.columns.items() if not name.startswith(("n_", "d_"))]
        return np.array([str(key) for key in zip(self.scheme.tolist(), *others, strict=True)])


def checked_rows(table: Table, law: Law) -> Rows:
    """The runs of the table that enter the fit.

    Raises:
        ValueError: a column is missing, a value cannot be, a run appears twice, or there are too
            many rows.
    """
    table = table.converged()
    if len(table) > MAX_ROWS:
        raise ValueError(f"runs must hold at most {MAX_ROWS} rows, got {len(table)}")
    absent = tuple(x for x in law.columns if x in law.defaults and x not in table.columns)
    columns = {
        name: np.full(len(table), law.defaults[name]) if name in absent else table.checked(name)
        for name in law.columns
    }
    loss = table.checked("loss")
    seed = table.checked("seed") if "seed" in table.columns else np.zeros(len(table))
    dense = np.full(len(table), "dense")
    label = table.text("scheme") if "scheme" in table.columns or law.has_schemes else dense
    scheme = label if law.has_schemes else dense
    _refuse_duplicates(table, [*columns.values(), seed, loss], scheme)
    order = _order(table, law)  # once every error has named the first row of the file that has it
    table, scheme, label, seed, loss = (x[order] for x in (table, scheme, label, seed, loss))
    columns = {name: column[order] for name, column in columns.items()}
    doubts = _unidentified_schemes(scheme, columns) if law.has_schemes else {}
    lost = np.isin(scheme, list(doubts))
    for name, reason in doubts.items():
        table = table.without(table.text("scheme") == name, f"{name}: {reason}")
    columns = {name: column[~lost] for name, column in columns.items()}
    return Rows(table, columns, absent, scheme[~lost], label[~lost], seed[~lost], loss[~lost])


def _order(table: Table, law: Law) -> NDArray[np.int64]:
    """An order of the rows' own: a bootstrap draws by place, and files have any order."""
    there = [x for x in ("loss", "seed", *law.columns) if x in table.columns]
    keys = [table.number(name) for name in there]
    if "scheme" in table.columns:
        keys.append(table.text("scheme"))
    return np.lexsort(keys)


def _refuse_duplicates(table: Table, numbers: list[Array], scheme: NDArray[np.str_]) -> None:
    """Two rows of one run would count twice and narrow the intervals."""
    ids = table.run_id
    if found := repeated(ids):
        rows = " and ".join(str(table.rows[place]) for place in found)
        raise ValueError(f"run_id must be unique over runs, got {ids[found[0]]!r} in rows {rows}")
    if found := repeated(zip(scheme.tolist(), *(x.tolist() for x in numbers), strict=True)):
        rows = " and ".join(str(table.rows[place]) for place in found)
        raise ValueError(
            f"runs must be unique, got the same sizes, seed and loss in rows {rows}{SEEDS}"
        )


def _unidentified_schemes(scheme: NDArray[np.str_], columns: dict[str, Array]) -> dict[str, str]:
    """The schemes that their runs say nothing certain about, and why; not dense."""
    found, names = {}, sorted(set(scheme.tolist()))
    if "dense" not in names:
        raise ValueError(f"runs must include the scheme 'dense' (the baseline), got {names}")
    for name in names:
        if name == "dense":
            continue
        mine = scheme == name
        for what, column in columns.items():
            if len(np.unique(column[mine])) < 2 <= len(np.unique(column)):
                found[name] = f"unidentified: one value of {what}"
                break
    return found
