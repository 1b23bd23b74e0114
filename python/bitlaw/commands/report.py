"""`bitlaw report`."""

from dataclasses import dataclass
from pathlib import Path

from bitlaw.commands.door import checked


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
