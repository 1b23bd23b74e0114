"""bitlaw report, as typed, also of records that an older version wrote."""

import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from bitlaw import cli, laws
from laws.synthetic import SIZES, add_noise, quick_rows

NEWER = ("minimised", "starts", "param_status", "profiles", "derived", "source", "draws", "drifts")


@pytest.fixture(scope="module")
def old():
    """The record of a fit with a scheme beyond all bounds, as the first version wrote it."""
    rows = add_noise(quick_rows(sizes=SIZES[:2]), np.random.default_rng(0), 0.008, 0.5)
    for row in rows:
        row["loss"] *= 0.45 if row["scheme"] == "s=0.5" else 1.0
    record = laws.fit(laws.Runs.from_rows(rows), resamples=20).to_dict()
    for name in NEWER:
        del record[name]
    for entry in record["schemes"]:
        del entry["rank"]
        if entry["scheme"] == "s=0.5":
            assert "bound hit: eff > 1e+04" in entry["status"]
            entry |= {"status": ["bound hit: eff", "interval unbounded"], "mdd": 1e9}
            entry |= {"eff": 3.1e22, "low": 4.0, "high": 9.9e80}
        if entry["scheme"] == "s=0.75":  # beyond what is searched, of which nothing was said
            entry |= {"eff": 2.5e-6, "low": 1e-30, "high": 0.3, "status": ["hardly bounded"]}
    record["status"] = ["bound hit: e = 0"]
    return json.loads(json.dumps(record))


def test_a_record_of_an_older_version_reads_as_todays(old):
    fit = laws.Fit.from_dict(old)
    assert fit.bounds == {"s=0.5": "> 1e+04", "s=0.75": "< 0.0001"}
    entry = fit.scheme("s=0.5")
    assert entry.status == ("bound hit: eff > 1e+04", "interval unbounded") and entry.mdd is None
    assert entry.ends == (4.0, None) and fit.scheme("s=0.75").ends == (None, 0.3)
    assert fit.scheme("s=0.75").status == ("bound hit: eff < 0.0001", "hardly bounded")
    assert laws.Fit.from_dict(fit.to_dict()) == fit


def test_report_and_plan_take_a_record_of_an_older_version(tmp_path, capsys, old):
    pytest.importorskip("jax")
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    assert cli.main(["report", str(path)]) == 0
    page = (tmp_path / "old" / "report.html").read_text()
    assert "&gt; 1e+04" in page and "1e+22" not in page and "10000.0" not in page
    capsys.readouterr()
    budget = ["--budget-flops", "1e13", "--extrapolate"]
    assert cli.main(["plan", "--fit", str(path), *budget]) == 0
    text = capsys.readouterr().out
    assert "left out: s=0.5 (bound hit: eff > 1e+04" in text and "intervals: none" in text
    assert cli.main(["plan", "--fit", str(path), *budget, "--schemes", "s=0.5"]) == 2
    assert "that is no bound, got 's=0.5': > 1e+04" in capsys.readouterr().err


def test_a_record_that_cannot_be_read_says_what_to_do(tmp_path, capsys, old):
    path = tmp_path / "fit.json"
    lacking = {name: value for name, value in old.items() if name != "params"}
    for record in (lacking, old | {"schemes": [{"scheme": "dense"}]}, [old]):
        path.write_text(json.dumps(record))
        for command in (["report", str(path)], ["plan", "--fit", str(path), "--memory", "1kB"]):
            assert cli.main(command) == 2
            error = capsys.readouterr().err
            assert str(path) in error and "fit the runs again" in error and error.count("\n") == 1
