"""The command line: exit codes, one-line errors, help that needs nothing installed."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import textwrap

import jax
import pytest

from bitlaw import cli
from bitlaw.commands.train import Train
from bitlaw.models import lm
from bitlaw.studies.executor import Interrupted
from bitlaw.studies.rows import StudyError
from bitlaw.train import checkpoint


def failed(capsys, *arguments: str) -> tuple[int, str]:
    """(exit code, the line on stderr) of a command that must print one line and nothing else."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("bitlaw: ")
    return code, line


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command(capsys, arguments):
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert all(f"bitlaw {name}" in text for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_its_options_with_an_example(capsys, name):
    with pytest.raises(SystemExit) as exit:
        cli.main([name, "--help"])
    assert not exit.value.code
    text = capsys.readouterr().out
    assert f"  bitlaw {name} " in text or f"\nbitlaw {name} " in text
    assert "(default: " in text or "(required)" in text


def test_version_is_the_installed_one(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bitlaw 0.")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["fits"], ["command must be one of reproduce, report", "'fits'"]),
        (["reproduce", "--preset", "huge"], ["--preset", "'smoke'", "'quick'", "'cpu'", "'huge'"]),
        (["reproduce", "--jobs", "many"], ["--jobs", "'many'"]),
        (["reproduce", "--jobs", "-1"], ["jobs must be at least 0", "-1"]),
        (["reproduce", "--speed", "9"], ["--speed"]),
        (["reproduce", "--schemes", "w=int99x"], ["int99x"]),
        (["reproduce", "--schemes", "s=1.5"], ["schemes: sparsity must be in [0, 1), got 1.5"]),
        (
            ["reproduce", "--schemes", "dense", "w=quest9/channel"],
            ["schemes: unknown format 'quest9' in 'w=quest9/channel' (nearest: quest8, "],
        ),
        (["reproduce", "--data", "absent.txt"], ["data must exist, got absent.txt"]),
        (["reproduce", "--data", "/nonexist"], ["data must exist, got /nonexist"]),
        (
            ["reproduce", "--data", "stdlib", "a.txt"],
            ["data must be stdlib or installed alone", "stdlib a.txt"],
        ),
        (["report"], ["PATH", "required"]),
        (["report", "absent"], ["runs.csv", "absent"]),
        (["train", "--width", "wide"], ["--width", "'wide'"]),
        (["train", "--width", "0"], ["width must be at least 1", "0"]),
        (
            ["train", "--init", "absent"],
            ["must be a folder that bitlaw saved", "absent"],
        ),
        (["train", "--save", "/tmp"], ["save must be a folder that does not exist yet", "/tmp"]),
        (["train", "--scheme", "s=3:2"], ["scheme: n must be in [1, m], got 3:2"]),
        (["train", "--tokens", "1000"], ["d_tokens must be a multiple of", "1000"]),
        (["train", "--scheme", "w=nope"], ["scheme: ", "'w=nope'"]),
        (["train", "--seed", "-1"], ["seed must be in 0..2^32-1, got -1"]),
        (["train", "--experts", "8/soft"], ["experts must be a number and a router", "'8/soft'"]),
        (["study", "cooking"], ["name must be one of experts, packing, qat, got 'cooking'"]),
        (["study", "packing", "--jobs", "-1"], ["jobs must be at least 0, got -1"]),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(
    capsys, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    code, line = failed(capsys, *arguments)
    assert code == 2
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir()), "a wrong command leaves nothing behind"


@pytest.mark.parametrize(
    "error, code, line",
    [
        (StudyError("cannot write x: disk full"), 1, "bitlaw: cannot write x: disk full\n"),
        (Interrupted("stopped by SIGTERM; lost", 15), 143, "bitlaw: stopped by SIGTERM; lost\n"),
        (KeyboardInterrupt(), 130, "bitlaw: stopped\n"),
        (
            ModuleNotFoundError("No module named 'optax'", name="optax"),
            1,
            "bitlaw: train needs the module optax: pip install 'bitlaw[train]'\n",
        ),
    ],
)
def test_what_goes_wrong_later_has_its_own_exit_code(capsys, monkeypatch, error, code, line):
    def fails(command):
        raise error

    monkeypatch.setattr(Train, "run", fails)
    assert cli.main(["train"]) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "text, words",
    [
        ("scheme,n_params\n", "at least one row"),
        ("scheme,n_params,d_tokens,loss\ndense,768,65536,abc\n", "loss must be a number"),
        ("scheme,n_params,d_tokens,loss\ns=0.5,768,65536,2\n", "must include the scheme 'dense'"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_one_line(capsys, tmp_path, text, words):
    (tmp_path / "runs.csv").write_text(text)
    code, line = failed(capsys, "report", str(tmp_path))
    assert code == 2 and words in line


def test_a_fit_that_is_refused_is_one_line(capsys, tmp_path, monkeypatch):
    def refuses(out):
        raise ValueError("runs must be\n  many, got few")

    monkeypatch.setattr("bitlaw.laws.read_runs", refuses)
    assert failed(capsys, "report", str(tmp_path)) == (2, "bitlaw: runs must be many, got few")


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    def fails(command):
        raise ValueError("operands could not be broadcast")

    monkeypatch.setattr(Train, "run", fails)
    with pytest.raises(ValueError, match="broadcast"):
        cli.main(["train"])


def test_an_output_folder_that_cannot_be_written_is_exit_code_1(capsys, tmp_path):
    (tmp_path / "file").touch()
    code, line = failed(capsys, "reproduce", "--preset", "smoke", "--out", str(tmp_path / "file"))
    assert code == 1
    assert "out must be a folder that can be written" in line


BASE_INSTALL = textwrap.dedent("""
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("tyro", "rich", "optax", "scipy", "matplotlib"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    from bitlaw.cli import main
    code = main(sys.argv[1:])
    assert "jax" not in sys.modules and "numpy" not in sys.modules, "help must be quick"
    sys.exit(code)
""")


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--help"], 0, "bitlaw reproduce"),
        (["--version"], 0, "bitlaw 0."),
        (["reproduce"], 1, "reproduce needs the module tyro: pip install 'bitlaw[train]'"),
    ],
)
def test_an_install_without_extras_helps_or_names_the_extra(arguments, code, words):
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, *arguments],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_train_trains_one_model_in_a_worker_and_prints_its_row(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shape = ["--width", "8", "--depth", "1", "--tokens", "8192"]
    saved = tmp_path.parent / f"{tmp_path.name}-saved"
    assert cli.main(["train", "--scheme", "s=0.50", "--save", str(saved), *shape]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["scheme"] == "s=0.5" and row["d_tokens"] == 8192
    code, line = failed(capsys, "train", "--init", str(saved), "--width", "16")
    assert code == 2 and "init must be a checkpoint of {'width': 16" in line
    model = lm.ModelConfig(8, 1)
    params, meta = lm.init(jax.random.key(0), model), {"model": dataclasses.asdict(model)}
    checkpoint.save(saved / "own", params, meta)
    code, line = failed(capsys, "train", "--init", str(saved / "own"), *shape)
    assert code == 2 and "own without d_tokens, init_tokens, avg_params, flops" in line
    assert row["n_params"] == 768 and row["n_nonzero"] == 384
    assert 2 < row["loss"] < 6
    assert not list(tmp_path.iterdir()), "its folder is gone"
