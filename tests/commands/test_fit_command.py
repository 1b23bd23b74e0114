"""bitlaw fit, as typed."""

import json
import pathlib

import numpy as np
import pytest

from bitlaw import cli, laws
from bitlaw.laws import forms, solve, tables
from laws.synthetic import EFFS, quick_rows
from laws.test_tables import GOLDEN, chinchilla_csv

QUICK = ("--resamples", "20")
CHINCHILLA = (
    "--law", "chinchilla", "--columns", "n_params=Model Size", "flop=Training FLOP", "--derive",
    "d_tokens=flop/(6*n_params)", "--drop-highest", "5", "--delta", "1e-3", *QUICK,
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(path="fit.json"):
    return laws.Fit.from_dict(json.loads(pathlib.Path(path).read_text()))


def test_the_chinchilla_table_is_fitted_from_the_command_line(here, capsys):
    path = chinchilla_csv(here / "c.csv", "optimum", sd=0.002)
    assert cli.main(["fit", "--runs", str(path), *CHINCHILLA, "--out", "c.json"]) == 0
    fit, text = record("c.json"), capsys.readouterr().out
    assert f"objective {fit.objective:.4e}: sum of Huber, delta = 0.001, of the" in text
    assert "runs: 245, 240 fitted, 5 excluded (one of the 5 highest losses)" in text
    for name in fit.params:
        assert f"\n{name} " in text or f"\n{name:<5} " in text
    assert fit.params == pytest.approx(GOLDEN["chinchilla"]["optimum"], rel=0.3)
    assert fit.objective == laws.fit(
        laws.read_table(
            path, {"n_params": "Model Size", "flop": "Training FLOP"},
            {"d_tokens": "flop/(6*n_params)"}, 5,
        ), "chinchilla", delta=1e-3, resamples=20,
    ).objective  # fmt: skip


def test_the_effective_law_is_the_default(here, capsys):
    rows = quick_rows()
    (here / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert cli.main(["fit", "--runs", "r.jsonl", *QUICK]) == 0
    fit, text = record(), capsys.readouterr().out
    assert {e.scheme: e.eff for e in fit.schemes} == pytest.approx(EFFS, rel=1e-5)
    assert "detectable" in text and "w=quest2/channel" in text and "status: ok" in text


def test_a_law_of_your_own_is_found_where_you_are(here, capsys):
    (here / "my_laws.py").write_text(
        "def line(x, *, slope, level):\n    return level + slope * x\n"
    )
    rows = [{"x": x, "loss": 3.0 - 0.1 * x} for x in range(1, 9)]
    (here / "r.json").write_text(json.dumps(rows))
    assert cli.main(["fit", "--law", "my_laws:line", "--runs", "r.json", *QUICK]) == 0
    assert record().params == pytest.approx({"slope": -0.1, "level": 3.0}, rel=1e-6)
    assert cli.main(["report", "fit.json"]) == 0
    text = (here / "fit.json").read_text().replace("my_laws:line", "my_laws:curve")
    (here / "fit.json").write_text(text)
    assert cli.main(["report", "fit.json"]) == 2
    assert "must be module:function that can be imported" in capsys.readouterr().err


def test_a_table_that_identifies_nothing_is_written_with_its_status(here, capsys):
    d = np.geomspace(1e9, 1e11, 9)
    rows = [{"n_params": 1e8, "d_tokens": x, "loss": 2.0 + 1e9 / x} for x in d]
    (here / "r.json").write_text(json.dumps(rows))
    assert cli.main(["fit", "--law", "chinchilla", "--runs", "r.json", *QUICK]) == 0
    assert "status: unidentified: one value of n_params" in capsys.readouterr().out
    assert record().params == {}


@pytest.mark.skipif(tables.found("t5-sparse") is None, reason="BITLAW_DATA_DIR has no T5 table")
def test_a_published_table_prints_both_optima(here, capsys):
    arguments = ["fit", "--published", "t5-sparse", *QUICK, "--out", "t5.json"]
    assert cli.main(arguments) == 0
    text, fit = capsys.readouterr().out, record("t5.json")
    assert "objective 4.8801e-06: mean of Huber, delta = 0.001" in text
    assert "7.6036e-06: published" in text
    assert "Apache-2.0" in text and "1.4828" in text
    residuals = fit.minimised.value(
        np.array(fit.table["loss"]),
        fit.predict(**{k: np.array(fit.table[k]) for k in forms.LAWS["sparse"].columns}),
    )
    assert residuals == pytest.approx(fit.objective, rel=1e-12)  # the JSON alone redraws the fit


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "runs must be a table, or published the name of one"),
        (["--published", "t5"], "published must be one of t5-sparse, vit-sparse, routing"),
        (["--published", "routing", "--law", "routed"], "published must stand alone, got --law"),
        (["--published", "routing", "--drop-highest", "1"], "got --drop-highest with it"),
        (["--runs", "absent.csv"], "readable file, got absent.csv: No such file"),
        (["--runs", "r.csv", "--law", "chinchillo"], "law must be one of"),
        (["--runs", "r.csv", "--law", "a:b"], "law must be module:function"),
        (["--runs", "r.csv", "--columns", "N"], "columns must be name=value, got 'N'"),
        (["--runs", "r.csv", "--columns", "a=x", "a=y"], "name each column once, got 'a' twice"),
        (["--runs", "r.csv", "--columns", "n_params=M"], "got 'M'; there are ['loss', 'n']"),
        (["--runs", "r.csv", "--derive", "d=n.real"], "derive must be an expression of columns"),
        (["--runs", "r.csv", "--derive", "d=m*2"], "derive must use columns of the table, got 'm'"),
        (["--runs", "r.csv", "--drop-highest", "9"], "drop_highest must be in 0..1, got 9"),
        (["--runs", "r.csv", "--drop-highest", "-1"], "drop_highest must be in 0..1, got -1"),
        (["--runs", "r.csv", "--hold", "e=low"], "hold must be name=number, got 'low'"),
        (
            ["--runs", "r.csv", "--law", "chinchilla", "--hold", "e=nan"],
            "e a finite value, got nan",
        ),
        (["--runs", "r.csv", "--law", "chinchilla"], "must have a column 'n_params'"),
        (["--runs", "r.csv"], "yours is called with --columns scheme=NAME; for a table without"),
        (["--runs", "r.csv", "--reduction", "mean"], "delta must be given with a residual"),
        (["--runs", "r.csv", "--level", "90"], "level must be in (0, 1), got 90"),
        (["--runs", "r.csv", "--report", "no/r.html"], "report must be in a folder that exists"),
        (["--runs", "r.csv", "--out", "no/fit.json"], "folder that exists, got no/fit.json"),
    ],
)
def test_a_wrong_command_is_one_line_and_writes_nothing(here, capsys, arguments, words):
    (here / "r.csv").write_text("n,loss\n1,2\n2,3\n")
    assert cli.main(["fit", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert words in captured.err
    assert [path.name for path in here.iterdir()] == ["r.csv"]


def test_a_value_error_of_the_fit_itself_is_no_usage_error(here, monkeypatch):
    """A defect of ours keeps its traceback: it is not blamed on the command line."""
    (here / "r.jsonl").write_text("\n".join(map(json.dumps, quick_rows())))

    def broken(*_, **__):
        raise ValueError("zero-size array to reduction operation")

    monkeypatch.setattr(solve, "fit_starts", broken)
    with pytest.raises(ValueError, match="zero-size array"):
        cli.main(["fit", "--runs", "r.jsonl", *QUICK])


def test_a_law_without_a_finite_loss_is_one_line(here, capsys):
    (here / "broken_laws.py").write_text(
        "def nowhere(x, *, a: float):\n    return a * x * float('nan')\n"
    )
    (here / "r.json").write_text(json.dumps([{"x": x, "loss": 3.0 / x} for x in range(1, 9)]))
    assert cli.main(["fit", "--law", "broken_laws:nowhere", "--runs", "r.json", *QUICK]) == 2
    assert "must have a finite loss at some start" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_exit_code_1(here, capsys):
    (here / "r.jsonl").write_text("\n".join(map(json.dumps, quick_rows())))
    (here / "fit.json").mkdir()
    assert cli.main(["fit", "--runs", "r.jsonl", *QUICK]) == 1
    assert "cannot write fit.json" in capsys.readouterr().err
