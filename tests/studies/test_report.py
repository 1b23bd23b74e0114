"""A report made from runs.csv alone."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from bitlaw import laws
from bitlaw.pages import multipliers
from bitlaw.studies import report
from bitlaw.studies.rows import StudyError
from laws.synthetic import EFFS, SIZES, add_noise, quick_rows

QUICK = {"resamples": 20}


def noisy(**design):
    return add_noise(quick_rows(**design), np.random.default_rng(0), 0.008, 0.5)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of a report on a quick study, and the text it printed."""
    folder = study(tmp_path_factory.mktemp("quick"), noisy())
    return folder, report.write(folder, **QUICK)


def test_repeated_text_is_said(tmp_path):
    assert report.repeated(study(tmp_path, [{"epochs": 0.9}, {"epochs": ""}]) / "runs.csv") == []
    assert report.repeated(study(tmp_path, [{"scheme": "dense"}]) / "runs.csv") == []
    table = study(tmp_path, [{"epochs": e} for e in (0.5, 1.5, 4.5)]) / "runs.csv"
    (said,) = report.repeated(table)
    assert "2 runs see it more than once, up to 4.5 times, 1 of them more than 4 times" in said


def study(folder, rows):
    """A folder with these rows as its runs.csv."""
    with open(folder / "runs.csv", "w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], "status"])
        table.writeheader()
        table.writerows(rows)
    return folder


def test_a_report_is_the_record_the_page_and_the_figure(quick):
    folder, text = quick
    fit = laws.Fit.from_dict(json.loads((folder / "fit.json").read_text()))
    assert {entry.scheme for entry in fit.schemes} == set(EFFS)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "measurements, not reproductions" in text
    assert not list(folder.glob("*.partial"))


def test_the_page_stands_alone_and_says_what_it_must(quick):
    page = (quick[0] / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<figure>") == page.count('alt="Figure ') == 8
    for phrase in (
        "measurements, not reproductions",
        "weights of the block matrices",
        "sum of Huber, delta =",
        "parametric bootstrap (6 units",
        "Excluded: none",
        "second-hand",
        "In 21 runs (N = 6,144) more than half of all parameters are embeddings and head",
    ):
        assert phrase in page


def test_terminal_and_page_show_the_same_rows(quick):
    folder, text = quick
    page = (folder / "report.html").read_text()
    fit = laws.Fit.from_dict(json.loads((folder / "fit.json").read_text()))
    rows = multipliers.table(fit, report.bits_per_weight)
    assert rows[0][0] == "dense" and len(rows) == len(EFFS)
    for row in rows:
        line = next(line for line in text.splitlines() if line.startswith(row[0] + "  "))
        assert re.split(r" {2,}", line) == list(row)
        assert all(f">{cell}</td>" in page for cell in row)


def test_runs_alone_rebuild_the_report(quick, tmp_path):
    report.write(study(tmp_path, noisy()), **QUICK)
    for name in ("fit.json", "report.html"):
        assert (tmp_path / name).read_text() == (quick[0] / name).read_text()


def test_a_fit_without_numbers_leaves_no_old_figure(tmp_path):
    (tmp_path / "figure.png").write_bytes(b"of an earlier fit")
    report.write(study(tmp_path, noisy(sizes=SIZES[:1])), **QUICK)
    assert not (tmp_path / "figure.png").exists()


def test_a_figure_that_cannot_be_written_is_a_study_error(tmp_path):
    (tmp_path / "figure.png.partial").mkdir()
    with pytest.raises(StudyError, match=r"cannot write .*figure\.png"):
        report.write(study(tmp_path, noisy()), **QUICK)


def test_a_record_alone_makes_page_figures_and_tables(quick, tmp_path):
    fit = report.read_fit(quick[0] / "fit.json")
    written = {path.relative_to(tmp_path).as_posix() for path in report.write_files(fit, tmp_path)}
    assert (tmp_path / "report.html").read_text() == (quick[0] / "report.html").read_text()
    figures = {path.removeprefix("figures/") for path in written if path.startswith("figures/")}
    stems = {name.rpartition(".")[0] for name in figures}
    assert {"collapse", "multipliers", "isoflop", "residuals", "hold-outs"} <= stems
    assert figures == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    with open(tmp_path / "tables" / "multipliers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scheme"] for row in rows] == [entry.scheme for entry in fit.schemes]
    with open(tmp_path / "tables" / "runs.csv", newline="") as file:
        runs = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in runs] == list(fit.table["loss"])
    assert [float(row["residual"]) for row in runs] == [value for _, value in fit.residuals]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"law": 3}', '"fit"'])
def test_a_file_that_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(ValueError, match=r"fit must be the record that a fit writes, got .*json"):
        report.read_fit(tmp_path / "fit.json")


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"runs must be a readable CSV file, got .*runs\.csv"):
        report.write(tmp_path)


def test_multipliers_per_nonzero_weight_are_those_of_the_other_convention():
    """eff / (1 - S): 1.60 at 50 % (arXiv:2309.08520) would be .80 of all weights."""
    entry = lambda scheme, eff=None: SimpleNamespace(scheme=scheme, eff=eff, bound=None)
    entries = [entry("dense", 1.0), entry("s=0.5", 0.8), entry("s=1:4", 0.5)]
    fit = SimpleNamespace(schemes=[*entries, entry("theirs", 0.9), entry("s=2:4")])
    (line,) = report.per_nonzero(fit)
    assert line.endswith("arXiv:2309.08520: s=0.5: 1.600, s=1:4: 2.000")
    assert report.per_nonzero(SimpleNamespace(schemes=entries[:1])) == []
