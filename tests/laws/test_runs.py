"""What a table of runs must be, and what is said when it is not."""

import pytest

from bitlaw.laws import Runs, read_runs
from laws.synthetic import quick_rows


def changed(**values):
    """The quick table's rows with the second one changed."""
    rows = quick_rows()
    rows[1] = rows[1] | values
    return rows


def test_schemes_come_in_one_order_whatever_the_order_of_the_rows():
    names = ["w=quest10/channel", "s=0.75", "dense", "w=quest2/channel", "s=0.5"]
    rows = [row | {"scheme": name, "run_id": name} for row in quick_rows()[:1] for name in names]
    expected = ["dense", "s=0.5", "s=0.75", "w=quest2/channel", "w=quest10/channel"]
    assert Runs.from_rows(rows).schemes() == expected
    assert Runs.from_rows(rows[::-1]).schemes() == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row"),
        ([{"scheme": "dense", "n_params": 1, "d_tokens": 1}], "must have a column 'loss'"),
        (changed(loss="abc"), "loss must be a number, got 'abc' in row 2"),
        (changed(loss="nan"), "loss must be finite, got 'nan' in row 2; a run that diverged has"),
        (changed(loss=-1.0), "loss must be positive, got -1.0 in row 2"),
        (changed(loss=""), "loss must be a number, got '' in row 2; a run that diverged has"),
        (changed(loss=1e300), r"loss must be between 1e-30 and 1e\+30, got 1e\+300 in row 2"),
        (changed(n_params=10**400), "n_params must be a number, got 1000.* in row 2"),
        (changed(scheme="a\nb"), r"scheme must be one printable line, got 'a\\nb' in row 2"),
        (changed(n_params="6k"), "n_params must be a number, got '6k' in row 2"),
        (changed(d_tokens=0), "d_tokens must be positive, got 0 in row 2"),
        (changed(seed=0.5), "seed must be an integer, got 0.5 in row 2"),
        (changed(scheme=""), "scheme must not be empty"),
        (changed(status="lost"), "status must be one of"),
        (changed(run_id=quick_rows()[0]["run_id"]), "run_id must be unique .* rows 1 and 2"),
        (changed(seed=0), r"seed\) must be unique over runs, got dense, .*, 0 in rows 1 and 2"),
        ([r for r in quick_rows() if r["scheme"] != "dense"], "must include the scheme 'dense'"),
        (quick_rows() * 400, "at most 20000 rows, got 25200"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(rows, message):
    with pytest.raises(ValueError, match=message) as error:
        Runs.from_rows(rows)
    assert "\n" not in str(error.value)


def test_a_diverged_run_needs_no_loss():
    runs = Runs.from_rows(changed(loss="", status="diverged"))
    assert runs.diverged.sum() == 1


def test_a_csv_is_read_as_its_rows(tmp_path):
    rows = quick_rows()
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(lines))
    assert read_runs(path).loss.tolist() == [row["loss"] for row in rows]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())  # as Excel writes it
    assert read_runs(path).loss.tolist() == [row["loss"] for row in rows]
    for bad in (lines[2] + ",1", "dense,1"):
        path.write_text("\n".join([*lines[:2], bad]))
        with pytest.raises(ValueError, match="row 2 must have an entry for each column"):
            read_runs(path)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"runs must be a readable CSV file, got .*nowhere\.csv"):
        read_runs(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.csv"):
        read_runs(tmp_path / "binary.csv")
