"""ComfyUI's IMAGE (B, H, W, C) and the library's pictures (B, 3, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor


def from_image(image: Tensor) -> Tensor:
    """IMAGE to pictures: (B, H, W, C) in 0..1 to (B, 3, H, W); transparency becomes white, grey becomes RGB."""
    with torch.inference_mode(False):
        pixels = image.detach().float().cpu().clone().clamp(0, 1).movedim(-1, 1)
    if pixels.shape[1] == 4:
        return pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels[:, :3]


def to_image(pictures: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) to IMAGE (B, H, W, 3)."""
    return pictures.detach().float().cpu().clamp(0, 1).movedim(1, -1).contiguous()
