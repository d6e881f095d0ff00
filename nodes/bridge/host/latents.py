"""Pictures, and the latents of pictures: four axes for the training loops, whatever the model and its VAE use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....metalora_core.errors import IncompatibleBaseModel


class LatentFormat:
    """Between pictures or four-axis latents and what a model takes.

    Video models have a time axis, on which a picture is one frame; it is folded away here.

    Args:
        base: ComfyUI's BaseModel.
    """

    def __init__(self, base: Any) -> None:
        self._base, self._form = base, base.latent_format
        self.channels: int = self._form.latent_channels
        self.downscale = int(getattr(self._form, "spacial_downscale_ratio", 8))
        self.timed = getattr(self._form, "latent_dimensions", 2) == 3

    def unfolded(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as the model takes them."""
        return latents.unsqueeze(2) if self.timed else latents

    def folded(self, latents: Tensor) -> Tensor:
        """What the model gives, as (B, C, h, w)."""
        return latents.squeeze(2) if latents.dim() == 5 else latents

    def encode(self, vae: Any, images: Tensor) -> Tensor:
        """Latents of pictures (B, 3, H, W) as the model sees them, (B, C, h, w)."""
        raw = self.raw(vae, images)
        return self.folded(self._base.process_latent_in(raw if raw.dim() == 5 else self.unfolded(raw)))

    def raw(self, vae: Any, images: Tensor) -> Tensor:
        """Latents of pictures (B, 3, H, W) as the VAE gives them and conditioning carries them.

        Raises:
            IncompatibleBaseModel: If they do not fit the model.
        """
        pixels = images.detach().float().cpu().movedim(1, -1)
        # A video VAE takes a batch for the frames of one clip.
        raw = torch.cat([vae.encode(pixels[row : row + 1]) for row in range(len(pixels))])
        if raw.shape[1] != self.channels or (raw.dim() == 5 and raw.shape[2] != 1) or raw.dim() not in (4, 5):
            raise IncompatibleBaseModel(
                f"The connected VAE gives latents of shape {tuple(raw.shape[1:])} for a picture, the connected model "
                f"takes {self.channels} channels. Connect the VAE that belongs to the model."
            )
        return raw.float()

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of latents as the model sees them."""
        raw = self._base.process_latent_out(self.unfolded(latents.detach().float().cpu()))
        images = vae.decode(raw)
        return (images[:, 0] if images.dim() == 5 else images).movedim(-1, 1)

    def colours(self, latents: Tensor) -> Tensor:
        """What latents show without the decoder, whose loading could push a model in training off the card."""
        shown = latents.detach().float().cpu()
        factors = getattr(self._form, "latent_rgb_factors", None)
        reshape = getattr(self._form, "latent_rgb_factors_reshape", None)
        if reshape is not None:
            shown = self.folded(reshape(self.unfolded(shown)))
        if factors is None or len(factors) != shown.shape[1]:
            return shown[:, :3].sigmoid()
        rgb = torch.einsum("bchw,cr->brhw", shown, torch.tensor(factors, dtype=torch.float32))
        bias = getattr(self._form, "latent_rgb_factors_bias", None) or [0.0, 0.0, 0.0]
        return ((rgb + torch.tensor(bias).view(1, 3, 1, 1) + 1) / 2).clamp(0, 1)
