"""Who may depend on whom: lower rooms never import higher ones, in Python and in C++."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PYTHON = ROOT / "python" / "bitlaw"
BELOW_MODELS = {"ops", "formats", "sparsity", "packing"}
MAY_IMPORT = {
    "ops": set(),
    "formats": {"ops"},
    "sparsity": {"ops", "formats"},
    "packing": {"ops", "formats"},
    "models": BELOW_MODELS,
    "train": BELOW_MODELS | {"models"},
    "laws": set(),
    "pages": {"laws"},
    "studies": BELOW_MODELS | {"models", "train", "laws", "pages"},
    "commands": BELOW_MODELS | {"models", "train", "laws", "pages", "studies"},
    "cli": {"commands", "studies"},
}
FILES = [p for p in PYTHON.rglob("*.py") if p.name != "__init__.py" or p.parent != PYTHON]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PYTHON)))
def test_imports_point_down(path):
    room = path.relative_to(PYTHON).parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        assert "_src" not in parts, f"{path} imports {name}"
        if parts[0] == "bitlaw" and len(parts) > 1:
            other = parts[1]
            if other in ("_core", "_cuda"):
                assert path.name in ("op.py", "format.py"), f"{path} imports {name}"
            elif other in MAY_IMPORT and other != room:
                assert other in MAY_IMPORT[room], f"{path}: {room} imports {other}"
        if room == "laws":
            assert parts[0] not in ("jax", "matplotlib", "optax"), f"{path} imports {name}"
        if parts[0] == "optax":
            transforms = room == "sparsity" and path.stem in (
                "updates",
                "regrow",
                "straight_through",
            )
            assert room == "train" or transforms, f"{path} imports {name}"


OUTSIDE = {"bind": ("xla", "pybind11", "sys"), "cuda": ("cub",)}
ALLOWED_CPP = {"core": {"core"}, "cuda": {"core", "cuda"}, "bind": {"core", "cuda", "bind"}}


@pytest.mark.parametrize(
    "path",
    [p for p in (ROOT / "cpp").rglob("*") if p.suffix in (".hpp", ".cc", ".cu", ".cuh")],
    ids=lambda p: p.name,
)
def test_includes_point_down(path):
    room = path.relative_to(ROOT / "cpp").parts[0]
    text = path.read_text()
    for name in re.findall(r'#include "(\w+)/', text):
        assert name in ALLOWED_CPP[room], f"{path} includes {name}"
    for outside in re.findall(r"#include <(\w+)/", text):
        assert outside in OUTSIDE.get(room, ()), f"{path} includes {outside}"


# From its captures (any, but no index of an array and no attribute) to the brace of its body.
LAMBDA = r"(?<![\w\])\[])\[[^\[\]]*\]\s*(?=[(<{]).*?\{"


def leaves(text):
    """The bodies of the functions marked BITLAW_LEAF or BITLAW_OWN."""
    for match in re.finditer(r"^ *(?:BITLAW_LEAF|BITLAW_OWN) [^;{]*\{", text, re.MULTILINE):
        depth, at = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        yield text[match.end() : at]


@pytest.mark.parametrize("path", [*(ROOT / "cpp/core").glob("*.hpp")], ids=lambda p: p.name)
def test_lambdas_of_leaves_are_inlined(path):
    """Out of line, one is compiled once, for the base instruction set: maps took 7 times longer."""
    for body in leaves(path.read_text()):
        for head in re.findall(LAMBDA, body, re.DOTALL):
            assert "BITLAW_INLINE" in head, f"{path.name}: {head}"


@pytest.mark.parametrize("captures", ["", "&", "=", "&, x", "this, &y"])
def test_lambdas_are_found_by_their_captures(captures):
    body = f"float v[4] = {{}}; f(v[0]); const auto g = [{captures}](float x) {{ return x; }};"
    assert re.findall(LAMBDA, body, re.DOTALL) == [f"[{captures}](float x) {{"]


def test_laws_need_no_jax():
    code = "import sys, bitlaw.laws; sys.exit('jax' in sys.modules or 'matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_need_no_optax():
    code = "import sys, bitlaw; bitlaw.top_k_mask, bitlaw.fake_quantize; "
    code += "sys.exit('optax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
