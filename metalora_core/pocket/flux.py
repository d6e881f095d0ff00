"""The pocket base model: Flux's architecture at 1/36 of its width, in diffusers' own class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .autoencoder import LATENT_CHANNELS
from .text import CONTEXT_WIDTH, POOLED_WIDTH


def make_base_model() -> Any:
    """An untrained ``FluxTransformer2DModel``: hidden 128, one head, 2 double and 4 single blocks."""
    from ..hosts.diffusers_door import diffusers_class

    return diffusers_class("FluxTransformer2DModel")(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=CONTEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        axes_dims_rope=(16, 56, 56),
        guidance_embeds=False,
    )


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) → tokens (B, h/2 · w/2, 4C), in Flux's order."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def image_ids(h: int, w: int) -> Tensor:
    """Row and column of every token of an h × w latent, (h/2 · w/2, 3)."""
    rows, columns = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
