"""The study of packing: from the command line to rows and a page, and nothing done twice."""

import csv

import pytest

from bitlaw import cli
from bitlaw.studies import packing, packing_page
from bitlaw.studies.packing_page import Pair

ROW = {"status": "ok", "data": "glyphs", "seed": 0, "fill": 0.5, "host_seconds": 1e-3}
ROW |= {"examples_per_second": 10.0, "tokens_per_second": 99.0, "steps": 2, "curve": [3.0, 2.0]}
PADDED = ROW | {"layout": "padded", "loss": 2.0, "step_seconds": 0.03, "first_losses": [4.0, 3.0]}
PACKED = ROW | {"layout": "packed", "loss": 2.002, "step_seconds": 0.01, "first_losses": [4.0, 3.3]}


def test_smoke_trains_both_layouts_of_both_sets_and_runs_once(tmp_path, capsys):
    command = ["study", "packing", "--preset", "smoke", "--out", str(tmp_path), "--jobs", "2"]
    assert cli.main(command) == 0
    first = capsys.readouterr()
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert sorted((row["data"], row["layout"]) for row in rows) == [
        ("functions", "packed"),
        ("functions", "padded"),
        ("glyphs", "packed"),
        ("glyphs", "padded"),
    ]
    for data in ("functions", "glyphs"):
        padded, packed = (
            next(row for row in rows if (row["data"], row["layout"]) == (data, layout))
            for layout in ("padded", "packed")
        )
        assert float(packed["fill"]) > float(padded["fill"]) > 0
        assert padded["d_tokens"] == packed["d_tokens"]
        # Six steps of f32 rounding.
        assert float(packed["loss"]) == pytest.approx(float(padded["loss"]), rel=1e-5)
    page = (tmp_path / "report.html").read_text()
    assert "What packing is worth" in page and "data:image/svg+xml" in page
    assert cli.main(command) == 0
    again = capsys.readouterr()
    assert "4 of 4 runs were finished earlier" in again.err
    assert again.out == first.out, "the times too: nothing was trained again"


def test_a_pair_by_hand():
    pair = Pair(PADDED, PACKED)
    assert pair.faster == pytest.approx(3)
    assert pair.first_difference == pytest.approx(0.1)
    assert pair.last_difference == pytest.approx(0.001)
    lines = packing_page.table([PACKED, PADDED])
    assert [(line[1], line[-1]) for line in lines] == [("padded", "1"), ("packed", "3.00")]


def test_a_diverged_run_takes_its_pair_with_it_and_is_told():
    rows = [PADDED, PACKED | {"status": "diverged", "loss": None}]
    assert packing_page.pairs(rows) == [] and packing_page.table(rows) == []
    assert any("1 runs diverged" in line for line in packing_page.notes(rows))
    assert "What packing is worth" in packing_page.page(rows, [])


def test_both_layouts_share_a_job_and_differ_in_their_ids():
    for job in packing.PRESETS["quick"].jobs:
        padded, packed = job.runs
        assert (padded.layout, packed.layout) == ("padded", "packed")
        assert padded.id("a", "b") != packed.id("a", "b") != packed.id("c", "b")
