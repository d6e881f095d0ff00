"""The few picture operations that every measurement shares."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

LUMA_WEIGHTS = (0.2126, 0.7152, 0.0722)
"""Shares of red, green and blue in brightness, ITU-R BT.709; applied to the coded values, as the eye sees a screen."""


def luma(pixels: Tensor) -> Tensor:
    """Brightness of a picture: shape (..., 3, H, W) in 0..1 to (..., H, W) in 0..1."""
    weights = torch.tensor(LUMA_WEIGHTS, dtype=pixels.dtype, device=pixels.device)
    return (pixels * weights[:, None, None]).sum(dim=-3)


def opponent_colours(pixels: Tensor) -> Tensor:
    """Brightness, red against green, yellow against blue: shape (..., 3, H, W) to the same shape."""
    red, green, blue = pixels.unbind(dim=-3)
    return torch.stack([luma(pixels), red - green, (red + green) / 2 - blue], dim=-3)


def shrink(pixels: Tensor, short_side_px: int) -> Tensor:
    """Reduce a picture, keeping its proportions; a picture that is already small is returned as it is.

    Args:
        pixels: Shape (C, H, W).
        short_side_px: Shorter side of the result.

    Returns:
        Shape (C, h, w), filtered against aliasing.
    """
    height, width = pixels.shape[-2:]
    ratio = short_side_px / min(height, width)
    if ratio >= 1:
        return pixels
    size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    return interpolate(pixels[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def blur(plane: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur of one plane, shape (H, W), with repeated borders."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(plane.numpy(), sigma_px, mode="nearest", radius=math.ceil(3 * sigma_px)))


def gradient(plane: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of planes of shape (..., H, W): the slopes down and to the right, per pixel."""
    framed = pad(plane.reshape(-1, 1, *plane.shape[-2:]), (1, 1, 1, 1), mode="replicate").squeeze(1)
    down = (framed[:, 2:, 1:-1] - framed[:, :-2, 1:-1]) / 2
    right = (framed[:, 1:-1, 2:] - framed[:, 1:-1, :-2]) / 2
    return down.reshape(plane.shape), right.reshape(plane.shape)


def connected_to_border(mask: Tensor) -> Tensor:
    """Keep the parts of a mask that reach the frame of the picture.

    Args:
        mask: Boolean, shape (H, W).

    Returns:
        Boolean, shape (H, W).
    """
    from scipy.ndimage import binary_propagation

    frame = torch.ones_like(mask)
    frame[1:-1, 1:-1] = False
    reached = binary_propagation((mask & frame).numpy(), structure=np.ones((3, 3)), mask=mask.numpy())
    return torch.from_numpy(reached)
