"""How a photo is exposed, ignoring a plain white or black backdrop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .pixels import connected_to_border, luma, shrink

ANALYSIS_SIDE_PX = 128
"""Shorter side of the measured picture; single glints and noise average out, burnt-out areas stay."""

WHITE, BLACK = 0.98, 0.02
"""Brightness above which nothing can be recovered."""

LARGEST_WINDOW = 0.4
"""Share of the picture that may be pure white and reach the frame without being a backdrop."""

FLAT_SHARE, FLAT_EVENNESS, NEAR_LEVELS, WHITE_LEVEL = 0.1, 0.97, 8, 250
"""A flat backdrop: least share of the picture that has one colour exactly, and of what is within 8 of 255 levels of it;
white of 250 and more belongs to good photography."""

PLAIN_SPREAD = 0.12
"""Colour distance within which the surroundings count as one plain backdrop."""


@dataclass(frozen=True)
class Exposure:
    """Brightness of one photo, each value in 0..1.

    Attributes:
        bright: Brightness that 95 % of the whole picture is below.
        dark: Brightness that 5 % of the subject (everything but a plain backdrop) is below.
        middle: Median brightness of the subject.
        contrast: Distance between the darkest and brightest 5 %, of the picture or the subject, whichever is larger.
        burnt: Share of the subject that is pure white.
        blocked: Share of the subject that is pure black.
    """

    bright: float
    dark: float
    middle: float
    contrast: float
    burnt: float
    blocked: float


def measure_exposure(pixels: Tensor) -> Exposure:
    """Measure brightness and clipping.

    A plain backdrop of any colour, especially white or black, is good photography and says nothing about the exposure
    of the subject. So what resembles the colour of the frame and is connected with it is not measured, unless less than
    a twentieth of the picture would remain.

    Args:
        pixels: Shape (3, H, W) in 0..1.
    """
    small = shrink(pixels.float(), ANALYSIS_SIDE_PX)
    brightness = luma(small)
    backdrop, white = _plain_backdrop(small), connected_to_border(brightness >= WHITE)
    # A window or a piece of sky may be white; a picture that is mostly so was taken in too much light, unless the frame
    # shows that it is a backdrop.
    if bool(backdrop.any()) or float(white.float().mean()) <= LARGEST_WINDOW:
        backdrop |= white
    backdrop |= connected_to_border(brightness <= BLACK)
    if float(backdrop.float().mean()) >= 0.95:
        backdrop = torch.zeros_like(backdrop)
    subject, whole = brightness[~backdrop].sort().values, brightness.flatten().sort().values
    return Exposure(
        bright=_at(whole, 0.95),
        dark=_at(subject, 0.05),
        middle=_at(subject, 0.5),
        contrast=max(_at(values, 0.95) - _at(values, 0.05) for values in (subject, whole)),
        burnt=float((subject >= WHITE).float().mean()),
        blocked=float((subject <= BLACK).float().mean()),
    )


def _at(rising: Tensor, quantile: float) -> float:
    return float(rising[round(quantile * (len(rising) - 1))])


def _plain_backdrop(pixels: Tensor) -> Tensor:
    """What has the colour of the frame and reaches it; nothing where the frame has no single colour."""
    frame = torch.cat([pixels[:, 0], pixels[:, :, 0], pixels[:, :, -1]], dim=1)
    colour = frame.median(dim=1).values
    near = (pixels - colour[:, None, None]).norm(dim=0) < PLAIN_SPREAD
    plain = float(((frame - colour[:, None]).norm(dim=0) < 1.5 * PLAIN_SPREAD).float().mean()) > 0.7
    return connected_to_border(near) if plain else torch.zeros_like(near)


def flat_backdrop(pixels: Tensor) -> str:
    """The colour, as "#ff00ff", that the background of a picture has to the last bit; empty for none, and for white.

    Transparent parts of a picture file hide such a colour, mostly black, and a loader that drops the transparency
    shows it. A photographed backdrop is never so even: close to its colour there are always others.

    Args:
        pixels: Shape (3, H, W) in 0..1.
    """
    values = (pixels.clamp(0, 1) * 255).round().int()
    frame = torch.cat([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], dim=1)
    red, green, blue = colour = torch.stack([row.mode().values for row in frame])
    away = (values - colour[:, None, None]).abs().amax(dim=0)
    flat, near = float((away == 0).float().mean()), float((away <= NEAR_LEVELS).float().mean())
    if flat < FLAT_SHARE or flat < FLAT_EVENNESS * near or int(colour.min()) >= WHITE_LEVEL:
        return ""
    return f"#{int(red):02x}{int(green):02x}{int(blue):02x}"
