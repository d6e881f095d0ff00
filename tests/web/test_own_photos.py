"""Photos of one's own in the real page: a few clicks and one drop lead from an empty ComfyUI to pictures of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from comfy_versions import folder_of
from integration.comfy_server import ComfyServer
from web.page_tools import FOLDER, chromium, missing, newest_frontend

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]
SIZES = ((128, 128), (160, 144), (200, 256), (300, 240))
NAMES = [f"own {number}.png" for number in range(1, 1 + len(SIZES))]
CLICKS_AT_MOST = 6
VISITS = [
    pytest.param(mode, marks=pytest.mark.xdist_group(f"own-photos-{mode}")) for mode in ("classic", "nodes2")
]  # the classic canvas in the page that the newest ComfyUI brings, Nodes 2.0 in the newest page


def own_photos(folder: Path) -> None:
    """Four photos of different sizes of somebody whom the pocket model can draw and has not seen."""
    from metalora_core.photos.pictures import to_pil
    from metalora_core.pocket.world.factors import draw_subject
    from metalora_core.pocket.world.render import render
    from metalora_core.pocket.world.scenes import draw_scenes

    photos = render([draw_subject("avatars", "validation", 5_000_123)] * 4, draw_scenes("avatars", 4, seed=9))
    for name, photo, size in zip(NAMES, photos, SIZES, strict=True):
        to_pil(F.interpolate(photo[None], size=size, mode="bicubic")[0].clamp(0, 1)).save(folder / name)


@pytest.fixture(scope="module", params=VISITS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Everything that one visit saw."""
    if missing():
        pytest.skip(missing())
    page = newest_frontend() if request.param == "nodes2" else None
    options = ["--front-end-root", str(page)] if page else []
    photos = tmp_path_factory.mktemp("photos")
    own_photos(photos)
    with ComfyServer(folder_of("newest"), tmp_path_factory.mktemp("own"), *options) as server:
        url = f"http://127.0.0.1:{server.port}/"
        command = ["node", str(FOLDER / "own_photos.mjs"), url, str(chromium()), request.param, str(photos), "-"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert told.returncode == 0, f"{told.stderr[-3000:]}\n{server.log[-3000:]}"
        yield json.loads(told.stdout)


def test_six_clicks_and_one_drop_lead_from_an_empty_page_to_pictures(seen: dict[str, Any]) -> None:
    assert seen["clicks"] <= CLICKS_AT_MOST
    assert seen["end"] == "execution_success"
    assert seen["pictures"] == [[128, 128]] * 8
    assert seen["errors"] == []


def test_dropped_photos_are_tiles_and_no_further_node(seen: dict[str, Any]) -> None:
    example = json.loads((FOLDER.parents[1] / "example_workflows/01_adapt_and_generate.json").read_text("utf-8"))
    assert seen["nodes"] == len(example["nodes"])
    assert [(tile["name"], tuple(tile["size"][::-1])) for tile in seen["dropped"]] == list(
        zip(NAMES, SIZES, strict=True)
    )


def test_the_workflow_keeps_the_names_and_the_prompt_sends_them(seen: dict[str, Any]) -> None:
    assert seen["value"]["queued"] == seen["value"]["saved"][-1] == "\n".join(NAMES)


def test_after_the_run_every_tile_has_a_badge(seen: dict[str, Any]) -> None:
    assert [tile["badge"].splitlines()[0] for tile in seen["judged"]] == ["Good"] * 4
    assert seen["reports"]["MetaLoRA_PrepareReferences"].startswith("4 photos, 4 good.")


def test_order_removal_and_captions_survive_a_reload(seen: dict[str, Any]) -> None:
    assert seen["arranged"]["queued"] == "own 2.png\ta person outside\nown 1.png\nown 3.png"
    assert seen["reloaded"] == seen["arranged"]
