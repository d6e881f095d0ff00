"""The pocket autoencoder: TAESD's form, 8× smaller, 16 latent channels.

It is trained slim (16 to 64 channels, a fifth of the work) and stored at width 64, the width that stock loaders expect:
the other channels are zero, so the function is the same to the last bit of rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import optional

SLIM_WIDTHS = (16, 24, 48, 64)  # channels at full, half, quarter and eighth resolution
STORED_WIDTH = 64
LATENT_CHANNELS = 16
# Flux's constants. A stock loader divides by the scale on the way in and the sampler multiplies by it again, so what
# the transformer sees is the encoder's own output.
VAE_SCALE, VAE_SHIFT = 0.3611, 0.1159


def make_autoencoder(widths: tuple[int, ...] = (STORED_WIDTH,) * 4) -> Any:
    """An untrained ``AutoencoderTiny``; narrower than 64 channels where ``widths`` says so.

    Args:
        widths: Channels at full, half, quarter and eighth resolution.
    """
    from ..hosts.diffusers_door import diffusers_class

    model: Any = diffusers_class("AutoencoderTiny")(
        latent_channels=LATENT_CHANNELS, scaling_factor=1.0, shift_factor=0.0
    )
    if widths != (STORED_WIDTH,) * 4:
        _narrow(model.encoder.layers, widths, 3)
        _narrow(model.decoder.layers, widths[::-1], LATENT_CHANNELS)
    return model


def _narrow(layers: nn.Sequential, widths: tuple[int, ...], channels: int) -> None:
    """Replace every convolution and block by one of the width of its resolution."""
    block: Any = optional("diffusers.models.unets.unet_2d_blocks", "The pocket model", "AutoencoderTinyBlock")
    level = 0
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Upsample):
            level += 1
        elif isinstance(layer, nn.Conv2d):
            if layer.stride == (2, 2):
                level += 1
            last = i + 1 == len(layers)
            width = layer.out_channels if last else widths[level]
            layers[i] = nn.Conv2d(channels, width, 3, layer.stride[0], 1, bias=layer.bias is not None)
            channels = width
        elif isinstance(layer, block):
            layers[i] = block(channels, channels, "relu")


def encode(autoencoder: Any, pictures: Tensor) -> Tensor:
    """Pictures in [0, 1], (B, 3, H, W) → latents of unit variance, (B, 16, H/8, W/8)."""
    return autoencoder.encoder(pictures * 2 - 1)


def decode(autoencoder: Any, latents: Tensor) -> Tensor:
    """Latents (B, 16, h, w) → pictures in [0, 1], (B, 3, 8h, 8w), not clamped."""
    return autoencoder.decoder(latents) * 0.5 + 0.5


def widen(slim: nn.Module) -> dict[str, Tensor]:
    """State of a full-width autoencoder that computes what the slim one computes.

    Every weight is padded with zeros; a hidden channel that is zero stays zero through convolution, ReLU and sum.
    """
    wide = make_autoencoder().state_dict()
    for name, value in slim.state_dict().items():
        padded = torch.zeros_like(wide[name])
        padded[tuple(slice(0, size) for size in value.shape)] = value
        wide[name] = padded
    return wide


def narrow(wide: dict[str, Tensor]) -> Any:
    """The slim autoencoder that a widened state came from: a fifth of the work on a CPU.

    Raises:
        ValueError: If channels beyond the slim widths are in use.
    """
    slim = make_autoencoder(SLIM_WIDTHS)
    state = {
        name: wide[name][tuple(slice(0, size) for size in value.shape)] for name, value in slim.state_dict().items()
    }
    slim.load_state_dict(state)
    if any(not torch.equal(value, wide[name]) for name, value in widen(slim).items()):
        raise ValueError("This autoencoder uses channels beyond the slim widths; load it at its full width.")
    return slim


def to_taesd_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of diffusers' ``AutoencoderTiny`` → names of a TAESD file; its decoder begins with a clamp."""
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        side, _, index, rest = name.split(".", 3)
        number = int(index) + (1 if side == "decoder" else 0)
        named[f"taesd_{side}.{number}.{rest}"] = value
    named["vae_scale"] = torch.tensor(VAE_SCALE)
    named["vae_shift"] = torch.tensor(VAE_SHIFT)
    return named
