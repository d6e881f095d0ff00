"""Every node explains itself: tooltips, help in two languages, an example. Read from the files, without ComfyUI."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TYPES: dict[str, Any] = json.loads((ROOT / "docs/example_graphs/node_types.json").read_text(encoding="utf-8"))
OURS = sorted(name for name in TYPES if name.startswith("MetaLoRA_"))
JAPANESE: dict[str, Any] = json.loads((ROOT / "locales/ja/nodeDefs.json").read_text(encoding="utf-8"))
KANA = re.compile("[ぁ-んァ-ヶ]")


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for path in sorted((ROOT / "nodes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node


def given(call: ast.Call) -> set[str | None]:
    return {keyword.arg for keyword in call.keywords}


def inputs_of(node: str) -> list[str]:
    return [slot["name"] for slot in [*TYPES[node]["sockets"], *TYPES[node]["widgets"]]]


def outputs_of(node: str) -> list[str]:
    return [slot["name"] for slot in TYPES[node]["outputs"]]


def help_pages(node: str) -> list[Path]:
    return [ROOT / "web/docs" / f"{node}.md", ROOT / "web/docs" / node / "ja.md"]


def test_every_input_and_output_has_a_tooltip() -> None:
    slots = [(p, c) for p, c in calls() if isinstance(c.func, ast.Attribute) and c.func.attr in ("Input", "Output")]
    assert len(slots) > 80
    silent = [f"{path.name}:{call.lineno}" for path, call in slots if "tooltip" not in given(call)]
    assert not silent or silent == ["schema.py:" + silent[0].split(":")[1]]  # there the tooltip is handed through


def test_every_node_has_a_description_and_search_aliases() -> None:
    schemas = [call for _, call in calls() if isinstance(call.func, ast.Name) and call.func.id == "node_schema"]
    ids = {f"MetaLoRA_{ast.literal_eval(call.args[0])}" for call in schemas}
    assert ids == set(OURS)
    assert all({"description", "search_aliases"} <= given(call) for call in schemas)


@pytest.mark.parametrize("words", ["train face", "train lora", "lora from photos", "learn face"])
def test_what_artists_search_for_finds_the_node_that_learns(words: str) -> None:
    schemas = [call for _, call in calls() if isinstance(call.func, ast.Name) and call.func.id == "node_schema"]
    (learning,) = (call for call in schemas if ast.literal_eval(call.args[0]) == "AdaptIdentity")
    (aliases,) = (keyword.value for keyword in learning.keywords if keyword.arg == "search_aliases")
    assert words in ast.literal_eval(aliases)


@pytest.mark.parametrize("node", OURS)
def test_help_speaks_of_every_input_and_output(node: str) -> None:
    for page in help_pages(node):
        spoken = set(re.findall(r"`(\w+)`", page.read_text(encoding="utf-8")))
        assert not {*inputs_of(node), *outputs_of(node)} - spoken, page.name


@pytest.mark.parametrize("node", OURS)
def test_help_shows_a_picture_that_exists(node: str) -> None:
    for page in help_pages(node):
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert pictures
        # ComfyUI reads a relative address from web/docs, for the pages in the folders below it too.
        assert all((ROOT / "web/docs" / picture).is_file() for picture in pictures), page.name


@pytest.mark.parametrize("node", OURS)
def test_help_has_the_nodes_name_for_a_title(node: str) -> None:
    english, japanese = (page.read_text(encoding="utf-8").splitlines()[0] for page in help_pages(node))
    assert english == f"# {TYPES[node]['title']}"
    assert japanese == f"# {JAPANESE[node]['display_name']}"


@pytest.mark.parametrize("node", OURS)
def test_japanese_covers_the_whole_node(node: str) -> None:
    words = JAPANESE[node]
    assert set(words["inputs"]) == set(inputs_of(node))
    assert set(words["outputs"]) == {str(number) for number in range(len(outputs_of(node)))}
    texts = [
        words["description"],
        *(slot["tooltip"] for part in ("inputs", "outputs") for slot in words[part].values()),
    ]
    assert all(KANA.search(text) for text in texts)


def test_japanese_words_hold_nothing_that_the_page_would_interpret() -> None:
    for path in (ROOT / "locales").rglob("*.json"):
        for text in strings(json.loads(path.read_text(encoding="utf-8"))):
            assert not set(text) & set("{}|@"), f"{path.name}: {text}"


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def test_no_help_page_or_word_is_left_over() -> None:
    assert set(JAPANESE) == set(OURS)
    assert {path.stem for path in (ROOT / "web/docs").glob("*.md")} == set(OURS)
    assert {path.parent.name for path in (ROOT / "web/docs").glob("*/ja.md")} == set(OURS)


def test_one_script_is_loaded_and_none_writes_html() -> None:
    assert [path.name for path in (ROOT / "web").rglob("*.js")] == ["metalora.js"]
    for path in [*(ROOT / "web").rglob("*.js"), *(ROOT / "web").rglob("*.mjs")]:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", path.read_text(encoding="utf-8")
        )


def test_slots_are_those_of_the_schema_snapshot() -> None:
    snapshot = json.loads((ROOT / "tests/snapshots/object_info.json").read_text(encoding="utf-8"))
    assert set(snapshot) == set(OURS)
    for name in OURS:
        assert TYPES[name]["title"] == snapshot[name]["display_name"]
        assert outputs_of(name) == snapshot[name]["output_name"]
        declared = [slot for need in ("required", "optional") for slot in snapshot[name]["input"].get(need, {})]
        assert sorted(declared) == sorted(inputs_of(name))
