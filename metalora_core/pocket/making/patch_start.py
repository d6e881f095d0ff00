"""The pocket encoder: the 16 principal components of 8 × 8 patches, written into TAESD's convolutions.

The small world's patches are so close to 16 components that this side needs no training. The TAESD form can hold that
map exactly: three stride-2 convolutions gather a patch's 192 numbers, the third one projects them, and pairs of
channels carry a component's positive and negative part through the ReLUs. Only the decoder is trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..autoencoder import LATENT_CHANNELS

_PAIRS = 32  # components that 64 channels carry as positive and negative parts
_FLATTEN = 0.3  # exponent of a component's variance ratio: 0 would make all latent channels equally loud


def patch_components(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, components and variances of the 8 × 8 patches of pictures (B, 3, H, W).

    Returns:
        Mean (192,), the 32 main components (32, 192) and their variances (32,), in the channel order that three
        space-to-depth steps give.
    """
    values = pictures
    for _ in range(3):
        b, c, h, w = values.shape
        values = values.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
    rows = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1]).double()
    mean = rows.mean(0)
    variances, vectors = torch.linalg.eigh(torch.cov(rows.T))
    order = variances.argsort(descending=True)[:_PAIRS]
    return mean.float(), vectors[:, order].T.float().contiguous(), variances[order].float()


def _gather_pixels(conv: nn.Conv2d, channels: int) -> None:
    """Make a stride-2 convolution collect the four pixels of each 2 × 2 cell in its first 4 · channels outputs."""
    conv.weight[: 4 * channels] = 0
    for i in range(2):
        for j in range(2):
            for c in range(channels):
                conv.weight[(2 * i + j) * channels + c, c, 1 + i, 1 + j] = 1


@torch.no_grad()
def start_from_patches(model: Any, pictures: Tensor) -> None:
    """Set a slim autoencoder's encoder to the patch components of ``pictures``, its decoder to a calm random start."""
    mean, components, variances = patch_components(pictures)
    _set_encoder(model.encoder, mean, components, variances)
    for layer in model.decoder.layers:
        branch = getattr(layer, "conv", None)
        if branch is not None:
            for i in (0, 2):
                nn.init.kaiming_normal_(branch[i].weight, nonlinearity="relu")
            branch[4].weight.mul_(0.05)
            branch[4].bias.zero_()
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                layer.bias.zero_()
    enter = model.decoder.layers[0]
    enter.weight.mul_(0.1)
    for k in range(LATENT_CHANNELS):
        enter.weight[k, k, 1, 1] = 1
        enter.weight[_PAIRS + k, k, 1, 1] = -1
    model.decoder.layers[-1].weight.mul_(0.2)


def _set_encoder(encoder: Any, mean: Tensor, components: Tensor, variances: Tensor) -> None:
    for parameter in encoder.parameters():
        parameter.zero_()
    first, half, quarter, eighth, last = [layer for layer in encoder.layers if isinstance(layer, nn.Conv2d)]
    for c in range(3):
        first.weight[c, c, 1, 1] = 1
    _gather_pixels(half, 3)
    _gather_pixels(quarter, 12)
    projection = components.view(_PAIRS, 2, 2, 48).permute(0, 3, 1, 2)
    eighth.weight[:_PAIRS, :48, 1:, 1:] = projection
    eighth.weight[_PAIRS:, :48, 1:, 1:] = -projection
    loudness = (variances[:LATENT_CHANNELS] / variances[:LATENT_CHANNELS].mean()) ** _FLATTEN
    scale = loudness / loudness.square().mean().sqrt() / variances[:LATENT_CHANNELS].sqrt()
    for k in range(LATENT_CHANNELS):
        last.weight[k, k, 1, 1] = scale[k]
        last.weight[k, _PAIRS + k, 1, 1] = -scale[k]
    if last.bias is not None:
        last.bias.copy_(-scale * (components[:LATENT_CHANNELS] @ mean))
    # The shipped file is in half precision; latents that are computed before it is written have to be the same.
    for parameter in encoder.parameters():
        parameter.copy_(parameter.half().float())
