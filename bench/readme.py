"""Writes the README's tables from bench/results and docs: `python -m bench.readme`."""

from __future__ import annotations

import json
import pathlib
import re
from collections import Counter
from collections.abc import Iterable

from bench import rivals, sparsity
from bench.cases import cases

DTYPES = {"float32": "f32", "bfloat16": "bf16"}
ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
QUANTIZE = re.compile(r"fake_quantize (\w+)/(tensor|row|block\d+) \d+x\d+ (float32|bfloat16)")


def ops_table() -> str:
    """The last row of every case of bench/results/ops.jsonl; formats and their rivals in tables."""
    lines = (ROOT / "bench/results/ops.jsonl").read_text().splitlines()
    wanted = {case.name for case in cases()}
    rows = {row["case"]: row for row in map(json.loads, lines) if row["case"] in wanted}
    here = json.loads(lines[-1])["machine"]
    formats = {match.groups(): rows[name] for name in rows if (match := QUANTIZE.fullmatch(name))}
    out = ["| case | ms | GB/s | time / in-place scale | faster than |", "|---|---|---|---|---|"]
    for row in rows.values():
        if QUANTIZE.fullmatch(row["case"]):
            continue
        own = next(name for name in ("in place", "fresh", "numpy") if name in row["ms"])
        over = row.get("over_in_place_scale")
        others = ", ".join(f"{name} {x:.1f}x" for name, x in row["times_faster_than"].items())
        share = f"{over:.2f}" if over else ""
        speed = f"{row['gbs']:.0f}" if row["gbs"] >= 1 else ""
        out.append(f"| {row['case']} | {row['ms'][own]:.2f} {own} | {speed} | {share} | {others} |")
    machine = (
        f"{here['cpu']}, {here['cores']} cores, {here['isa']}; copy {here['copy_gbs']} GB/s, "
        f"in-place scale {here['in_place_gbs']} GB/s, product {here['matmul_gflops']} Gflop/s; "
        f"jax {here['jax']}; {here['date']}. {_by_commit(rows.values())}"
    )
    tables = [out, _formats_table(formats), _rivals_table(formats), _step_table(), _memory_table()]
    return "\n\n".join(["\n".join(table) for table in tables if table] + [machine])


def _by_commit(rows: Iterable[dict]) -> str:
    """How many rows were saved at which commit, most first."""
    # While a run is saved the file of results itself makes its commit dirty.
    commits = Counter(row["machine"]["commit"].removesuffix("-dirty") for row in rows)
    return "Rows by commit: " + ", ".join(f"{n} at {c}" for c, n in commits.most_common()) + "."


def _last_rows(name: str) -> list[dict]:
    """The last row of every case of bench/results/NAME.jsonl; none without the file."""
    path = ROOT / "bench/results" / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return list({row["case"]: row for row in map(json.loads, lines)}.values())


def _step_table() -> list[str]:
    """What a scheme adds to a training step (`bench.train`)."""
    rows = [
        f"| {row['case']} | {row['ms']:.0f} | {row['overhead']:+.1%} |"
        for row in _last_rows("train")
    ]
    return rows and ["| training step | ms | over dense |", "|---|---|---|", *rows]


def _memory_table() -> list[str]:
    """What the backward pass of a stack of layers keeps (`bench.memory`)."""
    rows = [f"| {row['case']} | {row['bytes_per_element']:.2f} |" for row in _last_rows("memory")]
    head = "| product of W4A4 layers, what backward keeps | bytes per element |"
    return rows and [head, "|---|---|", *rows]


def _formats_table(rows: dict[tuple, dict]) -> list[str]:
    """By format: the time of `fake_quantize` over that of an in-place scale; * misses its goal."""
    columns = [(shared, dtype) for dtype in DTYPES for shared in ("tensor", "row", "block")]
    titles = " | ".join(f"{shared} {DTYPES[dtype]}" for shared, dtype in columns)
    out = [f"| in place, time / in-place scale (* over its goal) | {titles} |", "|---" * 7 + "|"]
    cells = {
        (name, shared.rstrip("0123456789"), dtype): f"{row['over_in_place_scale']:.2f}"
        + "*" * ("in-place scale" in row["missed"])
        for (name, shared, dtype), row in rows.items()
    }
    for name in dict.fromkeys(name for name, _, _ in rows):
        out.append(f"| {name} | " + " | ".join(cells.get((name, *c), "") for c in columns) + " |")
    return out


def _rivals_table(rows: dict[tuple, dict]) -> list[str]:
    """By format and what shares a scale: times faster than other libraries, f32 and bf16."""
    titles = " | ".join(rivals.MODULES)
    out = [f"| times faster, f32 / bf16 | {titles} |", "|---" * 5 + "|"]
    for name, shared in dict.fromkeys((name, shared) for name, shared, _ in rows):
        found = [rows.get((name, shared, dtype)) for dtype in DTYPES]
        ratios = [row["times_faster_than"] if row else {} for row in found]
        cells = [
            " / ".join(f"{r[rival]:.1f}" if rival in r else "-" for r in ratios)
            for rival in rivals.MODULES
        ]
        if set(cells) != {"- / -"}:
            cells = ["" if cell == "- / -" else cell for cell in cells]
            out.append(f"| {name}/{shared} | " + " | ".join(cells) + " |")
    return out


def sparsity_table() -> str:
    """The last row of every case of bench/results/sparsity.jsonl: selections, then steps."""
    lines = (ROOT / "bench/results/sparsity.jsonl").read_text().splitlines()
    rows = {row["case"]: row for row in map(json.loads, lines)}
    rows = [rows[name] for name, _, _ in sparsity.cases() if name in rows]
    titles = "ms | alone, ms | reads | share of the bandwidth | faster than | goals missed"
    out = [f"| mask | {titles} |", "|---" * 7 + "|"]
    for row in rows:
        if "reads" in row:
            others = ", ".join(f"{name} {x:.1f}x" for name, x in row["times_faster_than"].items())
            alone, share = (f"{row[key]:.2f}" if key in row else "" for key in ("alone", "share"))
            out.append(
                f"| {row['case']} | {row['ms']['ours']:.2f} | {alone} | {row['reads']:.2f} "
                f"| {share} | {others} | {', '.join(row['missed'])} |"
            )
    titles = "at an update, ms | between, ms | bare, ms | between / bare"
    out += ["", f"| AdamW | {titles} |", "|---" * 5 + "|"]
    for row in rows:
        if "between / bare" in row:
            ms = " | ".join(f"{x:.0f}" for x in row["ms"].values())
            out.append(f"| {row['case']} | {ms} | {row['between / bare']:.2f} |")
    return "\n".join(out)


def packing_table() -> str:
    """The rows of bench/results/packing.jsonl of the last commit there; times by both clocks."""
    lines = (ROOT / "bench/results/packing.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    commit = lambda row: row["machine"]["commit"].removesuffix("-dirty")  # by the file itself
    newest, last = found[-1]["machine"], {row["case"]: row for row in found}
    rows = [row for row in last.values() if commit(row) == commit(found[-1])]
    out = [
        "| case | ms, wall / cpu | fill | beside it, wall / cpu | goals missed |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        beside = [
            f"{_clocks(x, '.1f', 'x')} faster than {n}"
            for n, x in row.get("times_faster_than", {}).items()
        ]
        if "over_copy" in row:
            beside.append(f"{_clocks(row['over_copy'], '.2f')} of a copy of the rows")
        if "over_1M" in row:
            beside.append(f"{row['over_1M']:.1f} times as long as 1M (cpu)")
        fill = f"{row['fill']:.2%}" if "fill" in row else ""
        goals = row.get("missed", {}).items()
        missed = ", ".join(f"{goal} ({', '.join(by)})" if by else goal for goal, by in goals)
        out.append(
            f"| {row['case']} | {_clocks(row['ms'], '.1f')} | {fill} | {', '.join(beside)} "
            f"| {missed} |"
        )
    machine = f"{newest['cpu']}, {newest['cores']} cores, {newest['isa']}; {newest['date']}."
    return "\n".join([*out, "", machine])


def _clocks(by: dict[str, float], digits: str, unit: str = "") -> str:
    return f"{by['wall']:{digits}}{unit} / {by['cpu']:{digits}}{unit}"


def study_table(preset: str) -> str:
    """The printed table of the committed run of a preset."""
    return "```\n" + (ROOT / f"docs/{preset}/table.txt").read_text().rstrip() + "\n```"


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
    text = fill(text, "sparsity", sparsity_table())
    text = fill(text, "packing", packing_table())
    for preset in ("quick", "cpu-sparse"):
        text = fill(text, preset, study_table(preset))
    README.write_text(text)


if __name__ == "__main__":
    main()
