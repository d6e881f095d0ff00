"""Exports from the node: what the file format needs beyond the identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...metalora_core.files.export import export_lora
from ...metalora_core.photos.pictures import thumbnail_jpeg
from .image_tensors import from_image
from .learned import LearnedIdentity

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FEW_BITS = (
    "On an 8- or 4-bit base a LoRA loader rounds a small identity away: use Apply Identity or Load LoRA (Bypass) there."
)


def export_identity(
    path: Path,
    learned: LearnedIdentity,
    layout: Any,
    precision: str = "float32",
    strength: float = 1.0,
    author: str = "",
    thumbnail: Tensor | None = None,
) -> str:
    """Write an ordinary LoRA file, titled as it is called, and return its SHA-256.

    Args:
        path: The file.
        learned: What is written.
        layout: Naming scheme of the keys.
        precision: Number format in the file.
        strength: Built into the file.
        author: For the file's metadata.
        thumbnail: IMAGE; its first picture goes small into the file's metadata.

    Raises:
        InvalidOptions: If the layout is not available for this architecture here.
    """
    from ...metalora_core.hosts.target_map import layout_targets

    targets = layout_targets(layout, learned.identity, learned.prior)
    small = b"" if thumbnail is None else thumbnail_jpeg(from_image(thumbnail)[0])
    return export_lora(
        path,
        learned.identity.named(path.stem),
        learned.prior,
        layout,
        targets,
        dtype=PRECISIONS[precision],
        strength=strength,
        author=author.strip(),
        thumbnail=small,
    )
