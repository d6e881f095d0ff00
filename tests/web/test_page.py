"""The pack in the real page, classic canvas and Nodes 2.0: examples open, help opens, Run ends in a picture."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_versions import VERSIONS, folder_of
from integration.comfy_server import PACK, ComfyServer
from web.page_tools import FOLDER, chromium, missing, newest_frontend

ROOT = FOLDER.parents[1]
EXAMPLES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
LARGE = [name for name in EXAMPLES if name.startswith("02")]
NO_SUCH_MODEL_ON_THE_OLDEST = {"02a_adapt_flux2_klein"}
LOADERS = {"UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader"}
MODES = ("classic", "nodes2")
NEWEST_PAGE = "newest page"  # in the newest ComfyUI, in place of the page that it brings
PAGES = [
    pytest.param(version, marks=pytest.mark.xdist_group(f"page-{version}")) for version in (*VERSIONS, NEWEST_PAGE)
]
pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module", params=PAGES)
def visit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Everything that one visit to the page saw; starting a browser is dear, so all tests read the same visit."""
    if missing():
        pytest.skip(missing())
    options = list[str]()
    if request.param == NEWEST_PAGE:
        page = newest_frontend()
        if page is None:
            pytest.skip("comfyui-frontend-package is not installed; requirements-dev.txt pins it")
        options = ["--front-end-root", str(page)]
    comfyui = folder_of("oldest" if request.param == "oldest" else "newest")
    base = tmp_path_factory.mktemp("page")
    with ComfyServer(comfyui, base, *options) as server:
        url = f"http://127.0.0.1:{server.port}/"
        command = ["node", str(FOLDER / "visit.mjs"), url, str(chromium()), PACK, "-", *EXAMPLES]
        told = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert told.returncode == 0, f"{told.stderr[-3000:]}\n{server.log[-3000:]}"
        yield json.loads(told.stdout)


def seen(visit: dict[str, Any], mode: str) -> dict[str, Any]:
    """What one mode of the page showed."""
    if mode not in visit["modes"]:
        pytest.skip(f"this ComfyUI's page (frontend {visit['frontend']}) has no finished Nodes 2.0")
    return visit["modes"][mode]


def test_the_page_throws_no_error(visit: dict[str, Any]) -> None:
    # A page of 2025 throws an error of its own when a setting is changed from a script.
    ours = visit["errors"] if "nodes2" in visit["modes"] else [text for text in visit["errors"] if PACK in text]
    assert ours == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_opens_without_red_node_or_missing_value(visit: dict[str, Any], mode: str, example: str) -> None:
    opened = seen(visit, mode)["opened"][example]
    if example in LARGE:
        pytest.skip("its files are not here; see the next test")
    assert opened["red"] == []
    assert opened["complaint"] == ""


@pytest.mark.parametrize("example", LARGE)
def test_the_page_lists_the_files_that_a_large_model_lacks(visit: dict[str, Any], example: str) -> None:
    """ComfyUI frames the loaders of missing files, as in its own templates; nothing else may be framed."""
    if "nodes2" not in visit["modes"] and example in NO_SUCH_MODEL_ON_THE_OLDEST:
        pytest.skip("this ComfyUI does not have the model")
    shown = visit["missing"][example]
    assert set(shown["red"]) <= LOADERS
    graph = json.loads((ROOT / "example_workflows" / f"{example}.json").read_text(encoding="utf-8"))
    files = [file for node in graph["nodes"] for file in node["properties"].get("models", [])]
    assert len(files) >= 3
    assert [file["name"] for file in files if file["name"] not in shown["text"].replace("\n", "")] == []
    assert all(file["directory"] in shown["text"] for file in files)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_page_sends_the_prompt_that_other_tests_queue(visit: dict[str, Any], mode: str, example: str) -> None:
    if "nodes2" not in visit["modes"]:
        pytest.skip(f"the page (frontend {visit['frontend']}) writes widgets of core's nodes in another way")
    written = json.loads((ROOT / "tests/example_prompts" / f"{example}.json").read_text(encoding="utf-8"))
    assert seen(visit, mode)["opened"][example]["prompt"] == written


@pytest.mark.parametrize("mode", MODES)
def test_help_opens_with_its_picture(visit: dict[str, Any], mode: str) -> None:
    shown = seen(visit, mode)["help"]
    assert shown["text"].startswith("Adapt Identity")
    assert shown["loaded"] == shown["pictures"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_run_ends_in_a_picture(visit: dict[str, Any], mode: str) -> None:
    shown = seen(visit, mode)
    assert shown["run"]["end"] == "execution_success"
    assert shown["run"]["complaint"] == ""
    assert shown["pictures"] == [[128, 128], [128, 128]]


@pytest.mark.parametrize("mode", MODES)
def test_progress_losses_and_previews_are_seen_while_it_learns(visit: dict[str, Any], mode: str) -> None:
    run = seen(visit, mode)["run"]
    # The page may join progress events that come close together; the losses are counted by our own script.
    assert run["progress"] > 0 and run["losses"] > 0
    assert run["previews"] > 0


@pytest.mark.parametrize("mode", MODES)
def test_reports_stand_on_the_nodes(visit: dict[str, Any], mode: str) -> None:
    reports = seen(visit, mode)["reports"]
    assert "Saved" in reports["MetaLoRA_AdaptIdentity"]
    assert "targets" in reports["MetaLoRA_ApplyIdentity"]


def test_findings_on_the_photos_stand_on_the_node(visit: dict[str, Any]) -> None:
    assert visit["modes"]["classic"]["reports"]["MetaLoRA_PrepareReferences"].startswith("4 photos")


def test_reports_are_not_saved_with_the_workflow(visit: dict[str, Any]) -> None:
    assert all(shown["saved_widgets_changed"] == [] for shown in visit["modes"].values())


def test_japanese_words_reach_the_page(visit: dict[str, Any]) -> None:
    japanese = visit["japanese"]
    assert japanese["title"] == "アイデンティティを学習"
    assert japanese["help"].startswith("アイデンティティを学習")
