"""How much the angle, the light and the background change within a set of photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .pixels import gradient, luma, opponent_colours

SIDE_PX = 64
"""Photos are compared at this size: shapes and shades, no texture."""


@dataclass(frozen=True)
class Look:
    """Descriptors of one photo.

    Attributes:
        shape: Edge directions over a 4 × 4 grid of the middle, unit length, shape (128,).
        light: Slopes of the brightness to the right and downwards over the subject, shape (2,).
        background: Colours along the left, right and upper frame, shape (18,).
    """

    shape: Tensor
    light: Tensor
    background: Tensor


@dataclass(frozen=True)
class Variety:
    """Mean difference between the photos of a set; 0 for the same photo again and again.

    Attributes:
        angle: One minus the cosine between shape descriptors, 0..1.
        light: Root mean square difference of the light descriptors.
        background: Root mean square difference of the frame colours.
    """

    angle: float
    light: float
    background: float


def describe_look(pixels: Tensor) -> Look:
    """Describe shape, light and background of a photo.

    Args:
        pixels: Shape (3, H, W) in 0..1.
    """
    picture = interpolate(pixels.float()[None], size=(SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)[0]
    inset = SIDE_PX // 6
    middle = picture[:, inset : SIDE_PX - inset, inset : SIDE_PX - inset]
    return Look(_shape(luma(middle)), _light(picture), _frame_colours(opponent_colours(picture)))


def measure_variety(looks: Sequence[Look]) -> Variety:
    """Compare all pairs of photos.

    The angle of view is estimated from outlines alone: another pose or another crop counts as well.
    """
    pairs = [(one, other) for index, one in enumerate(looks) for other in looks[:index]]
    if not pairs:
        return Variety(0.0, 0.0, 0.0)

    def spread(differences: list[float]) -> float:
        return sum(differences) / len(differences)

    return Variety(
        angle=spread([1 - float(one.shape @ other.shape) for one, other in pairs]),
        light=spread([_rms(one.light - other.light) for one, other in pairs]),
        background=spread([_rms(one.background - other.background) for one, other in pairs]),
    )


def _shape(brightness: Tensor) -> Tensor:
    down, right = gradient(brightness)
    angle = torch.atan2(down, right) % (2 * math.pi)
    sector = (angle / (math.pi / 4)).long().clamp_max(7)
    # The square root keeps one strong edge from drowning the rest.
    votes = torch.zeros(8, *brightness.shape).scatter_(0, sector[None], torch.hypot(down, right).sqrt()[None])
    cells = adaptive_avg_pool2d(votes, 4).flatten()
    return cells / cells.norm().clamp_min(1e-6)


def _light(picture: Tensor) -> Tensor:
    """Slope of the brightness across the subject; what resembles the frame counts little."""
    brightness, colours = luma(picture), opponent_colours(picture)
    frame = torch.cat([colours[:, :4].flatten(1), colours[:, :, :4].flatten(1), colours[:, :, -4:].flatten(1)], dim=1)
    difference = (colours - frame.median(dim=1).values[:, None, None]).norm(dim=0)
    weight = (difference > 0.15).float() * _central_weight() + 1e-4
    weight = weight / weight.sum().clamp_min(1e-6)
    place = torch.linspace(-1, 1, SIDE_PX)
    mean = (weight * brightness).sum().clamp_min(0.05)
    slopes: list[Tensor] = []
    for axis in (place[None, :], place[:, None]):
        centred = axis - (weight * axis).sum()
        slopes.append(
            (weight * centred * brightness).sum() / ((weight * centred.square()).sum().clamp_min(1e-3) * mean)
        )
    return torch.stack(slopes)


def _central_weight() -> Tensor:
    place = torch.linspace(-1, 1, SIDE_PX)
    return torch.exp(-1.5 * (place[:, None].square() + place[None, :].square()))


def _frame_colours(colours: Tensor) -> Tensor:
    frame_px = SIDE_PX // 8
    half = SIDE_PX // 2
    left, right, top = colours[:, :half, :frame_px], colours[:, :half, -frame_px:], colours[:, :frame_px]
    sides = [left[:, : half // 2], left[:, half // 2 :], right[:, : half // 2], right[:, half // 2 :]]
    parts = [*sides, top[:, :, :half], top[:, :, half:]]
    return torch.cat([part.flatten(1).mean(dim=1) for part in parts])


def _rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())
