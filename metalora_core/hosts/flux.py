"""FLUX.1: tokens in and out, its files, its text encoders."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidOptions
from ..model.host import Conditioning
from .architecture import Architecture, count, require
from .diffusers_door import diffusers_class

__all__ = ["ARCHITECTURE", "AXES", "denoise", "pack", "positions", "unpack"]

AXES = (16, 56, 56)  # head width 128, the same in every Flux
_TEXT_TOKENS = 256  # of T5; ComfyUI pads to as many


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) to Flux tokens (B, h/2 · w/2, 4C), each a 2×2 patch, channel first.

    Raises:
        InvalidOptions: If a side is odd.
    """
    batch, channels, height, width = latents.shape
    if height % 2 or width % 2:
        raise InvalidOptions(f"Flux needs latents with even sides; found {width}×{height}.")
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `pack`: (B, height/2 · width/2, 4C) to (B, C, height, width)."""
    batch, _, channels = tokens.shape
    patches = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


@lru_cache(maxsize=16)
def positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """Row and column of every token of a picture (0, row, column), (rows · columns, 3)."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None, :]
    return ids.reshape(-1, 3).to(device)


@lru_cache(maxsize=16)
def _no_positions(count: int, device: torch.device) -> Tensor:
    return torch.zeros(count, 3, device=device)


class _RememberedRotations:
    """Flux's rotary embedding, which depends on nothing but the ids, computed once per size of picture and text."""

    def __init__(self, compute: Any) -> None:
        self._compute = compute
        self._known: dict[tuple[int, int, int], Any] = {}
        self.size: tuple[int, int, int] | None = None

    def __call__(self, ids: Tensor) -> Any:
        if self.size is None:
            return self._compute(ids)
        if self.size not in self._known:
            self._known[self.size] = self._compute(ids)
        return self._known[self.size]


@contextmanager
def remembered_rotations(model: Any) -> Generator[None]:
    """Let a Flux reuse its rotary embeddings between the steps of a training.

    Args:
        model: The denoiser; its embedding's forward is replaced for the length of the block.
    """
    embedding: Any = getattr(model, "pos_embed", None)
    if "forward" in vars(embedding):
        yield
        return
    embedding.forward = _RememberedRotations(embedding.forward)
    try:
        yield
    finally:
        del embedding.forward


def denoise(model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """Flux: tokens in and out, guidance (B,) as an input where the model is distilled for it."""
    require(conditioning, "context", "pooled")
    height, width = noisy.shape[-2:]
    context = conditioning["context"].to(noisy.dtype)
    rotations = vars(model.pos_embed).get("forward")
    if isinstance(rotations, _RememberedRotations):
        rotations.size = (height, width, context.shape[1])
    tokens = model(
        hidden_states=pack(noisy),
        encoder_hidden_states=context,
        pooled_projections=conditioning["pooled"].to(noisy.dtype),
        timestep=t,
        img_ids=positions(height // 2, width // 2, noisy.device),
        txt_ids=_no_positions(context.shape[1], noisy.device),
        guidance=conditioning["guidance"] if model.config.guidance_embeds else None,
        return_dict=False,
    )[0]
    return unpack(tokens, height, width)


def encode(pipeline: Any, prompts: list[str]) -> Conditioning:
    """``context`` (B, T, C) and ``pooled`` (B, C)."""
    device = pipeline.text_encoder.device
    context, pooled, _ = pipeline.encode_prompt(prompts, prompt_2=None, device=device, max_sequence_length=_TEXT_TOKENS)
    return {"context": context, "pooled": pooled}


def _build(state: Mapping[str, Tensor]) -> nn.Module:
    hidden, channels = state["img_in.weight"].shape
    return diffusers_class("FluxTransformer2DModel")(
        patch_size=1,
        in_channels=channels,
        num_layers=count(state, "double_blocks."),
        num_single_layers=count(state, "single_blocks."),
        attention_head_dim=sum(AXES),
        num_attention_heads=hidden // sum(AXES),
        joint_attention_dim=state["txt_in.weight"].shape[1],
        pooled_projection_dim=state["vector_in.in_layer.weight"].shape[1],
        guidance_embeds="guidance_in.in_layer.weight" in state,
        axes_dims_rope=AXES,
    )


def _build_of_diffusers(state: Mapping[str, Tensor]) -> nn.Module:
    hidden, channels = state["x_embedder.weight"].shape
    embedder = "time_text_embed.{}.linear_1.weight"
    return diffusers_class("FluxTransformer2DModel")(
        patch_size=1,
        in_channels=channels,
        num_layers=count(state, "transformer_blocks."),
        num_single_layers=count(state, "single_transformer_blocks."),
        attention_head_dim=sum(AXES),
        num_attention_heads=hidden // sum(AXES),
        joint_attention_dim=state["context_embedder.weight"].shape[1],
        pooled_projection_dim=state[embedder.format("text_embedder")].shape[1],
        guidance_embeds=embedder.format("guidance_embedder") in state,
        axes_dims_rope=AXES,
    )


ARCHITECTURE = Architecture(
    denoise,
    encode,
    builders={
        "double_blocks.0.img_attn.qkv.weight": _build,
        "single_transformer_blocks.0.attn.to_q.weight": _build_of_diffusers,
    },
    steady=remembered_rotations,
)
