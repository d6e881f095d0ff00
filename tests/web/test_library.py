"""The library of identities in the real page: found, added to the graph, renamed, deleted and brought back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from comfy_versions import folder_of
from integration.comfy_server import ComfyServer
from integration.identities import HOSTILE, put_consent, put_identity
from web.page_tools import FOLDER, chromium, missing, newest_frontend

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]
NEWEST_PAGE = "newest page"
PAGES = [pytest.param(page, marks=pytest.mark.xdist_group(f"library-{page}")) for page in ("newest", NEWEST_PAGE)]
MANY = 2000
MOST_MS_A_FRAME = 100
"""On two slow cores without a graphics card, where an empty frame takes 17 ms; a list that lays out every card in each
frame takes seconds."""


@pytest.fixture(scope="module", params=PAGES)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Everything that one visit saw."""
    if missing():
        pytest.skip(missing())
    page = newest_frontend() if request.param == NEWEST_PAGE else None
    if request.param == NEWEST_PAGE and page is None:
        pytest.skip("comfyui-frontend-package is not installed; requirements-dev.txt pins it")
    options = ["--front-end-root", str(page)] if page else []
    base = tmp_path_factory.mktemp("library")
    with ComfyServer(folder_of("newest"), base, *options) as server:
        _put_many(base / "models" / "metalora_identities")
        command = ["node", str(FOLDER / "library.mjs"), f"http://127.0.0.1:{server.port}/", str(chromium()), "ja", "-"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert told.returncode == 0, f"{told.stderr[-3000:]}\n{server.log[-3000:]}"
        yield json.loads(told.stdout)


def _put_many(folder: Path) -> None:
    small = put_identity(folder, "many/0").read_bytes()
    for number in range(1, MANY):
        (folder / "many" / f"{number}.safetensors").write_bytes(small)
    ended = put_consent(folder, HOSTILE, datetime(2021, 1, 1, tzinfo=timezone.utc))
    put_identity(folder, "hostile", consent_id=ended, class_word=HOSTILE)
    put_identity(folder, "drawn", picture=True)


def test_every_identity_has_a_card_with_a_picture_or_a_letter_the_newest_first(seen: dict[str, Any]) -> None:
    assert (seen["cards"], seen["first"]) == (MANY + 2, "drawn")
    assert seen["pictures"] == [64] and seen["letter"] == "<"
    assert seen["byName"] == "drawn"
    assert seen["buttons"] == [f"{does}: drawn" for does in ("Add to graph", "Rename", "Delete")]


def test_two_thousand_cards_scroll_without_lag(seen: dict[str, Any]) -> None:
    assert seen["scroll"]["height"] > 50 * MANY
    assert seen["scroll"]["median"] < MOST_MS_A_FRAME


def test_a_hostile_subject_is_text_and_its_ended_consent_is_named(seen: dict[str, Any]) -> None:
    assert seen["hostile"].count(HOSTILE) == 2 and "Consent expired, until" in seen["hostile"]
    assert not seen["hacked"]


def test_the_search_takes_words_of_name_and_subject(seen: dict[str, Any]) -> None:
    assert seen["searched"] == [["drawn"], f"1 of {MANY + 2} identities"]


def test_a_card_adds_a_node_that_loads_its_file_by_the_keyboard_alone(seen: dict[str, Any]) -> None:
    assert seen["added"] == {
        "class_type": "MetaLoRA_LoadIdentity",
        "inputs": {"identity_name": "drawn.safetensors"},
        "selected": True,
    }


def test_what_is_deleted_can_be_brought_back_also_after_a_run_that_ended_meanwhile(seen: dict[str, Any]) -> None:
    assert seen["deleted"] == ["Deleted drawn. Undo", False]
    assert seen["undone"] == [True, "Add to graph: drawn"]


def test_an_identity_gets_another_name(seen: dict[str, Any]) -> None:
    assert (seen["renamed"], seen["focused"]) == (["painted"], "Add to graph: painted")


def test_the_tab_speaks_the_pages_language(seen: dict[str, Any]) -> None:
    orders, card = seen["japanese"]
    assert "新しい順" in orders and "同意の期限切れ" in card and "削除" in card


def test_axe_finds_no_fault_in_the_tab(seen: dict[str, Any]) -> None:
    assert {"button-name", "color-contrast"} <= set(seen["axe"]["rules"]) and seen["axe"]["faults"] == []


def test_the_page_throws_no_error(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
