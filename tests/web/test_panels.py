"""The nodes' panels in the real page: they come back after a reload and a change of tabs, and tell of failures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_versions import folder_of
from integration.comfy_server import PACK, ComfyServer
from web.page_tools import FOLDER, chromium, missing, newest_frontend

NEWEST_PAGE = "newest page"
pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]


# In one worker each, so that one visit serves all tests.
PAGES = [pytest.param(page, marks=pytest.mark.xdist_group(f"panels-{page}")) for page in ("newest", NEWEST_PAGE)]


@pytest.fixture(scope="module", params=PAGES)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Everything that one visit saw."""
    if missing():
        pytest.skip(missing())
    page = newest_frontend() if request.param == NEWEST_PAGE else None
    if request.param == NEWEST_PAGE and page is None:
        pytest.skip("comfyui-frontend-package is not installed; requirements-dev.txt pins it")
    options = ["--front-end-root", str(page)] if page else []
    with ComfyServer(folder_of("newest"), tmp_path_factory.mktemp("panels"), *options) as server:
        left = _left_behind(server, hours=2)
        kept = _left_behind(server, hours=0)
        command = ["node", str(FOLDER / "panels.mjs"), f"http://127.0.0.1:{server.port}/", str(chromium()), PACK]
        told = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert told.returncode == 0, f"{told.stderr[-3000:]}\n{server.log[-3000:]}"
        yield {**json.loads(told.stdout), "there": [left.exists(), kept.exists()]}


def _left_behind(server: ComfyServer, hours: float) -> Path:
    """The checkpoint of a run that was left alone for so long."""
    path = server.base / "models" / "metalora_identities" / "adapted" / f".left{hours:g}.unfinished.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(1_500_000))
    touched = time.time() - 3600 * hours
    os.utime(path, (touched, touched))
    return path


@pytest.mark.parametrize("after", ["tab", "reload"])
def test_reports_the_loss_line_and_the_contact_sheet_come_back(seen: dict[str, Any], after: str) -> None:
    first = seen["run"]
    assert len(first["reports"]) >= 4 and first["line"].count(",") > 5 and first["sheets"] == 1
    assert seen[after] == first


def test_a_cancelled_run_says_on_the_node_how_far_it_came_and_what_to_do(seen: dict[str, Any]) -> None:
    assert re.fullmatch(r"Cancelled at Step \d+ of 3000\. Queue again to resume\.", seen["cancelled"])


def test_a_command_of_the_page_deletes_unfinished_runs_but_none_of_the_last_hour(seen: dict[str, Any]) -> None:
    assert (
        "Unfinished runs, unused steps, deleted identities and temporary files: 1 (1.5 MB). Delete them?"
        in seen["question"]
    )
    assert seen["deleted"] == "Deleted: 1 (1.5 MB)."
    assert seen["there"] == [False, True]


def test_a_failure_stands_on_its_node_in_the_packs_own_words(seen: dict[str, Any]) -> None:
    assert seen["failed"].startswith("Failed: Prepare Reference Photos: ")
    assert "trigger" in seen["failed"]


def test_a_failure_goes_when_the_node_runs_again(seen: dict[str, Any]) -> None:
    assert seen["failures"] == ["Failed: no such subject", ""]


def test_the_panels_own_words_are_in_the_pages_language(seen: dict[str, Any]) -> None:
    assert seen["japanese"].startswith("失敗しました: ")


def test_the_page_throws_no_error(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
