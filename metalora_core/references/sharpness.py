"""How sharp a photo is, as the width of its edges in pixels at the size the model is trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .pixels import blur, gradient

DENOISE_PX = 0.6
"""A slight first blur, so that single noisy pixels do not count as edges; it is subtracted from the result."""

REBLUR_PX = 1.0
"""The second blur; near the widths that separate a sharp from a soft photo."""

COARSE_PX = 3.0
"""Blur of the picture that fine detail is compared with, to find a direction without it."""

MINIMUM_EDGE_PIXELS = 48
"""With fewer pixels than this on clear edges there is no verdict: a flat picture says nothing about focus."""

DIRECTIONS = 8
"""Directions in which camera shake is measured, every 22.5 degrees."""


@dataclass(frozen=True)
class Sharpness:
    """Blur of one photo.

    Attributes:
        width_px: Standard deviation of the profile of the sharpest edges, in pixels of the analysed picture.
        detail: Fine over coarse contrast in the direction with the least fine detail. 1 means none, sharp photos
            have 1.9 or more.
        evenness: That value over the one of the direction with the most detail, in 0..1. Defocus leaves it near 1,
            camera shake lowers it.
        across_px: Like ``width_px``, of the edges across the direction with the least detail alone: a subject of
            stripes has little detail along them, but its edges are sharp. 0 where there is no edge.
    """

    width_px: float
    detail: float
    evenness: float
    across_px: float


def measure_sharpness(brightness: Tensor) -> Sharpness | None:
    """Measure the blur of the sharpest edges around the middle of a picture.

    A step edge seen through a Gaussian of width s has the slope ``1 / s``. Blurring it again by ``b`` gives
    ``1 / sqrt(s^2 + b^2)``, so the ratio R of both slopes yields ``s = b / sqrt(R^2 - 1)``, whatever the contrast of
    the edge. Only the sharper quarter of the clear edges counts, because a soft background is good photography, and
    the outer tenth of the picture is left out. Strong noise can hide a blur.

    Args:
        brightness: In 0..1, shape (H, W), already reduced to the size the model is trained on.

    Returns:
        The measures, or None when the picture has too few edges to judge.

    Source: edge-ratio defocus estimation, Zhuo and Sim, "Defocus map estimation from a single image", 2011.
    """
    picture = blur(brightness.float(), DENOISE_PX)
    down, right = gradient(picture)
    soft_down, soft_right = gradient(blur(picture, REBLUR_PX))
    steep = torch.hypot(down, right)
    slope, ridge = _middle(steep), _middle(_ridge(steep, down, right))
    ratio = slope / _middle(torch.hypot(soft_down, soft_right)).clamp_min(1e-6)
    edges = ridge & (slope > _clear(slope.flatten(), 0.9))
    if int(edges.sum()) < MINIMUM_EDGE_PIXELS:
        return None
    angle, detail, evenness = _least_detail(picture, down, right)
    turn = (_middle(torch.atan2(down, right)) - angle + math.pi / 2) % math.pi - math.pi / 2
    across = ridge & (turn.abs() < math.pi / DIRECTIONS)
    across &= slope >= _clear(slope[across], 0.7)
    return Sharpness(_width(ratio[edges]), detail, evenness, _width(ratio[across]))


def _clear(slopes: Tensor, quantile: float) -> float:
    """The slope that counts as a clear edge among these."""
    if not slopes.numel():
        return 0.02
    return max(0.02, float(slopes.kthvalue(max(1, int(quantile * slopes.numel()))).values))


def _width(ratios: Tensor) -> float:
    """Width of the sharper quarter of edges by their ratios; 0 for none."""
    if not ratios.numel():
        return 0.0
    sharp_ratio = float(ratios.sort().values[int(0.75 * (ratios.numel() - 1))])
    both_blurs = REBLUR_PX / math.sqrt(max(sharp_ratio**2 - 1, 1e-3))
    return math.sqrt(max(both_blurs**2 - DENOISE_PX**2, 0.0))


def _least_detail(picture: Tensor, down: Tensor, right: Tensor) -> tuple[float, float, float]:
    """The direction with the least fine detail, radians, its detail, and the share of that in the best direction."""
    coarse_down, coarse_right = gradient(blur(picture, COARSE_PX))
    ratios: list[float] = []
    for index in range(DIRECTIONS):
        angle = index * math.pi / DIRECTIONS
        fine = _middle(right * math.cos(angle) + down * math.sin(angle))
        coarse = _middle(coarse_right * math.cos(angle) + coarse_down * math.sin(angle))
        ratios.append(math.sqrt(float(fine.square().mean() / coarse.square().mean().clamp_min(1e-9))))
    least = min(ratios)
    return ratios.index(least) * math.pi / DIRECTIONS, least, least / max(*ratios, 1e-9)


def _ridge(slope: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Mark the middle line of each edge; beside it the ratio measures the flank, not the width."""
    framed = pad(slope[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    upright = (slope >= framed[:-2, 1:-1]) & (slope >= framed[2:, 1:-1])
    level = (slope >= framed[1:-1, :-2]) & (slope >= framed[1:-1, 2:])
    return torch.where(down.abs() > right.abs(), upright, level)


def _middle(plane: Tensor) -> Tensor:
    height, width = plane.shape
    top, left = height // 10, width // 10
    return plane[top : height - top, left : width - left]
