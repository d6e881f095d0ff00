"""Small painted photos with known angle, light and background, for tests of the reference photo guidance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

SIDE_PX = 192


@dataclass(frozen=True)
class PaintedPhoto:
    name: str
    pixels: Tensor

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()


def paint(
    turn: float = 0.0,
    light: float = 0.0,
    background: tuple[float, float, float] = (0.35, 0.45, 0.6),
    *,
    seed: int = 0,
    size: float = 0.62,
    side_px: int = SIDE_PX,
) -> Tensor:
    """A shaded ball with patches of colour, (3, side, side) in 0..1.

    ``turn`` rotates it in radians, ``light`` is the direction of the lamp from -1 (left) to 1 (right),
    ``size`` its radius as a share of half the side.
    """
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, side_px)
    y, x = axis[:, None] / size, axis[None, :] / size
    inside = 1 - x.square() - y.square()
    z = inside.clamp_min(0).sqrt()
    lamp = torch.tensor([0.9 * light, -0.4, 0.9])
    lamp = lamp / lamp.norm()
    shade = 0.25 + 0.75 * (x * lamp[0] + y * lamp[1] + z * lamp[2]).clamp(0, 1)
    # Patches stand on the ball, so turning it moves them across the picture.
    side, depth = x * torch.cos(torch.tensor(turn)) + z * torch.sin(torch.tensor(turn)), y.expand(side_px, side_px)
    colour = torch.rand(3, generator=generator)[:, None, None] * 0.3 + 0.55
    ball = colour.expand(3, side_px, side_px).clone()
    for _ in range(7):
        place = torch.rand(2, generator=generator) * 1.6 - 0.8
        radius = 0.12 + 0.2 * torch.rand((), generator=generator)
        patch = torch.rand(3, generator=generator)[:, None, None]
        near = ((side - place[0]).square() + (depth - place[1]).square()).sqrt() < radius
        ball = torch.where(near, patch, ball)
    edge = (inside * side_px / 4).clamp(0, 1)
    grain = 0.02 * torch.randn(3, side_px, side_px, generator=generator)
    wall = torch.tensor(background)[:, None, None] * (1 + 0.1 * axis[None, None, :])
    return (edge * ball * shade + (1 - edge) * wall + grain).clamp(0, 1)


def varied_set() -> list[PaintedPhoto]:
    """Four photos of one ball that nobody would object to."""
    walls = [(0.35, 0.45, 0.6), (0.65, 0.5, 0.35), (0.3, 0.5, 0.35), (0.62, 0.6, 0.58)]
    turns, lights = [0.0, 0.8, -0.8, 1.6], [-0.8, 0.8, 0.0, -0.4]
    scenes = zip(turns, lights, walls, strict=True)
    return [PaintedPhoto(f"ball_{n}.png", paint(t, li, w, seed=3)) for n, (t, li, w) in enumerate(scenes)]
