"""The rules of CONTRIBUTING.md that a machine can hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from metalora_core.model.families import FAMILIES, bases

ROOT = Path(__file__).resolve().parents[2]
LONGEST_FILE = 400
LONGEST_FUNCTION = 40
SOURCES = sorted(
    path for folder in ("metalora_core", "nodes", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
)
LIBRARY = sorted((ROOT / "metalora_core").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef
# What may import what: a room imports from lower floors only, see docs/architecture.md.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("checks", "functional"),
    ("model", "references", "chain"),
    ("inject", "files"),
    ("photos", "hosts", "provenance", "applying"),
    ("training",),
    ("adaptation", "meta_training"),
    ("pocket",),
    ("evaluation",),
    ("demo", "quick", "many"),
    ("commands",),
    ("__main__",),
    ("nodes.bridge.host",),
    ("nodes.bridge",),
    ("nodes",),
)
MOST_FILES_AT_THE_ROOT = 10


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


def room(parts: tuple[str, ...]) -> str:
    """The room that a module belongs to, under the names of ``FLOORS``."""
    if parts[0] == "metalora_core":
        return parts[1] if len(parts) > 1 else ""
    return ".".join(parts[: 3 if parts[1:3] == ("bridge", "host") else 2 if parts[1:2] == ("bridge",) else 1])


def relative_imports(path: Path) -> set[tuple[str, ...]]:
    """Modules of this project that a file imports, as paths of names; a package's own names count as the package."""
    package = path.relative_to(ROOT).parent.parts
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(node.module.split(".") if node.module else ())
            for alias in node.names:
                module = (*base, alias.name)
                exists = (ROOT.joinpath(*module)).with_suffix(".py").exists() or ROOT.joinpath(*module).is_dir()
                found.add(module if exists else base)
    return found


def modules() -> dict[tuple[str, ...], Path]:
    paths = [path for path in SOURCES if name(path).startswith(("metalora_core", "nodes"))]
    short = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {parts[:-1] if parts[-1] == "__init__" else parts: path for path, parts in short.items()}


def test_every_room_imports_from_lower_floors_only() -> None:
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    face = ("metalora_core",)  # names everything and imports it late
    climbs = {
        f"{'.'.join(module)} imports {'.'.join(other)}"
        for module, path in modules().items()
        if module != face
        for other in relative_imports(path) - {face}
        if (here := room(module)) != (there := room(other)) and floor[there] >= floor[here]
    }
    assert climbs == set()


def test_no_module_imports_itself_through_others() -> None:
    imports = {module: relative_imports(path) for module, path in modules().items() if module != ("metalora_core",)}

    def reached(module: tuple[str, ...]) -> set[tuple[str, ...]]:
        seen: set[tuple[str, ...]] = set()
        ahead = [module]
        while ahead:
            new = imports.get(ahead.pop(), set()) - seen
            seen |= new
            ahead += new
        return seen

    assert [".".join(module) for module in imports if module in reached(module)] == []


def test_a_stranger_sees_the_method_at_the_root() -> None:
    assert len(list((ROOT / "metalora_core").glob("*.py"))) <= MOST_FILES_AT_THE_ROOT


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


def test_only_a_familys_own_files_name_it() -> None:
    own = {"metalora_core/model/families.py", "metalora_core/pocket/flux.py"}
    own |= {f"metalora_core/hosts/{family}.py" for family in FAMILIES}
    words = {word for family in FAMILIES.values() for word in (family.name, family.denoiser)}
    words |= {word for base in bases() for word in (base.name, base.pipeline, base.modelspec)}
    found: set[str] = set()
    for path in SOURCES:
        if not name(path).startswith(("metalora_core/", "nodes/")) or name(path) in own:
            continue
        for node in ast.walk(tree(path)):
            names = (getattr(node, key, None) for key in ("value", "id", "attr"))
            said = {word for word in names if isinstance(word, str)} & words
            found |= {f"{name(path)}:{getattr(node, 'lineno', 0)} {word}" for word in said}
    assert found == set()


def test_optional_packages_are_imported_through_one_door():
    """Of a plain ComfyUI's nodes none may end with a bare ModuleNotFoundError in the middle of its work."""
    door = ast.parse((ROOT / "metalora_core/checks.py").read_text(encoding="utf-8"))
    (lines,) = [node.value for node in door.body if isinstance(node, ast.Assign) and "_PIP_LINES" in ast.dump(node)]
    packages = set(ast.literal_eval(lines)) - {"typer"}  # the command line's own files are behind __main__
    sources = [path for path in SOURCES if path.parts[len(ROOT.parts)] in ("metalora_core", "nodes")]
    assert {name(path): found for path in sources if (found := imported(path) & packages)} == {}
