"""The command line.

Each command is a dataclass in `commands/`: its fields are the options, its `run` calls one
function.

Exit codes: 0 done, 1 it could not be done, 2 the command was wrong, 128 + n stopped by signal n.
Every error is one line on stderr: `bitlaw: <argument> must be <expectation>, got <value>`.

Neither jax nor an extra is imported at the top, so `--help` is quick and works on an install
without extras.
"""

import contextlib
import importlib
import io
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any

from bitlaw import __version__
from bitlaw.commands.door import UsageError
from bitlaw.studies.rows import StudyError

EXTRA = "pip install 'bitlaw[train]'"

ABOUT = """\
Low-bit and sparse training in JAX, and what each compression costs.

  bitlaw reproduce      train a grid of small models, fit the law, report every multiplier
  bitlaw report DIR     fit and report again, from DIR/runs.csv; or the page of a fit.json
  bitlaw plan           the best scheme, size and tokens within budgets, from a fit
  bitlaw train          train one model, print its row
  bitlaw fit            fit a scaling law to your table of runs, or to a published one
  bitlaw study NAME     another study: experts, packing, qat
  bitlaw formats        print the table of number formats
  bitlaw --version      print the version
  bitlaw COMMAND --help explains a command

A scheme says what is compressed, and how:

  dense                             nothing: the baseline
  w=quest4/channel                  weights to 4 bits, one scale per output column
  "w=quest4/channel a=quest4/row"   activations too, one scale per token
  "w=mxfp4 a=mxfp4 g=fp8"           microscaling formats, fp8 gradients too
  w=my_module:my_quantizer          a JAX function of your own, x -> x_hat
  s=0.5                             half of the weights pruned during training

Start with:

  bitlaw reproduce --preset smoke   under a minute: does everything work here?
  bitlaw reproduce                  about 7 minutes on 2 cores: first multipliers
  bitlaw train --scheme s=0.5       one small model, half of it pruned"""


# Name -> the dataclass, as module:class; loaded when asked for.
COMMANDS = {
    "reproduce": "bitlaw.commands.reproduce:Reproduce",
    "report": "bitlaw.commands.report:Report",
    "plan": "bitlaw.commands.plan:Plan",
    "train": "bitlaw.commands.train:Train",
    "fit": "bitlaw.commands.fit:Fit",
    "study": "bitlaw.commands.study:Study",
    "formats": "bitlaw.commands.formats:Formats",
}


def command(name: str) -> type:
    """The dataclass of a command."""
    module, _, attribute = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def parse(arguments: Sequence[str]) -> Any:
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
                command(name),
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
