"""A real headless ComfyUI: the pack loads cleanly, its schema is the committed one, the workflows run to the end."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
import graphs
import shipped
from comfy_server import PACK, SHARED_PRIORS, ComfyServer, failure
from comfy_versions import each_version, folder_of

pytestmark = [pytest.mark.comfy, pytest.mark.slow]
SNAPSHOT = Path(__file__).resolve().parent.parent / "snapshots" / "object_info.json"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Fields that only newer hosts know, or that differ between hosts by themselves.
KEPT = (
    "input",
    "input_order",
    "output",
    "output_name",
    "output_tooltips",
    "name",
    "display_name",
    "description",
    "category",
)
# Widgets that list files, which differ from place to place.
LISTINGS = (
    ("MetaLoRA_LoadPrior", "prior_name"),
    ("MetaLoRA_LoadIdentity", "identity_name"),
    ("MetaLoRA_MetaTrainPrior", "subjects"),
    ("MetaLoRA_QuickPrior", "subjects"),
    ("MetaLoRA_QuickPrior", "loras"),
    ("MetaLoRA_AdaptMany", "subjects"),
)


@pytest.fixture(scope="module", params=each_version())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(folder_of(request.param), tmp_path_factory.mktemp("comfyui")) as running:
        yield running


def _our_lines(log: str) -> list[str]:
    return [
        line for line in log.splitlines() if PACK in line or "metalora" in line.lower() or "comfy_entrypoint" in line
    ]


def test_pack_loads_without_a_warning(server: ComfyServer) -> None:
    lines = _our_lines(server.log)
    assert any(PACK in line for line in lines), "the pack was not loaded"
    assert not [line for line in lines if "warn" in line.lower() or "error" in line.lower() or "FAILED" in line], lines


def test_schema_equals_the_snapshot(server: ComfyServer) -> None:
    """METALORA_UPDATE_SNAPSHOTS=1 writes it anew; a change of an id or a type breaks saved workflows."""
    found = {name: node for name, node in server.get("object_info").items() if name.startswith("MetaLoRA_")}
    schema = {name: {field: _plain(node[field]) for field in KEPT if field in node} for name, node in found.items()}
    for name, widget in LISTINGS:
        schema[name]["input"]["required"][widget][1]["options"] = []
    if os.environ.get("METALORA_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    assert schema == json.loads(SNAPSHOT.read_text())


def _plain(value: Any) -> Any:
    """Without what one host writes and the other leaves out, though it means the same."""
    if isinstance(value, dict):
        silent = {"multiselect", "dynamicPrompts", "optional", "display", "forceInput"}
        return {key: _plain(item) for key, item in value.items() if key not in silent or isinstance(item, dict)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def test_every_node_explains_itself(server: ComfyServer) -> None:
    nodes = {name: node for name, node in server.get("object_info").items() if name.startswith("MetaLoRA_")}
    assert len(nodes) == 15
    findings: list[str] = []
    for name, node in nodes.items():
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        findings += [f"{name}.{key} has no tooltip" for key, spec in inputs.items() if not spec[1].get("tooltip")]
        findings += [f"{name} has no description"] if not node["description"] else []
        tooltips = node.get("output_tooltips") or [None] * len(node["output"])
        findings += [f"{name}: output {i} has no tooltip" for i, tooltip in enumerate(tooltips) if not tooltip]
        shown = [key for key, spec in inputs.items() if not spec[1].get("advanced")]
        findings += [f"{name} shows {len(shown)} inputs"] if len(shown) > 7 else []
        findings += [f"{name} has no search alias"] if "search_aliases" in node and not node["search_aliases"] else []
    assert not findings, findings


def _size(server: ComfyServer, picture: dict[str, str]) -> tuple[int, int]:
    folder = server.base / ("temp" if picture["type"] == "temp" else picture["type"])
    data = (folder / picture["subfolder"] / picture["filename"]).read_bytes()
    assert data.startswith(SIGNATURE)
    return struct.unpack(">II", data[16:24])


def _saved(server: ComfyServer, outputs: dict[str, Any], count: int = 1) -> None:
    pictures = outputs["saved"]["images"]
    assert [_size(server, picture) for picture in pictures] == [(128, 128)] * count


def test_workflow_01_adapts_and_generates(server: ComfyServer) -> None:
    outputs = server.run(graphs.adapt_and_generate())
    _saved(server, outputs)
    assert "24 of 24" in outputs["model"]["text"][0] or "targets" in outputs["model"]["text"][0]
    assert _size(server, outputs["losses"]["images"][0])[0] > 100
    assert list((server.base / "models" / "metalora_identities" / "adapted").glob("ohwx_*.safetensors"))


def test_workflow_03_draws_two_identities(server: ComfyServer) -> None:
    _saved(server, server.run(graphs.two_identities()))


def test_workflow_04_trains_a_prior(server: ComfyServer) -> None:
    outputs = server.run(graphs.meta_train())
    assert "4 subjects, 4 steps" in outputs["prior"]["text"][0]
    assert (server.base / SHARED_PRIORS / "trained_here.safetensors").is_file(), "extra_model_paths.yaml was not asked"
    names = server.get("object_info/MetaLoRA_LoadPrior")["MetaLoRA_LoadPrior"]["input"]["required"]["prior_name"]
    assert "trained_here.safetensors" in json.dumps(names)


def test_workflow_05_evaluates(server: ComfyServer) -> None:
    outputs = server.run(graphs.evaluate())
    assert outputs["shown"]["images"]


def test_workflow_06_exports_for_any_loader(server: ComfyServer) -> None:
    outputs = server.run(graphs.export())
    assert "somebody.safetensors" in outputs["lora"]["text"][0]
    _saved(server, server.run(graphs.load_exported()))
    _saved(server, server.run(graphs.load_saved()))


def test_workflow_07_draws_a_catalogue(server: ComfyServer) -> None:
    _saved(server, server.run(graphs.catalogue()), count=3)


@pytest.mark.parametrize("name", shipped.NAMES)
def test_a_shipped_example_ends_in_pictures(server: ComfyServer, name: str) -> None:
    prompt = shipped.hurried(name)
    outputs = server.run(prompt)
    for node in (key for key, node in prompt.items() if node["class_type"] == "SaveImage"):
        assert all(min(_size(server, picture)) >= 128 for picture in outputs[node]["images"])


@pytest.mark.parametrize("name", shipped.FOR_LARGE_MODELS)
def test_an_example_for_a_large_model_runs_on_the_pocket_model(server: ComfyServer, name: str) -> None:
    prompt = shipped.on_the_pocket_model(name)
    if lacking := {node["class_type"] for node in prompt.values()} - set(server.get("object_info")):
        pytest.skip(f"this ComfyUI does not have the model: no {', '.join(sorted(lacking))}")
    outputs = server.run(prompt)
    learned = next(key for key, node in prompt.items() if node["class_type"] == "MetaLoRA_AdaptIdentity")
    assert "No prior was used" in outputs[learned]["text"][0]
    drawn = next(key for key, node in prompt.items() if node["class_type"] == "SaveImage")
    assert all(min(_size(server, picture)) >= 128 for picture in outputs[drawn]["images"])


def test_cancelled_over_http_and_queued_again(server: ComfyServer) -> None:
    """Cancel in the middle of a run; queued again it goes on and ends with a picture."""
    graph = graphs.adapt_and_generate()
    # The first checkpoint is written after 50 steps; no pictures on the way.
    graph["identity"]["inputs"] |= {"steps": 120, "seed": 77, "preview_every": 1000}
    prompt_id = server.queue(graph)
    adapted = server.base / "models" / "metalora_identities" / "adapted"
    _wait_for(lambda: list(adapted.glob(".*unfinished*")))
    server.post("interrupt", {})
    history = server.wait(prompt_id)
    assert any(kind == "execution_interrupted" for kind, _ in history["status"]["messages"]), history["status"]
    assert list(adapted.glob(".*unfinished*"))
    outputs = server.run(graph)
    assert "120 steps" in outputs["identity"]["text"][0]
    assert not list(adapted.glob(".*unfinished*"))


def _wait_for(condition: Any, timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.02)


def test_refusals_reach_the_page(server: ComfyServer) -> None:
    """A missing file is refused before the run, a wrong word while it runs; both with their text."""
    status, answer = server.post("prompt", {"prompt": graphs.load_saved() | {"identity": _missing()}})
    assert status == 400 and "was not found in models/metalora_identities" in json.dumps(answer)
    graph = graphs.adapt_and_generate()
    graph["references"]["inputs"]["trigger"] = ""
    message = failure(server.wait(server.queue(graph)))
    assert message.startswith("MetaLoRA_PrepareReferences") and "the trigger is empty" in message


def test_pictures_are_signed_or_the_run_is_refused_before_its_first_step(server: ComfyServer) -> None:
    graph = graphs.adapt_and_generate()
    graph["signed"] = graphs.node(
        "MetaLoRA_SaveImageWithCredentials", images=["decoded", 0], model=["model", 0], filename_prefix="signed"
    )
    for other in ("saved", "losses"):
        del graph[other]
    status, answer = server.post("prompt", {"prompt": graph, "client_id": "test"})
    if status == 200:  # this ComfyUI has the library
        outputs = server.wait(answer["prompt_id"])["outputs"]["signed"]
        picture = server.base / "output" / outputs["images"][0]["filename"]
        assert "self-made" in outputs["text"][0] and b"c2pa" in picture.read_bytes()
    else:
        assert status == 400 and "pip install c2pa-python" in json.dumps(answer)


def _missing() -> dict[str, Any]:
    return graphs.node("MetaLoRA_LoadIdentity", identity_name="nobody.safetensors")
