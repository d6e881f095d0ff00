"""The step is chosen by its sample picture in the real page: nothing is trained again, and the output follows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_versions import folder_of
from integration.comfy_server import PACK, ComfyServer
from web.page_tools import FOLDER, chromium, missing, newest_frontend

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]
STEPS = ["5", "10", "15", "20"]
VISITS = [
    pytest.param(mode, marks=pytest.mark.xdist_group(f"samples-{mode}")) for mode in ("classic", "nodes2")
]  # the classic canvas in the page that the newest ComfyUI brings, Nodes 2.0 in the newest page


@pytest.fixture(scope="module", params=VISITS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Everything that one visit saw."""
    if missing():
        pytest.skip(missing())
    page = newest_frontend() if request.param == "nodes2" else None
    options = ["--front-end-root", str(page)] if page else []
    with ComfyServer(folder_of("newest"), tmp_path_factory.mktemp("samples"), *options) as server:
        url = f"http://127.0.0.1:{server.port}/"
        command = ["node", str(FOLDER / "samples.mjs"), url, str(chromium()), PACK, request.param, "-"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert told.returncode == 0, f"{told.stderr[-3000:]}\n{server.log[-3000:]}"
        yield json.loads(told.stdout)


def marked(chosen: str) -> dict[str, Any]:
    """The buttons' texts and states with this one chosen."""
    return {
        "steps": [f"✓ {step}" if step == chosen else step for step in STEPS],
        "pressed": [str(step == chosen).lower() for step in STEPS],
    }


def test_each_sampled_step_arrives_while_it_trains_and_stays_as_a_named_button(seen: dict[str, Any]) -> None:
    first = seen["first"]
    assert first["end"] == "execution_success" and first["trained"] > 0
    assert [str(step) for step in first["arrived"]] == STEPS
    assert first["strip"] == marked("20") | {
        "labels": [f"Step {step} of 20: use it" for step in STEPS],
        "sizes": [128] * 4,
        "group": "Sample pictures by step",
        "told": "Step 20 of 20 is used.",
    }


def test_a_choice_by_keyboard_is_kept_in_the_workflow_and_keeps_the_focus(seen: dict[str, Any]) -> None:
    chosen = seen["chosen"]
    assert chosen["value"] == {"saved": 10, "queued": 10}
    assert marked("10").items() <= chosen["strip"].items()
    assert chosen["strip"]["told"] == "The next run uses step 10 of 20. Nothing is trained again."
    assert chosen["focused"] == "✓ 10"


def test_the_next_run_trains_nothing_and_its_picture_is_another(seen: dict[str, Any]) -> None:
    first, second = seen["first"], seen["second"]
    assert second["end"] == "execution_success"
    assert second["trained"] == 0 and second["arrived"] == []
    assert "Learned before" in second["report"] and "Step 10 of 20 is used, " in second["report"]
    assert second["strip"]["told"] == "Step 10 of 20 is used." and marked("10").items() <= second["strip"].items()
    assert second["picture"] != first["picture"]


def test_the_choice_survives_a_reload(seen: dict[str, Any]) -> None:
    assert seen["reloaded"] == {"strip": seen["second"]["strip"], "value": {"saved": 10, "queued": 10}}


def test_the_last_picture_leads_back_to_the_last_step(seen: dict[str, Any]) -> None:
    assert seen["last"]["value"] == {"saved": 0, "queued": 0}
    assert marked("20").items() <= seen["last"]["strip"].items()


def test_axe_finds_no_fault_in_the_panel(seen: dict[str, Any]) -> None:
    assert "button-name" in seen["axe"]["rules"] and seen["axe"]["faults"] == []


def test_the_page_throws_no_error(seen: dict[str, Any]) -> None:
    assert seen["errors"] == []
