"""`bitlaw formats`."""

from dataclasses import dataclass


@dataclass
class Formats:
    """Print the table of number formats.

    bitlaw formats

    Columns: levels; bits per weight with its scales (those of a tensor, channel or row are next
    to nothing and left out); the largest and the smallest level above zero, in units of the
    scale; what shares a scale, how it is taken and stored; the mean squared error on N(0, 1) with
    the best scale for it.
    """

    def run(self) -> int:
        print(table())
        return 0


def table() -> str:
    """The table of formats as text."""
    from bitlaw.formats import FORMATS

    head = ("format", "levels", "bits", "max", "smallest", "block", "scale", "GMSE")
    rows = [head]
    for fmt in FORMATS.values():
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
