"""One prediction of each architecture, from plain latents and a conditioning."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import IncompatibleBaseModel, InvalidOptions
from ..model.host import Conditioning

FAMILIES = {"FluxTransformer2DModel": "flux", "SD3Transformer2DModel": "sd3", "UNet2DConditionModel": "unet"}


class Denoiser(Protocol):
    """A call of the model; noisy (B, C, h, w), t (B,) in the objective's unit, result like noisy."""

    def __call__(self, model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor: ...


def family_of(model: nn.Module) -> str:
    """Architecture of a denoiser: "flux", "sd3" or "unet".

    Raises:
        IncompatibleBaseModel: If the model is of another class.
    """
    kind = type(model).__name__
    if kind not in FAMILIES:
        raise IncompatibleBaseModel(f"The model is a {kind}; one of {', '.join(FAMILIES)} is needed.")
    return FAMILIES[kind]


def base_of(model: nn.Module) -> str:
    """Key of the base's latent format: "flux", "sd3", "sdxl" or "sd15"."""
    family = family_of(model)
    if family != "unet":
        return family
    config: Any = getattr(model, "config", None)
    return "sdxl" if config.addition_embed_type == "text_time" else "sd15"


def require(conditioning: Conditioning, *names: str) -> None:
    """Raise `InvalidOptions` unless the conditioning has the entries that the architecture needs."""
    missing = [name for name in names if name not in conditioning]
    if missing:
        raise InvalidOptions(
            f"The conditioning has {sorted(conditioning)}, this model also needs {missing}. "
            "Encode the prompts with this model's own text encoders."
        )


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) to Flux tokens (B, h/2 · w/2, 4C), each a 2×2 patch, channel first.

    Raises:
        InvalidOptions: If a side is odd.
    """
    batch, channels, height, width = latents.shape
    if height % 2 or width % 2:
        raise InvalidOptions(f"Flux needs latents with even sides, {width}×{height} were given.")
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `pack`: (B, height/2 · width/2, 4C) to (B, C, height, width)."""
    batch, _, channels = tokens.shape
    patches = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


@lru_cache(maxsize=16)
def _positions(rows: int, columns: int, device: torch.device) -> Tensor:
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
    """Let a Flux reuse its rotary embeddings between the steps of a training; other families are left alone.

    Args:
        model: The denoiser; its embedding's forward is replaced for the length of the block.
    """
    embedding: Any = getattr(model, "pos_embed", None)
    if type(model).__name__ != "FluxTransformer2DModel" or "forward" in vars(embedding):
        yield
        return
    embedding.forward = _RememberedRotations(embedding.forward)
    try:
        yield
    finally:
        del embedding.forward


def flux(model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
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
        img_ids=_positions(height // 2, width // 2, noisy.device),
        txt_ids=_no_positions(context.shape[1], noisy.device),
        guidance=conditioning["guidance"] if model.config.guidance_embeds else None,
        return_dict=False,
    )[0]
    return unpack(tokens, height, width)


def sd3(model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """SD3 and SD3.5: t in 0..1 is passed on in thousandths."""
    require(conditioning, "context", "pooled")
    return model(
        hidden_states=noisy,
        timestep=t * 1000,
        encoder_hidden_states=conditioning["context"].to(noisy.dtype),
        pooled_projections=conditioning["pooled"].to(noisy.dtype),
        return_dict=False,
    )[0]


def unet(model: Any, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """SD1.5, and SDXL with pooled text and picture sizes; without ``time_ids`` an uncropped picture is meant."""
    require(conditioning, "context")
    added: dict[str, Tensor] | None = None
    if model.config.addition_embed_type == "text_time":
        require(conditioning, "pooled")
        time_ids = conditioning.get("time_ids")
        if time_ids is None:
            height, width = noisy.shape[-2] * 8, noisy.shape[-1] * 8
            time_ids = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device).expand(len(noisy), 6)
        added = {"text_embeds": conditioning["pooled"].to(noisy.dtype), "time_ids": time_ids.to(noisy.dtype)}
    context = conditioning["context"].to(noisy.dtype)
    return model(noisy, t, encoder_hidden_states=context, added_cond_kwargs=added, return_dict=False)[0]


DENOISERS: dict[str, Denoiser] = {"flux": flux, "sd3": sd3, "unet": unet}
