"""`bitlaw formats`."""

from collections.abc import Sequence
from dataclasses import dataclass

from bitlaw.commands.door import UsageError


@dataclass
class Formats:
    """Print the table of number formats.

      bitlaw formats
      bitlaw formats --like mx

    Columns: levels; bits per weight with its scales (those of a tensor, channel or row are next
    to nothing and left out); the largest and the smallest level above zero, in units of the
    scale; what shares a scale, how it is taken and stored; the mean squared error on N(0, 1) with
    the best scale for it.
    """

    like: str = ""
    """Only formats with this in their name."""

    def run(self) -> int:
        from bitlaw.formats import FORMATS

        names = [name for name in FORMATS if self.like in name]
        if not names:
            raise UsageError(f"like must be in the name of a format, got {self.like!r}")
        print(table(names))
        return 0


def table(names: Sequence[str]) -> str:
    """The table of these formats as text."""
    from bitlaw.formats import FORMATS

    head = ("format", "levels", "bits", "max", "smallest", "block", "scale", "GMSE")
    rows = [head]
    for fmt in map(FORMATS.__getitem__, names):
        shared = f"{fmt.block} in a row" if fmt.block else fmt.granularity
        rows.append(
            (
                fmt.name,
                str(fmt.levels),
                f"{fmt.bits + fmt.scale_bits:g}",
                f"{fmt.largest:g}",
                f"{fmt.smallest:.3g}",
                shared,
                f"{fmt.rule}, {fmt.scaling}",
                f"{fmt.best_gauss_mse:.3g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, 5, 6}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
