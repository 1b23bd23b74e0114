"""`bitlaw report`."""

from dataclasses import dataclass
from pathlib import Path

from bitlaw.commands.door import checked, find_law


@dataclass
class Report:
    """Report on a study or on a fit.

    DIR, a folder that `bitlaw reproduce` has written: the law is fitted to its runs.csv again;
    fit.json and report.html are written there and the table is printed.

    FILE.json, a record that `bitlaw fit` or a study has written, of any law: nothing is fitted
    anew; report.html, figures/*.svg and *.png and tables/*.csv are made from the record alone.

      bitlaw report study
      bitlaw report t5.json --out t5-report
    """

    source: Path
    """A folder with runs.csv, or a fit.json."""

    out: Path | None = None
    """Folder for the report of a fit.json; without it, one beside the file named as it is."""

    def run(self) -> int:
        from bitlaw.laws import read_runs
        from bitlaw.studies import report

        if self.source.suffix == ".json":
            with checked():
                fit = report.read_fit(self.source)
                find_law(fit.law)
            out = self.out or self.source.with_suffix("")
            written = report.write_files(fit, out)
            print(f"report   {written[0]}\nfigures  {out / 'figures'}\ntables   {out / 'tables'}")
            return 0
        with checked():
            if self.out:
                raise ValueError(f"out must be left out with a folder, got {self.out}")
            read_runs(self.source / "runs.csv")
        print(report.write(self.source))
        print(f"fit      {self.source / 'fit.json'}\nreport   {self.source / 'report.html'}")
        return 0
