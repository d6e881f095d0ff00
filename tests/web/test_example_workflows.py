"""The example workflows as files: up to date, tidy, and asking for nothing that a fresh ComfyUI lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
RUNNING = [path for path in EXAMPLES if not path.name.startswith("02")]
TYPES: dict[str, Any] = json.loads((ROOT / "docs/example_graphs/node_types.json").read_text(encoding="utf-8"))
FILE_WIDGETS = {
    *("unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name", "image", "prior_name", "identity_name"),
}


def graph_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def prompt_of(path: Path) -> dict[str, Any]:
    return json.loads((ROOT / "tests/example_prompts" / path.name).read_text(encoding="utf-8"))


def test_files_are_what_their_descriptions_say() -> None:
    check = [sys.executable, "-m", "docs.example_graphs.write", "--check"]
    told = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


def test_they_are_numbered_and_every_node_stands_in_one() -> None:
    numbers = [path.name.partition("_")[0] for path in EXAMPLES]
    assert numbers == ["01", "02a", "02b", "02c", "03", "04", "05", "06", "07", "08", "09"]
    used = {node["type"] for path in EXAMPLES for node in graph_of(path)["nodes"]}
    assert {name for name in TYPES if name.startswith("MetaLoRA_")} <= used


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_has_its_picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path.with_suffix(".jpg")) as picture:
        assert min(picture.size) >= 256


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_two_nodes_lie_on_each_other_and_each_lies_in_a_group(path: Path) -> None:
    graph = graph_of(path)
    boxes = [box(node) for node in graph["nodes"]]
    assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    groups = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in graph["groups"])]
    assert not [pair for pair in combinations(groups, 2) if overlap(*pair)]
    assert all(any(holds(group, inner) for group in groups) for inner in boxes)


def box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - 30, x + width, y + (0 if node["flags"].get("collapsed") else height)


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def holds(outer: tuple[float, ...], inner: tuple[float, ...]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_file_that_is_named_comes_with_its_folder_and_address(path: Path) -> None:
    for node in graph_of(path)["nodes"]:
        inputs = prompt_of(path).get(str(node["id"]), {}).get("inputs", {})
        named = {inputs[name] for name in FILE_WIDGETS & set(inputs) if isinstance(inputs[name], str)} - {""}
        listed = node["properties"].get("models", [])
        assert named == {file["name"] for file in listed}
        for file in listed:
            assert file["url"].startswith("https://huggingface.co/") and file["url"].endswith("/" + file["name"])
            assert file["directory"] in {"diffusion_models", "text_encoders", "vae"}


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: path.stem)
def test_what_runs_on_the_pocket_model_needs_no_file_at_all(path: Path) -> None:
    prompt = prompt_of(path)
    assert not [node for node in prompt.values() if FILE_WIDGETS & set(node["inputs"])]
    assert "SaveImage" in {node["class_type"] for node in prompt.values()}


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: path.stem)
def test_prompts_use_words_that_the_pocket_model_knows(path: Path) -> None:
    from metalora_core.pocket.text import VOCABULARY

    texts = [node["inputs"]["text"] for node in prompt_of(path).values() if node["class_type"] == "CLIPTextEncode"]
    words = {word for text in texts for word in text.replace(",", " ").split()}
    assert words - set(VOCABULARY) <= {"ohwx", "sksx"}


def test_the_catalogue_names_the_product_that_it_shows() -> None:
    from metalora_core.pocket.world.factors import draw_subject

    # nodes/bridge/pocket_model.py draws its sample subjects from here on.
    first_sample = 5_000_000
    prompt = prompt_of(next(path for path in EXAMPLES if path.name.startswith("07")))
    loader = next(node for node in prompt.values() if node["class_type"] == "MetaLoRA_LoadPocketModel")
    shown = draw_subject(loader["inputs"]["domain"], "validation", first_sample + loader["inputs"]["subject"])
    scenes = [node["inputs"]["text"] for node in prompt.values() if node["class_type"] == "CLIPTextEncode"]
    assert len({text for text in scenes if text}) == 10
    assert all(text.startswith(f"photo of a ohwx {shown.class_word},") for text in scenes if text)
