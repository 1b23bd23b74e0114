"""Anybody's table: every kind of file reads the same; what is wrong is said with its row."""

import csv
import gzip
import json

import numpy as np
import pytest

from bitlaw import laws
from bitlaw.laws import Table, read_table
from laws.drawn import drawn
from laws.synthetic import EFFS, quick_rows


def rows():
    """A small table under somebody else's names, as text like a CSV's."""
    table = drawn("chinchilla", np.random.default_rng(0), 0.002)
    n, d, loss = (table.columns[k] for k in ("n_params", "d_tokens", "loss"))
    return [
        {"Model Size": float(a), "Training FLOP": float(6 * a * b), "loss": float(c)}
        for a, b, c in zip(n, d, loss, strict=True)
    ]


def write_csv(path, records):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        writer.writerows(records)
    return path


def write_parquet(path, records):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(records), path)


def write(path, records):
    text = json.dumps(records)
    match path.name.partition(".")[2]:
        case "csv":
            write_csv(path, records)
        case "csv.gz":
            plain = write_csv(path.with_suffix(".plain"), records)
            path.write_bytes(gzip.compress(plain.read_bytes()))
        case "jsonl":
            path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
        case "json":
            path.write_text(text)
        case "parquet":
            write_parquet(path, records)
    return path


NAMES = {"n_params": "Model Size", "flop": "Training FLOP"}
TOKENS = {"d_tokens": "flop / (6 * n_params)"}


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "json", "parquet"])
def test_every_kind_of_file_gives_the_same_numbers(tmp_path, kind):
    table = read_table(write(tmp_path / f"runs.{kind}", rows()), NAMES, TOKENS)
    expected = drawn("chinchilla", np.random.default_rng(0), 0.002)
    for name in ("n_params", "d_tokens", "loss"):
        np.testing.assert_allclose(table.checked(name), expected.checked(name), rtol=1e-15)
    assert table.source == f"runs.{kind}"


def test_json_may_hold_columns(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"loss": {"0": 2.0, "1": 3.0}, "n_params": {"0": 1, "1": 2}}))
    assert read_table(path).checked("loss").tolist() == [2.0, 3.0]
    path.write_text(json.dumps({"loss": [2.0, 3.0]}))
    assert read_table(path).checked("loss").tolist() == [2.0, 3.0]


def test_the_highest_losses_are_dropped_and_named(tmp_path):
    path = write(tmp_path / "runs.csv", rows())
    table = read_table(path, NAMES, TOKENS, drop_highest=5)
    every = sorted(row["loss"] for row in rows())
    assert sorted(table.checked("loss")) == every[:-5]
    assert [reason for _, reason in table.excluded] == ["one of the 5 highest losses"] * 5
    lost = Table.of({"loss": ["", 2.0, 3.0], "status": ["diverged", "ok", "ok"]})
    assert lost.without_highest(1).rows.tolist() == [1, 2]
    fit = laws.fit(table, "chinchilla", resamples=20)
    assert fit.rows == 30 and len(fit.residuals) == 25 and fit.excluded == table.excluded


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("runs.txt", b"", r"runs must be a file of \.csv"),
        ("runs.csv", b"", "a header and at least one row"),
        ("runs.csv", b"a,b\n", "at least one row, got none"),
        ("runs.csv", b"a,b\n1,2\n3\n", "row 2 must have 2 entries, got 1"),
        ("runs.csv", b"a,a\n1,2\n", r"names of their own, got \['a'\] twice"),
        ("runs.csv", b"\xff\xfe\x00", "must be text in UTF-8, got .* codec can't decode"),
        ("runs.csv", b"a;b\n1;2\n", "columns must be separated by commas, got ';' in the header"),
        ("runs.csv", b"a\tb\n1\t2\n", r"separated by commas, got '\\t' in the header"),
        ("runs.json", b"[" * 100_000, "recursion"),
        ("runs.csv.gz", b"no gzip", "gzip"),
        ("runs.jsonl", b"{}\n[1]\n", "one JSON object per row"),
        ("runs.jsonl", b'{"a": 1}\n{"a": ', "Expecting value"),
        ("runs.json", b'{"a": {"0": 1}, "b": {"1": 2}}', "columns or rows of one shape"),
        ("runs.json", b"3", "one JSON object per row"),
        ("runs.parquet", b"PAR0", "runs must be a parquet file"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_table(tmp_path / name)
    assert name in str(error.value)


def test_a_header_with_spaces_or_a_mark_of_bytes_is_read(tmp_path):
    (tmp_path / "r.csv").write_bytes(b"\xef\xbb\xbfscheme, loss\r\ndense, 2.5\r\n")
    table = read_table(tmp_path / "r.csv")
    assert table.text("scheme").tolist() == ["dense"] and table.number("loss").tolist() == [2.5]


def test_a_column_of_lists_is_no_matrix():
    with pytest.raises(ValueError, match=r"loss must be a number, got \[1\] in row 1"):
        Table.of({"loss": [[1], [2]]}).checked("loss")


def test_a_missing_file_and_a_missing_column_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"readable file, got .*absent\.csv: No such file"):
        read_table(tmp_path / "absent.csv")
    path = write(tmp_path / "runs.csv", rows())
    with pytest.raises(ValueError, match=r"got 'N'; there are \['Model Size', 'Training FLOP'"):
        read_table(path, {"n_params": "N"})
    with pytest.raises(ValueError, match=r"column 'd_tokens', got \['Training FLOP', 'loss', 'n_"):
        laws.fit(read_table(path, {"n_params": "Model Size"}), "chinchilla")


def changed(name, value, law="chinchilla", row=2):
    """A drawn table with one entry changed."""
    table = drawn(law, np.random.default_rng(0), 0.002)
    columns = {k: list(v) for k, v in table.columns.items()}
    columns[name][row] = value
    return Table.of(columns)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed("loss", "2,1"), "loss must be a number, got '2,1' in row 3"),
        (changed("loss", None), "loss must be a finite number, got None in row 3"),
        (changed("loss", np.nan), "got nan in row 3; a run that diverged has the status diverged"),
        (changed("loss", [2.0]), r"loss must be a number, got \[2.0\] in row 3"),
        (changed("loss", 10**400), "loss must be a number, got 1000.* in row 3"),
        (changed("loss", -1.0), "loss must be positive, got -1.0 in row 3"),
        (changed("loss", np.inf), "loss must be positive, got inf in row 3"),
        (changed("n_params", 0), "n_params must be positive, got 0"),
        (changed("d_tokens", "many"), "d_tokens must be a number, got 'many' in row 3"),
        (changed("sparsity", 1.0, "sparse"), r"sparsity must be in \[0, 1\), got 1.0 in row 3"),
        (changed("experts", 0.5, "routed"), "experts must be at least 1, got 0.5"),
        (changed("bits_w", 0.0, "precision"), "bits_w must be positive, got 0.0"),
        (changed("scheme", "lost", "gamma"), None),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_row(table, message):
    law = next(
        name
        for column, name in (
            ("sparsity", "sparse"), ("experts", "routed"), ("bits_w", "precision"),
            ("scheme", "gamma"), ("loss", "chinchilla"),
        )
        if column in table.columns
    )  # fmt: skip
    if message is None:  # a scheme of one run: a stated exclusion, no number, no error
        fit = laws.fit(table, law, resamples=20)
        assert fit.excluded == (("3", "lost: unidentified: one value of n_params"),)
        return
    with pytest.raises(ValueError, match=message):
        laws.fit(table, law, resamples=20)


def test_a_run_twice_is_refused():
    table = drawn("chinchilla")
    twice = {k: np.append(v, v[4]) for k, v in table.columns.items()}
    with pytest.raises(ValueError, match="the same sizes, seed and loss in rows 5 and 31"):
        laws.fit(Table.of(twice), "chinchilla")
    named = twice | {"loss": np.append(table.columns["loss"], 9.0), "run_id": ["r"] * 31}
    with pytest.raises(ValueError, match=r"run_id must be unique .*got 'r' in rows 1 and 2"):
        laws.fit(Table.of(named), "chinchilla")


@pytest.mark.parametrize("law", ["chinchilla", "effective"])
def test_errors_name_the_rows_of_the_file_in_its_order(tmp_path, law):
    """Fits sort their rows and may drop some first: neither moves what an error names."""
    records = [{k: v for k, v in row.items() if k != "run_id"} for row in quick_rows()[::-1]]
    records[0] |= {"loss": 99.0}  # the highest, dropped below

    def refusal(changed, drop):
        table = read_table(write_csv(tmp_path / "r.csv", changed), drop_highest=drop)
        with pytest.raises(ValueError) as error:
            laws.check(table, law)
        return str(error.value)

    def with_losses(*values):
        at = {9: values[0], 40: values[1]}
        return [row | {"loss": at.get(k, row["loss"])} for k, row in enumerate(records)]

    found = refusal(with_losses(-1.0, -9.0), 0)  # sorted by loss, the second comes first
    assert found.startswith("loss must be positive, got ") and found.endswith(" in row 10")
    other = "dense" if law == "effective" else "s=0.5"  # sorted by scheme, the second comes first
    twice = [dict(row) for row in records]
    twice[33] = records[33] | {"scheme": "dense", "seed": 7}
    twice[7] = twice[33] | {"scheme": other}
    assert "in rows 8 and 34" in refusal(twice, 1)
    fit = laws.fit(read_table(write_csv(tmp_path / "r.csv", records), drop_highest=1), law,
                   resamples=20)  # fmt: skip
    assert fit.excluded[0][0] == "1" and "1" not in dict(fit.residuals)
    assert fit.table["loss"][fit.table["run_id"].index("9")] == records[8]["loss"]


def test_a_diverged_run_of_runs_is_excluded_from_any_law():
    rows = quick_rows()
    rows[4] |= {"loss": "", "status": "diverged"}
    fit = laws.fit(laws.Runs.from_rows(rows), "chinchilla", resamples=20)
    assert fit.excluded == ((rows[4]["run_id"], "diverged"),)


def test_a_diverged_run_is_excluded_and_said():
    table = drawn("chinchilla", np.random.default_rng(0), 0.002)
    columns = {k: list(v) for k, v in table.columns.items()} | {"status": ["ok"] * 30}
    columns["status"][7], columns["loss"][7] = "diverged", ""
    fit = laws.fit(Table.of(columns), "chinchilla", resamples=20)
    assert fit.excluded == (("8", "diverged"),) and fit.rows == 30 and len(fit.residuals) == 29
    columns["status"][8] = "lost"
    with pytest.raises(ValueError, match="status must be ok or diverged, got 'lost' in row 9"):
        laws.fit(Table.of(columns), "chinchilla")


@pytest.mark.parametrize("law", ["chinchilla", "effective"])
def test_a_million_rows_are_refused_at_once(law):
    ones = np.linspace(1, 2, 1_000_000)
    table = Table.of({"n_params": ones, "d_tokens": ones, "loss": ones})
    with pytest.raises(ValueError, match="runs must hold at most 20000 rows, got 1000000"):
        laws.fit(table, law)


def test_the_effective_law_takes_any_table_too(tmp_path):
    renamed = {"n_params": "N", "d_tokens": "D", "loss": "val_loss", "scheme": "C"}
    records = [
        {renamed.get(k, k): v for k, v in row.items() if k != "n_total"} for row in quick_rows()
    ]
    fit = laws.fit(read_table(write_csv(tmp_path / "r.csv", records), renamed), resamples=20)
    assert {entry.scheme: entry.eff for entry in fit.schemes} == pytest.approx(EFFS, rel=1e-5)
    assert fit.source == "r.csv"
