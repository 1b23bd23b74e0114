"""The command line.

Each command is a dataclass: its fields are the options, its `run` calls one function.

Exit codes: 0 done, 1 it could not be done, 2 the command was wrong, 128 + n stopped by signal n.
Every error is one line on stderr: `bitlaw: <argument> must be <expectation>, got <value>`.

Neither jax nor an extra is imported at the top, so `--help` is quick and works on an install
without extras.
"""

import contextlib
import io
import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitlaw import __version__
from bitlaw.studies.rows import StudyError

EXTRA = "pip install 'bitlaw[train]'"

ABOUT = """\
Low-bit and sparse training in JAX, and what each compression costs.

  bitlaw reproduce      train a grid of small models, fit the law, report every multiplier
  bitlaw report DIR     fit and report again, from DIR/runs.csv
  bitlaw train          train one model, print its row
  bitlaw --version      print the version
  bitlaw COMMAND --help explains a command

A scheme says what is compressed, and how:

  dense                             nothing: the baseline
  w=quest4/channel                  weights to 4 bits, one scale per output column
  "w=quest4/channel a=quest4/row"   activations too, one scale per token
  s=0.5                             half of the weights pruned during training

Start with:

  bitlaw reproduce --preset smoke   under a minute: does everything work here?
  bitlaw reproduce                  about 7 minutes on 2 cores: first multipliers
  bitlaw train --scheme s=0.5       one small model, half of it pruned"""


class UsageError(Exception):
    """The command line is wrong: exit code 2."""


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Turns the ValueError of a check on the user's arguments into exit code 2.

    Only what judges the user's input goes inside: a ValueError from anywhere else is a defect of
    ours and keeps its traceback.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check_schemes(argument: str, texts: Sequence[str]) -> None:
    """Raises UsageError, in one line, for the first text that is no scheme."""
    from bitlaw.formats import Scheme

    for text in texts:
        try:
            Scheme.parse(text)
        except ValueError as error:  # its lines: what, the text, carets, the nearest
            what, *below = str(error).splitlines()
            hints = [line.strip() for line in below if line.lstrip().startswith("nearest:")]
            nearest = f" ({hints[0]})" if hints else ""
            raise UsageError(f"{argument}: {what} in {text!r}{nearest}") from error


def _source(data: tuple[str, ...]) -> str | tuple[str, ...]:
    return "stdlib" if data == ("stdlib",) else data


@dataclass
class Reproduce:
    """Train small models dense, quantized and sparse; fit the law; report every multiplier.

    The multiplier eff(C) of a compression C is the share of the parameters that is left in effect:
    loss = a / (N * eff(C))^b + c / D^d + e, and eff = 1 for dense.

    Stop it at any time (Ctrl-C, even kill -9): the same command goes on where it was.

      bitlaw reproduce --preset quick --out study
      bitlaw reproduce --schemes s=0.5 "w=quest4/channel a=quest4/row"
      bitlaw reproduce --data my_texts/ more.jsonl --jobs 4
    """

    preset: Literal["smoke", "quick", "cpu"] = "quick"
    """smoke: under a minute. quick: about 7 minutes on 2 cores. cpu: about 2 hours on 2 cores."""

    out: Path = Path("study")
    """Folder for the rows, the fit and the report. Finished runs of the same build and data found
    there are kept."""

    jobs: int = 0
    """Worker processes, each of one thread; 0 is one per core that this process may use, or fewer
    if its container's CPU quota is less."""

    schemes: tuple[str, ...] = ()
    """Compressions to measure instead of the preset's; dense is always added."""

    data: tuple[str, ...] = ("stdlib",)
    """stdlib (this interpreter's Python sources), or .txt and .jsonl files and folders of them."""

    def run(self) -> int:
        from bitlaw.studies import reproduce

        with checked():
            if self.jobs < 0:
                raise ValueError(f"jobs must be at least 0, got {self.jobs}")
            _check_schemes("schemes", self.schemes)
            plan = reproduce.plan_preset(self.preset, self.schemes, _source(self.data))
        outcome = reproduce.reproduce(plan, self.out, self.jobs)
        if outcome.failures:
            raise StudyError(
                f"{len(outcome.failures)} jobs failed twice and are not in the table; run the same "
                f"command again to try only those; {self.out / 'logs'} says why they failed"
            )
        return 0


@dataclass
class Report:
    """Fit the law to DIR/runs.csv again; write fit.json and report.html there; print the table.

    bitlaw report study
    """

    dir: Path
    """A folder that `bitlaw reproduce` has written."""

    def run(self) -> int:
        from bitlaw.studies import report

        with checked():
            table = report.write(self.dir)
        print(table)
        print(f"fit      {self.dir / 'fit.json'}\nreport   {self.dir / 'report.html'}")
        return 0


@dataclass
class Train:
    """Train one model and print its row as JSON: the same numbers, to the bit, as inside a study.

    bitlaw train --scheme w=quest4/channel --width 32 --depth 3 --tokens 1048576
    """

    scheme: str = "dense"
    """What is compressed, and how."""

    width: int = 16
    """Width of the model; it has 12 * width^2 * depth block weights."""

    depth: int = 2
    """Number of blocks."""

    tokens: int = 2**19
    """Training tokens (bytes), a multiple of 1024."""

    seed: int = 0
    """Decides the first weights and the order of the data."""

    data: tuple[str, ...] = ("stdlib",)
    """stdlib (this interpreter's Python sources), or .txt and .jsonl files and folders of them."""

    def run(self) -> int:
        from bitlaw.studies import reproduce

        with checked():
            _check_schemes("scheme", [self.scheme])
            model = reproduce.Size(self.width, self.depth).model
            point = reproduce.point(self.scheme, model, self.tokens, self.seed)
            plan = reproduce.plan_runs([point], _source(self.data))
        print(json.dumps(reproduce.train(plan), indent=2))
        return 0


COMMANDS = {"reproduce": Reproduce, "report": Report, "train": Train}


def parse(arguments: Sequence[str]) -> Reproduce | Report | Train:
    """The command that the arguments name.

    Raises:
        SystemExit: help was asked for, and has been printed.
        UsageError: the arguments are wrong.
        ModuleNotFoundError: the train extra is not installed.
    """
    name, *options = arguments
    if name not in COMMANDS:
        raise UsageError(
            f"command must be one of {', '.join(COMMANDS)}, got {name!r}; see bitlaw --help"
        )
    import tyro

    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                COMMANDS[name],
                prog=f"bitlaw {name}",
                args=options,
                config=(tyro.conf.PositionalRequiredArgs,),
            )
    except SystemExit as exit:
        if exit.code:
            raise UsageError(f"{one_line(message.getvalue())}; see bitlaw {name} --help") from None
        raise


def one_line(box: str) -> str:
    """What tyro's framed error says, in one line, without its frame, title and hints."""
    _, body, *_ = re.split("─{3,}|-{3,}", box)
    return " ".join(re.sub("[│╭╮╰╯─]", " ", body).split()).rstrip(".")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments in ([], ["-h"], ["--help"]):
        print(ABOUT)
        return 0
    if arguments == ["--version"]:
        print(f"bitlaw {__version__}")
        return 0
    try:
        return parse(arguments).run()
    except UsageError as error:
        return _say(str(error), 2)
    except StudyError as error:
        return _say(str(error), 1)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("bitlaw"):
            raise
        return _say(f"{arguments[0]} needs the module {error.name}: {EXTRA}", 1)
    except KeyboardInterrupt as error:
        return _say(str(error) or "stopped", 128 + getattr(error, "signum", signal.SIGINT))


def _say(text: str, code: int) -> int:
    print(f"bitlaw: {' '.join(map(str.strip, text.splitlines()))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
