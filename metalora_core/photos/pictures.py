"""Pictures between tensors, Pillow and files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..files.atomic import atomic_write
from ..model.generation import Request


def to_pictures(images: Tensor) -> tuple[Image.Image, ...]:
    """Turn a batch (B, 3, H, W) in [0, 1] into Pillow pictures."""
    rows = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return tuple(Image.fromarray(row) for row in rows)


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


def save_pictures(pictures: Tensor, folder: Path, request: Request) -> list[Path]:
    """Write pictures as PNG files named after their seed and number, with prompt and seed in their text fields.

    Raises:
        UnwritableFile: If the folder cannot be written.
    """
    paths: list[Path] = []
    for index, (picture, prompt) in enumerate(zip(to_pictures(pictures), request.prompts, strict=True)):
        path = _free_name(folder, f"{request.seed}_{index:02d}")
        save_picture(picture, path, {"prompt": prompt, "seed": str(request.seed)})
        paths.append(path)
    return paths


def _free_name(folder: Path, stem: str) -> Path:
    # Pictures of an earlier run are never overwritten.
    candidate, number = folder / f"{stem}.png", 1
    while candidate.exists():
        candidate, number = folder / f"{stem}_{number}.png", number + 1
    return candidate
