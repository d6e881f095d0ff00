"""How a photo is exposed, judged on what is not a plain white or black backdrop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .picture import connected_to_border, luma, shrink

ANALYSIS_SIDE_PX = 128
"""Shorter side of the picture that is judged; single glints and noise average out, burnt-out areas stay."""

WHITE, BLACK = 0.98, 0.02
"""Brightness from which on nothing can be recovered."""


@dataclass(frozen=True)
class Exposure:
    """Brightness of one photo, each value in 0..1.

    Attributes:
        dark: Brightness that 5 % of the picture lies below.
        middle: Median brightness.
        bright: Brightness that 95 % of the picture lies below.
        burnt: Share of it that is pure white without being backdrop.
        blocked: Share of it that is pure black without being backdrop.
        backdrop: Share of the whole picture that is plain white or black and reaches the frame.
    """

    dark: float
    middle: float
    bright: float
    burnt: float
    blocked: float
    backdrop: float


def measure_exposure(pixels: Tensor) -> Exposure:
    """Measure brightness and clipping.

    White or black areas that reach the frame are a studio backdrop or the sky and leave the measures, unless less
    than a twentieth of the picture would remain.

    Args:
        pixels: Shape (3, H, W) in 0..1.
    """
    brightness = luma(shrink(pixels.float(), ANALYSIS_SIDE_PX))
    burnt, blocked = brightness >= WHITE, brightness <= BLACK
    backdrop = connected_to_border(burnt) | connected_to_border(blocked)
    share = float(backdrop.float().mean())
    judged = ~backdrop if share < 0.95 else torch.ones_like(backdrop)
    values = brightness[judged].sort().values

    def at(quantile: float) -> float:
        return float(values[round(quantile * (len(values) - 1))])

    return Exposure(
        dark=at(0.05),
        middle=at(0.5),
        bright=at(0.95),
        burnt=float(burnt[judged].float().mean()),
        blocked=float(blocked[judged].float().mean()),
        backdrop=share,
    )
