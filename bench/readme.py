"""Writes the README's tables from bench/results and docs/quick: `python -m bench.readme`."""

from __future__ import annotations

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"


def ops_table() -> str:
    """The last row of every case of bench/results/ops.jsonl."""
    lines = (ROOT / "bench/results/ops.jsonl").read_text().splitlines()
    rows = {row["case"]: row for row in map(json.loads, lines)}
    here = list(rows.values())[-1]["machine"]
    out = ["| case | ms | GB/s | time / in-place scale | faster than |", "|---|---|---|---|---|"]
    for row in rows.values():
        own = next(name for name in ("in place", "fresh", "numpy") if name in row["ms"])
        over = row.get("over_in_place_scale")
        rivals = ", ".join(f"{name} {x:.1f}x" for name, x in row["times_faster_than"].items())
        share = f"{over:.2f}" if over else ""
        speed = f"{row['gbs']:.0f}" if row["gbs"] >= 1 else ""
        out.append(f"| {row['case']} | {row['ms'][own]:.2f} {own} | {speed} | {share} | {rivals} |")
    machine = (
        f"{here['cpu']}, {here['cores']} cores, {here['isa']}; copy {here['copy_gbs']} GB/s, "
        f"in-place scale {here['in_place_gbs']} GB/s, product {here['matmul_gflops']} Gflop/s; "
        f"jax {here['jax']}; {here['date']}."
    )
    return "\n".join([*out, "", machine])


def study_table() -> str:
    """The printed table of the committed quick run."""
    return "```\n" + (ROOT / "docs/quick/table.txt").read_text().rstrip() + "\n```"


def fill(text: str, name: str, table: str) -> str:
    """The text with what lies between the markers of `name` replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    filled, n = re.subn(pattern, lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
    if n != 1:
        raise ValueError(f"README.md must have the markers {begin} and {end} once, got {n}")
    return filled


def main() -> None:
    text = README.read_text()
    text = fill(text, "ops", ops_table())
    text = fill(text, "quick", study_table())
    README.write_text(text)


if __name__ == "__main__":
    main()
