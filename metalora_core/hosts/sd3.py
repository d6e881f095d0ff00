"""SD3 and SD3.5: how the model is called, its files, its text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..model.host import Conditioning
from .architecture import Architecture, count, require
from .diffusers_door import diffusers_class

__all__ = ["ARCHITECTURE"]

_TEXT_TOKENS = 256  # of T5


def denoise(model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """SD3 and SD3.5: t in 0..1 is passed on in thousandths."""
    require(conditioning, "context", "pooled")
    return model(
        hidden_states=noisy,
        timestep=t * 1000,
        encoder_hidden_states=conditioning["context"].to(noisy.dtype),
        pooled_projections=conditioning["pooled"].to(noisy.dtype),
        return_dict=False,
    )[0]


def encode(pipeline: Any, prompts: list[str]) -> Conditioning:
    """``context`` (B, T, C) and ``pooled`` (B, C)."""
    context, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, device=pipeline.text_encoder.device, do_classifier_free_guidance=False,
        max_sequence_length=_TEXT_TOKENS,
    )  # fmt: skip
    return {"context": context, "pooled": pooled}


def _build(state: Mapping[str, Tensor]) -> nn.Module:
    hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
    side = int(state["pos_embed"].shape[1] ** 0.5)
    depth = count(state, "joint_blocks.")
    return diffusers_class("SD3Transformer2DModel")(
        sample_size=128,
        patch_size=patch,
        in_channels=channels,
        out_channels=state["final_layer.linear.weight"].shape[0] // patch**2,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=hidden // 64,
        joint_attention_dim=state["context_embedder.weight"].shape[1],
        caption_projection_dim=state["context_embedder.weight"].shape[0],
        pooled_projection_dim=state["y_embedder.mlp.0.weight"].shape[1],
        pos_embed_max_size=side,
        dual_attention_layers=tuple(i for i in range(depth) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in state),
        qk_norm="rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in state else None,
    )


ARCHITECTURE = Architecture(denoise, encode, builders={"joint_blocks.0.x_block.attn.qkv.weight": _build})
