"""A report made from runs.csv alone."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from bitlaw import laws
from bitlaw.studies import figures, report
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
    assert page.count("<figure>") == page.count('alt="Figure ') == 5
    for phrase in (
        "measurements, not reproductions",
        "weights of the block matrices",
        "Huber(log(L_hat / L)), delta =",
        "parametric bootstrap (6 units",
        "Excluded: none",
        "second-hand",
        "In 21 runs (N = 6,144) more than half of all parameters are embeddings and head",
    ):
        assert phrase in page


def test_terminal_and_page_show_the_same_rows(quick):
    folder, text = quick
    page = (folder / "report.html").read_text()
    rows = report.table(laws.Fit.from_dict(json.loads((folder / "fit.json").read_text())))
    assert rows[0][0] == "dense" and len(rows) == len(EFFS)
    for row in rows:
        line = next(line for line in text.splitlines() if line.startswith(row[0] + "  "))
        assert re.split(r" {2,}", line) == list(row)
        assert all(f">{cell}</td>" in page for cell in row)


def test_runs_alone_rebuild_the_report(quick, tmp_path):
    report.write(study(tmp_path, noisy()), **QUICK)
    for name in ("fit.json", "report.html"):
        assert (tmp_path / name).read_text() == (quick[0] / name).read_text()


@pytest.mark.parametrize("design", [{"sizes": SIZES[:1]}, {"effs": {"dense": 1.0}}])
def test_a_table_that_identifies_little_still_has_a_report(tmp_path, design):
    text = report.write(study(tmp_path, noisy(**design)), **QUICK)
    assert (tmp_path / "report.html").exists()
    assert ("unidentified: one size" in text) == ("sizes" in design)


def test_a_fit_without_numbers_leaves_no_old_figure(tmp_path):
    (tmp_path / "figure.png").write_bytes(b"of an earlier fit")
    report.write(study(tmp_path, noisy(sizes=SIZES[:1])), **QUICK)
    assert not (tmp_path / "figure.png").exists()


def test_a_figure_that_cannot_be_written_is_a_study_error(tmp_path):
    (tmp_path / "figure.png.partial").mkdir()
    with pytest.raises(StudyError, match=r"cannot write .*figure\.png"):
        report.write(study(tmp_path, noisy()), **QUICK)


def test_colours_and_source_numbers_do_not_depend_on_the_order_of_schemes():
    names = list(EFFS)
    assert figures.colors(names) == figures.colors(names[::-1])
    assert laws.published.sources(names) == laws.published.sources(names[::-1])


def test_published_values_outside_the_interval_are_named(quick):
    fit = laws.Fit.from_dict(json.loads((quick[0] / "fit.json").read_text()))
    line = next(line for line in quick[1].splitlines() if line.startswith("Published values out"))
    for entry in fit.schemes[1:]:
        values = [p.value for p in laws.published.effective(entry.scheme)]
        outside = [v for v in values if not entry.low <= v <= entry.high]
        assert (f"{entry.scheme}: " in line) == bool(outside)
        assert all(f"{value:.2f} [" in line for value in outside)


def test_statuses_of_the_fit_are_explained(tmp_path):
    rows = quick_rows(coefficients={"a": 4.9, "b": 0.1, "c": 70.0, "d": 0.36, "e": -0.5})
    text = report.write(study(tmp_path, rows), **QUICK)
    assert "bound hit: e = 0" in text
    for place in (text, (tmp_path / "report.html").read_text()):
        assert "b and e trade off" in place


def test_a_lost_scheme_and_a_diverged_run_are_in_the_table(tmp_path):
    rows = [r for r in noisy() if r["scheme"] != "s=0.75" or r["n_params"] == SIZES[0]]
    lost = next(row for row in rows if row["scheme"] == "s=0.5")
    lost |= {"status": "diverged", "loss": ""}
    text = report.write(study(tmp_path, rows), **QUICK)
    assert "unidentified: one size" in text
    assert "conditional on convergence (8 of 9)" in text
    page = (tmp_path / "report.html").read_text()
    assert "Excluded: diverged (1); unidentified: one size (3)" in page


def test_a_scheme_that_is_not_ours_has_no_bits(tmp_path):
    rows = [row | {"scheme": row["scheme"].replace("s=0.5", "mystery")} for row in noisy()]
    text = report.write(study(tmp_path, rows), **QUICK)
    assert "mystery" in text


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"runs must be a readable CSV file, got .*runs\.csv"):
        report.write(tmp_path)


def test_multipliers_per_nonzero_weight_are_those_of_the_other_convention():
    """eff / (1 - S): 1.60 at 50 % (arXiv:2309.08520) would be .80 of all weights."""
    entry = lambda scheme, eff=None: SimpleNamespace(scheme=scheme, eff=eff)
    entries = [entry("dense", 1.0), entry("s=0.5", 0.8), entry("s=1:4", 0.5)]
    fit = SimpleNamespace(schemes=[*entries, entry("theirs", 0.9), entry("s=2:4")])
    (line,) = report._per_nonzero(fit)
    assert line.endswith("arXiv:2309.08520: s=0.5: 1.600, s=1:4: 2.000")
    assert report._per_nonzero(SimpleNamespace(schemes=entries[:1])) == []
