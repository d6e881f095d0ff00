"""Untrained models in the real architectures, small enough for a test; every weight is set, none left to chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def settled(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return model.eval()


def tiny_flux(seed: int = 0, *, guidance: bool = False) -> Any:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        guidance_embeds=guidance,
        axes_dims_rope=(16, 56, 56),
    )
    return settled(model, seed)


def tiny_sd3(seed: int = 0) -> Any:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=2,  # as many as layers, the rule by which ComfyUI reads an SD3 file
        joint_attention_dim=16,
        caption_projection_dim=128,
        pooled_projection_dim=24,
        out_channels=16,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return settled(model, seed)


def tiny_unet(seed: int = 0, *, sdxl: bool = False, context: int = 12, layers: int = 2) -> Any:
    from diffusers import UNet2DConditionModel

    extra: dict[str, Any] = {}
    if sdxl:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24 + 6 * 8,
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
        }
    model = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
        if sdxl
        else ("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D") if sdxl else ("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=4,
        norm_num_groups=4,
        **extra,
    )
    return settled(model, seed)


def tiny_autoencoder(channels: int = 16, seed: int = 0, width: int = 8) -> nn.Module:
    from diffusers import AutoencoderTiny

    widths = (width,) * 4
    model = AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, latent_channels=channels
    )
    return settled(model, seed)


MODELS = {
    "flux": tiny_flux,
    "sd3": tiny_sd3,
    "sd15": tiny_unet,
    "sdxl": lambda seed=0: tiny_unet(seed, sdxl=True),
}


def conditioning_for(name: str, batch: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width, pooled = {"flux": (16, 8), "sd3": (16, 24), "sd15": (12, 0), "sdxl": (12, 24)}[name]
    result = {"context": torch.randn(batch, 5, width, generator=generator)}
    if pooled:
        result["pooled"] = torch.randn(batch, pooled, generator=generator)
    return result
