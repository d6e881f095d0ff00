"""The rules of CONTRIBUTING.md that a machine can hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 400
LONGEST_FUNCTION = 40
SOURCES = sorted(
    path for folder in ("metalora_core", "nodes", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
)
LIBRARY = sorted((ROOT / "metalora_core").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def body_lines(function: Function) -> int:
    """Lines of what a function does: without its signature and docstring, which may explain at length."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_files_are_short() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long: dict[str, int] = {}
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            # A node's schema is a table of its inputs, not a procedure.
            if isinstance(node, Function) and node.name != "define_schema" and body_lines(node) > LONGEST_FUNCTION:
                long[f"{name(path)}:{node.name}"] = body_lines(node)
    assert long == {}


def test_the_library_knows_nothing_of_comfyui() -> None:
    hosts = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "execution", "nodes"}
    assert {name(path): found for path in LIBRARY if (found := imported(path) & hosts)} == {}


def test_imports_inside_the_library_are_relative() -> None:
    assert [name(path) for path in LIBRARY if "metalora_core" in imported(path)] == []


def test_nothing_is_unpickled_or_evaluated() -> None:
    forbidden = {"torch.load", "eval", "exec"}
    for path in SOURCES:
        called = {ast.unparse(node.func) for node in ast.walk(tree(path)) if isinstance(node, ast.Call)}
        assert not called & forbidden, name(path)
        assert not imported(path) & {"pickle", "marshal", "shelve", "dill", "joblib"}, name(path)


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'diffusers', 'peft', 'PIL'}"
    script = f"import sys, metalora_core.commands.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
