"""Pictures between tensors, Pillow and files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..files.atomic import atomic_write


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
