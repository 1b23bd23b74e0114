"""`bitlaw plan` on a record of a small study."""

import csv
import json

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")

from bitlaw import cli, laws
from laws.synthetic import QUICK, add_noise, quick_rows

BUDGET = ("--budget-flops", "1e13", "--memory", "40kB")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    rows = add_noise(quick_rows(**QUICK), np.random.default_rng(0), 0.008, 0.5)
    fit = laws.fit(laws.Runs.from_rows(rows), resamples=60)
    path = tmp_path_factory.mktemp("fit") / "fit.json"
    path.write_text(json.dumps(fit.to_dict()))
    return path


def plan(capsys, record, *arguments):
    code = cli.main(["plan", "--fit", str(record), *arguments])
    out, err = capsys.readouterr()
    return code, out, err.strip()


def test_the_answer_its_runners_up_and_what_they_would_need(capsys, record, tmp_path):
    schemes = ("w=quest3/channel", "w=quest4/channel s=0.5")
    code, out, _ = plan(capsys, record, *BUDGET, "--schemes", *schemes, "--out", str(tmp_path))
    assert code == 0
    made = json.loads((tmp_path / "plan.json").read_text())
    plans = made["plans"]
    assert [p["loss"][0] for p in plans] == sorted(p["loss"][0] for p in plans)
    assert {p["scheme"] for p in plans if p["predicted"]} == set(schemes)
    assert f"train {plans[0]['scheme']}" in out
    for p in plans:
        assert p["flops"] <= 1e13 * (1 + 1e-9) and p["memory"] <= 4e4 * (1 + 1e-9)
        line = next(line for line in out.splitlines() if line.startswith(p["scheme"] + "  "))
        assert ("predicted" in line) == bool(p["predicted"])
    for phrase in ("extrapolation of the best", "percentiles of 60 joint resamples", "6 N D FLOPs"):
        assert phrase in out
    with open(tmp_path / "plans.csv", newline="") as file:
        assert [row["scheme"] for row in csv.DictReader(file)] == [p["scheme"] for p in plans]
    page = (tmp_path / "plan.html").read_text()
    assert page.count("<figure>") == 1 and "predicted" in page
    assert (tmp_path / "frontiers.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "frontiers.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--budget-flops", "1e21"), r"plan must stay within 100 times .* give --extrapolate"),
        (("--memory", "8GB"), "budget must have training flops, or tokens"),
        (("--memory", "8 apples"), "memory must be an amount such as 8GB"),
        (("--schemes", "w=quest9/row", *BUDGET), "format"),
        (("--schemes", "nonsense", *BUDGET), r"unknown part 'nonsense' in 'nonsense' \(nearest"),
        (("--schemes", "a=quest8/row", *BUDGET), r"at least 2 measured ones of each kind \(a="),
    ],
)
def test_what_cannot_be_answered_is_one_line(capsys, record, arguments, message):
    code, out, err = plan(capsys, record, *arguments)
    assert code == 2 and out == "" and err.count("\n") == 0
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(err)


def test_extrapolation_is_answered_when_asked_for(capsys, record):
    code, out, _ = plan(capsys, record, "--budget-flops", "1e21", "--extrapolate")
    assert code == 0 and "extrapolation of the best beyond the runs of the fit: N " in out


def test_a_file_that_is_no_record_is_refused(capsys, tmp_path):
    (tmp_path / "fit.json").write_text("{}")
    code, _, err = plan(capsys, tmp_path / "fit.json", *BUDGET)
    assert code == 2 and err.startswith("bitlaw: fit must be the record that a fit writes")
    code, _, err = plan(capsys, tmp_path / "absent.json", *BUDGET)
    assert code == 2 and err.startswith("bitlaw: fit must be a readable file")
