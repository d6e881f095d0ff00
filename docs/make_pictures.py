"""Makes the pictures of the examples, the help pages and the guide by real runs in the real page.

python docs/make_pictures.py needs a ComfyUI (COMFYUI_PATH or ~/comfy/ComfyUI), Chromium, node, and
``npm ci --prefix tests/web``. It takes some minutes on two CPU cores.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT)]

CARD_PX = (640, 480)
LABEL_PX = 22
EDGE_PX = 10
PAPER, INK = "#f4f1ec", "#333333"
GUIDE_PICTURES = ("help-page", "classic-canvas", "graph-01_adapt_and_generate", "graph-03_two_identities")


@dataclass(frozen=True)
class Row:
    """Pictures side by side under one label."""

    label: str
    pictures: list[Any]


def main() -> None:
    """Run, photograph, compose, and put everything in its place."""
    from comfy_host import find_comfyui
    from integration.comfy_server import PACK, ComfyServer
    from web.page_tools import chromium, missing

    comfyui = find_comfyui()
    if comfyui is None or missing():
        sys.exit(missing() or "No ComfyUI with its own .venv was found; set COMFYUI_PATH.")
    with tempfile.TemporaryDirectory() as folder:
        base, shots = Path(folder) / "ComfyUI", Path(folder) / "shots"
        shots.mkdir()
        server = ComfyServer(comfyui, base)
        name_large_models(base / "models")
        with server:
            script = ["node", str(ROOT / "docs/page_pictures.mjs"), f"http://127.0.0.1:{server.port}/"]
            subprocess.run([*script, str(chromium()), PACK, str(shots)], check=True)
        place_screenshots(shots)
        for example, saved in json.loads((shots / "saved.json").read_text(encoding="utf-8")).items():
            write_card(example, saved, base)


def name_large_models(models: Path) -> None:
    """Empty files in place of the large models, so that the page does not frame their loaders as broken."""
    for example in (ROOT / "example_workflows").glob("02*.json"):
        for node in json.loads(example.read_text(encoding="utf-8"))["nodes"]:
            for file in node["properties"].get("models", []):
                path = models / file["directory"] / file["name"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def place_screenshots(shots: Path) -> None:
    """Nodes to their help pages, the rest to the guide; examples for large models show their graphs."""
    help_images, guide_images = ROOT / "web/docs/images", ROOT / "docs/images"
    for folder in (help_images, guide_images):
        folder.mkdir(parents=True, exist_ok=True)
    for node in shots.glob("MetaLoRA_*.jpg"):
        shutil.copy(node, help_images / node.name)
    for name in GUIDE_PICTURES:
        shutil.copy(shots / f"{name}.jpg", guide_images / f"{name}.jpg")
    for graph in shots.glob("graph-02*.jpg"):
        shutil.copy(graph, ROOT / "example_workflows" / graph.name.removeprefix("graph-"))


def write_card(example: str, saved: list[dict[str, Any]], base: Path) -> None:
    """The picture of an example in the template browser: photos and results, one row per node that shows some."""
    from PIL import Image

    rows = [
        Row(
            node["title"],
            [Image.open(base / file["type"] / file["subfolder"] / file["filename"]) for file in node["files"]],
        )
        for node in saved
    ]
    card(rows).save(ROOT / "example_workflows" / f"{example}.jpg", quality=90)


def card(rows: list[Row]) -> Any:
    """Rows of pictures, as large as the card allows."""
    from PIL import Image, ImageDraw

    sheet: Any = Image.new("RGB", CARD_PX, PAPER)
    draw = ImageDraw.Draw(sheet)
    height = CARD_PX[1] // len(rows)
    for number, row in enumerate(rows):
        top = number * height + EDGE_PX // 2
        room = (CARD_PX[0] - EDGE_PX * (len(row.pictures) + 1), height - LABEL_PX - EDGE_PX)
        sizes = [picture.size for picture in row.pictures]
        scale = min(room[0] / sum(width for width, _ in sizes), room[1] / max(tall for _, tall in sizes))
        left = (CARD_PX[0] - scale * sum(width for width, _ in sizes) - EDGE_PX * (len(sizes) - 1)) / 2
        draw.text((round(left), top), row.label, fill=INK, font_size=15)
        for picture, (width, tall) in zip(row.pictures, sizes, strict=True):
            resized = picture.convert("RGB").resize(
                (round(width * scale), round(tall * scale)), Image.Resampling.LANCZOS
            )
            sheet.paste(resized, (round(left), top + LABEL_PX))
            left += width * scale + EDGE_PX
    return sheet


if __name__ == "__main__":
    main()
