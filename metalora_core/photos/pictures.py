"""Pictures between tensors, Pillow and files, and plain sheets of them."""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..files.atomic import atomic_write

if TYPE_CHECKING:
    from ..model.generation import Request

PAPER, INK = "#ffffff", "#22252a"
GAP_PX = 8
LEAST_TEXT_PX = 13
THUMBNAIL_PX = 256


def to_uint8(pictures: Tensor) -> Tensor:
    """Turn pictures of any shape with values in [0, 1] into bytes, on the CPU; values outside are clamped."""
    return (pictures.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def pixels_sha256(picture: Tensor) -> str:
    """SHA-256 of a picture's size and 8-bit pixels: the same photo has the same hash through any loader.

    Args:
        picture: Shape (3, H, W) in [0, 1].
    """
    pixels = to_uint8(picture)
    digest = hashlib.sha256(f"{pixels.shape[-1]}x{pixels.shape[-2]} ".encode())
    digest.update(pixels.movedim(0, -1).contiguous().numpy().tobytes())
    return digest.hexdigest()


def from_uint8(pictures: Tensor | NDArray[np.uint8]) -> Tensor:
    """Turn bytes of any shape into float32 in [0, 1]."""
    # Copied: an array that is mapped from a file cannot be written to, which torch warns of.
    tensor = pictures if isinstance(pictures, Tensor) else torch.tensor(pictures)
    return tensor.float().div_(255)


def to_pil(picture: Tensor) -> Image.Image:
    """Turn a picture (3, H, W) in [0, 1] into an RGB one of Pillow's."""
    return Image.fromarray(to_uint8(picture).movedim(0, -1).contiguous().numpy())


def thumbnail_jpeg(picture: Tensor) -> bytes:
    """A picture (3, H, W) in [0, 1] as a JPEG of at most 256 px, for a file's metadata."""
    small, data = to_pil(picture), io.BytesIO()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(data, "JPEG", quality=85)
    return data.getvalue()


def from_pil(picture: Image.Image) -> Tensor:
    """Turn a picture of Pillow's into (3, H, W), float32 in [0, 1]; transparency and profiles are ignored."""
    return from_uint8(np.asarray(picture.convert("RGB"))).movedim(-1, 0)


def grid(rows: Sequence[Sequence[Image.Image | str]]) -> Image.Image:
    """Set pictures and texts out as a table.

    Every column is as wide as the widest picture; a text is wrapped to that width, and to the whole width where it is
    alone in its row. Pictures are not scaled.

    Args:
        rows: From top to bottom, each from left to right; an empty text leaves its place free.

    Returns:
        An RGB picture.
    """
    column = max((cell.width for row in rows for cell in row if not isinstance(cell, str)), default=128)
    width = max((len(row) for row in rows), default=1) * (column + GAP_PX) + GAP_PX
    drawn = [[_drawn(cell, column, width - 2 * GAP_PX if len(row) == 1 else column) for cell in row] for row in rows]
    heights = [max(cell.height for cell in row) + GAP_PX for row in drawn]
    sheet = Image.new("RGB", (width, sum(heights) + GAP_PX), PAPER)
    top = GAP_PX
    for row, height in zip(drawn, heights, strict=True):
        for number, cell in enumerate(row):
            sheet.paste(cell, (GAP_PX + number * (column + GAP_PX), top))
        top += height
    return sheet


def _drawn(cell: Image.Image | str, column_px: int, width_px: int) -> Image.Image:
    """A cell as a picture; one that was a text has edges of its own, so that no line runs into the next cell."""
    if not isinstance(cell, str):
        return cell
    size_px = max(LEAST_TEXT_PX, column_px // 32)
    font, line_px = ImageFont.load_default(size_px), round(1.35 * size_px)
    # The average letter of a text is a little narrower than an n.
    letters = max(8, int(width_px / font.getlength("n")))
    lines = [part for line in cell.splitlines() for part in textwrap.wrap(line, letters)]
    text = Image.new("RGB", (width_px, max(1, len(lines) * line_px)), PAPER)
    for number, line in enumerate(lines):
        ImageDraw.Draw(text).text((0, line_px * number), line, INK, font)
    return text


def save_picture(picture: Image.Image, path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a PNG file, whole or not at all.

    Args:
        picture: What to write.
        path: Where; missing folders are made.
        notes: Text fields of the file, such as the prompt.

    Raises:
        UnwritableFile: If the folder is unwritable or full.
    """
    info = PngInfo()
    for key, text in (notes or {}).items():
        info.add_itxt(key, text)
    data = io.BytesIO()
    picture.save(data, format="PNG", pnginfo=info)
    atomic_write(path, [data.getvalue()])


def save_pictures(
    pictures: Tensor, folder: Path, request: Request, first: int = 0, notes: Mapping[str, str] | None = None
) -> list[Path]:
    """Write pictures as PNG files named after their seed and number, with prompt and seed in their text fields.

    Args:
        pictures: Of the request's prompts from the first one on, (B, 3, H, W).
        folder: Where.
        request: What was asked for.
        first: Number of the first picture.
        notes: More text fields.

    Raises:
        UnwritableFile: If the folder cannot be written.
    """
    paths: list[Path] = []
    prompts = request.prompts[first : first + len(pictures)]
    for index, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True), start=first):
        path = _free_name(folder, f"{request.seed}_{index:02d}")
        save_picture(to_pil(picture), path, {"prompt": prompt, "seed": str(request.seed), **(notes or {})})
        paths.append(path)
    return paths


def _free_name(folder: Path, stem: str) -> Path:
    # Pictures of an earlier run are never overwritten.
    candidate, number = folder / f"{stem}.png", 1
    while candidate.exists():
        candidate, number = folder / f"{stem}_{number}.png", number + 1
    return candidate
