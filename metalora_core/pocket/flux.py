"""The pocket base model: Flux's architecture at 1/36 of its width, in diffusers' own class."""

from __future__ import annotations

from typing import Any

from .autoencoder import LATENT_CHANNELS
from .text import CONTEXT_WIDTH, POOLED_WIDTH


def make_base_model() -> Any:
    """An untrained ``FluxTransformer2DModel``: hidden 128, one head, 2 double and 4 single blocks."""
    from ..hosts.diffusers_door import diffusers_class
    from ..hosts.flux import AXES

    return diffusers_class("FluxTransformer2DModel")(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=CONTEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        axes_dims_rope=AXES,
        guidance_embeds=False,
    )
