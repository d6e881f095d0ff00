"""Where the subject is in a photo, as far as contrast with the frame shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .pixels import connected_to_border, opponent_colours, shrink

ANALYSIS_SIDE_PX = 64
"""Shorter side of the picture that is searched for the subject: fine enough for its size, blind to texture."""

FRAME_SHARE = 0.08
"""Share of the picture on each side that counts as background."""

PALETTE = 6
"""Background colours learned from the frame."""

MINIMUM_SEPARATION = 0.78
"""Share of the variance of the contrast that the split in subject and background must explain (Otsu's criterion).
Below it, background and subject blend into each other and there is no estimate."""


@dataclass(frozen=True)
class SubjectEstimate:
    """A rough box around what differs from the frame of the picture.

    Attributes:
        area: Share of the picture, 0..1.
        left, top, right, bottom: Box around it, as shares of width and height, 0..1.
        separation: How clearly it stands out, 0..1.
    """

    area: float
    left: float
    top: float
    right: float
    bottom: float
    separation: float


def estimate_subject(pixels: Tensor) -> SubjectEstimate | None:
    """Look for one subject that contrasts with the frame of the picture.

    The colours along the frame count as background; what differs from all of them and is not connected with the frame
    is the subject. This is not a detector: it knows nothing of people or things, and returns None for a busy background
    or a subject that fills the frame.

    Args:
        pixels: Shape (3, H, W) in 0..1.

    Returns:
        The estimate, or None if subject and background are indistinguishable.
    """
    small = shrink(pixels.float(), ANALYSIS_SIDE_PX)
    contrast = _contrast_with_frame(small)
    threshold, separation = _otsu(contrast)
    if separation < MINIMUM_SEPARATION:
        return None
    subject = ~connected_to_border(contrast <= threshold) & (contrast > threshold / 2)
    area = float(subject.float().mean())
    if not 0.002 < area < 0.85:
        return None
    rows, columns = _extent(subject.float().mean(dim=1)), _extent(subject.float().mean(dim=0))
    return SubjectEstimate(area, columns[0], rows[0], columns[1], rows[1], separation)


def _contrast_with_frame(pixels: Tensor) -> Tensor:
    """Distance of each pixel's colour to the nearest background colour, in spreads of that colour."""
    colours = opponent_colours(pixels)
    height, width = colours.shape[-2:]
    frame_px = max(2, round(FRAME_SHARE * min(height, width)))
    in_frame = torch.ones(height, width, dtype=torch.bool)
    in_frame[frame_px:-frame_px, frame_px:-frame_px] = False
    frame = colours[:, in_frame].T
    centres, spreads = _palette(frame)
    distance = torch.cdist(colours.flatten(1).T, centres) / spreads
    return distance.min(dim=1).values.reshape(height, width).clamp_max(12.0)


def _palette(frame: Tensor) -> tuple[Tensor, Tensor]:
    """Cluster the frame's colours: (N, 3) to centres (K, 3) and spreads (K,)."""
    order = frame[:, 0].argsort()
    centres = frame[order[torch.linspace(0, len(order) - 1, PALETTE).long()]]
    nearest = torch.cdist(frame, centres).argmin(dim=1)
    for _ in range(8):
        filled = [index for index in range(len(centres)) if bool((nearest == index).any())]
        centres = torch.stack([frame[nearest == index].mean(dim=0) for index in filled])
        nearest = torch.cdist(frame, centres).argmin(dim=1)
    distance = torch.cdist(frame, centres).gather(1, nearest[:, None])[:, 0]
    spreads = [distance[nearest == index].square().mean().sqrt() for index in range(len(centres))]
    # 0.04 is what grain and compression alone spread a flat colour.
    return centres, torch.stack(spreads).nan_to_num(0.0).clamp_min(0.04)


def _otsu(contrast: Tensor) -> tuple[float, float]:
    """Best split of the contrast values and the share of their variance that it explains."""
    values = contrast.flatten().sort().values
    total = values.var(unbiased=False)
    if float(total) < 1e-6:
        return 0.0, 0.0
    count = torch.arange(1, len(values))
    below = values.cumsum(0)[:-1]
    share = count / len(values)
    mean = values.mean()
    between = (mean * share - below / len(values)).square() / (share * (1 - share))
    best = int(between.argmax())
    return float(values[best]), float(between[best] / total)


def _extent(profile: Tensor) -> tuple[float, float]:
    occupied = (profile > 0.02).nonzero().flatten()
    if len(occupied) == 0:
        return 0.0, 1.0
    return float(occupied[0]) / len(profile), float(occupied[-1] + 1) / len(profile)
