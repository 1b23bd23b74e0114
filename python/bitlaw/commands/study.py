"""`bitlaw study`."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bitlaw.commands.door import UsageError

# Name -> the function, as module:function, called with (preset, out, jobs); it writes
# out/report.html and returns the table for the terminal.
STUDIES: dict[str, str] = {
    "experts": "bitlaw.studies.experts:study",
    "packing": "bitlaw.studies.packing:study",
    "qat": "bitlaw.studies.qat:study",
}


@dataclass
class Study:
    """Run one of the studies beside the main one, and write DIR/report.html.

    bitlaw study qat --preset smoke --out qat
    """

    name: str
    """Which study."""

    preset: Literal["smoke", "quick"] = "quick"
    """smoke: under a minute, does it work here? quick: under 8 minutes on 2 cores."""

    out: Path | None = None
    """Folder for rows and report; the study's name by default. Finished runs found there are
    kept."""

    jobs: int = 0
    """Worker processes; 0 is one per core that this process may use."""

    def run(self) -> int:
        if self.name not in STUDIES:
            raise UsageError(f"name must be one of {', '.join(STUDIES)}, got {self.name!r}")
        if self.jobs < 0:
            raise UsageError(f"jobs must be at least 0, got {self.jobs}")
        module, _, function = STUDIES[self.name].partition(":")
        out = self.out or Path(self.name)
        print(getattr(importlib.import_module(module), function)(self.preset, out, self.jobs))
        print(f"report   {out / 'report.html'}")
        return 0
