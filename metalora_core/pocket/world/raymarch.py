"""A small batched ray marcher: signed distances in, shaded pictures out.

Everything is elementwise torch on tensors of shape (B, H, W), so a batch of pictures renders in one pass on a CPU.
Orthographic camera, looking along −z at the unit square; signed distance fields after the well-known sphere-tracing
scheme (Hart 1996).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Point = tuple[Tensor, Tensor, Tensor]
Distance = Callable[[Point], Tensor]


@dataclass(frozen=True)
class Surface:
    """What a ray met at each pixel: position, unit normal, and how much of the pixel it covers (B, H, W)."""

    point: Point
    normal: Point
    coverage: Tensor


def per_sample(value: Tensor) -> Tensor:
    """Shape (B,) → (B, 1, 1), to combine with pixels."""
    return value[:, None, None]


def ellipsoid(p: Point, centre: tuple[Any, Any, Any], radii: tuple[Any, Any, Any]) -> Tensor:
    """Approximate signed distance to an axis-aligned ellipsoid."""
    scaled = [(p[i] - centre[i]) / radii[i] for i in range(3)]
    k0 = (scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2).sqrt()
    k1 = ((scaled[0] / radii[0]) ** 2 + (scaled[1] / radii[1]) ** 2 + (scaled[2] / radii[2]) ** 2).sqrt()
    return k0 * (k0 - 1) / (k1 + 1e-6)


def smooth_union(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """Union of two fields with a seam rounded over ``radius``."""
    h = (radius - (a - b).abs()).clamp(min=0) / radius
    return torch.minimum(a, b) - h * h * radius * 0.25


def smooth_cut(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """The part of ``a`` outside ``b``, with a rounded edge."""
    return -smooth_union(-a, b, radius)


def turn_to_local(p: Point, yaw: Tensor, pitch: Tensor, roll: Tensor) -> Point:
    """World coordinates → coordinates of an object turned by yaw, pitch and roll (radians, shape (B,))."""
    cy, sy = per_sample(yaw.cos()), per_sample(yaw.sin())
    cp, sp = per_sample(pitch.cos()), per_sample(pitch.sin())
    cr, sr = per_sample(roll.cos()), per_sample(roll.sin())
    x, y, z = p
    x, y = cr * x + sr * y, cr * y - sr * x
    y, z = cp * y - sp * z, sp * y + cp * z
    return cy * x - sy * z, y, sy * x + cy * z


def pixel_grid(scene: dict[str, Any], size: int) -> tuple[Tensor, Tensor]:
    """World x (right) and y (up) of every pixel centre, each (B, size, size), after zoom and shift."""
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    x = (line[None, None, :] - per_sample(scene["shift_x"])) / per_sample(scene["zoom"])
    y = (-line[None, :, None] - per_sample(scene["shift_y"])) / per_sample(scene["zoom"])
    return x.expand(-1, size, size).contiguous(), y.expand(-1, size, size).contiguous()


def march(distance: Distance, x: Tensor, y: Tensor, pixel: float, steps: int = 22, start: float = 1.3) -> Surface:
    """Follow one ray per pixel until it meets the zero set of ``distance``.

    Args:
        distance: World point → signed distance (B, H, W).
        x: Pixel positions to the right, (B, H, W).
        y: Pixel positions upwards, (B, H, W).
        pixel: Width of a pixel in world units, for anti-aliased outlines.
        steps: Sphere-tracing steps.
        start: z at which rays begin.
    """
    z = torch.full_like(x, start)
    nearest = torch.full_like(x, 1e3)
    nearest_z = z
    for _ in range(steps):
        d = distance((x, y, z))
        closer = d < nearest
        nearest = torch.where(closer, d, nearest)
        nearest_z = torch.where(closer, z, nearest_z)
        z = (z - 0.92 * d).clamp(min=-1.6)
    e = 0.012
    point = (x, y, nearest_z)
    corners = ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1))
    taps = [distance((x + e * i, y + e * j, nearest_z + e * k)) for i, j, k in corners]
    signs = torch.tensor(corners, dtype=x.dtype)
    normal = torch.einsum("ca,cbhw->abhw", signs, torch.stack(taps))
    length = (normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2).sqrt() + 1e-6
    coverage = (0.75 - nearest / pixel).clamp(0, 1)
    return Surface(point, (normal[0] / length, normal[1] / length, normal[2] / length), coverage)


def soft_step(value: Tensor, edge: float = 0.02) -> Tensor:
    """0 outside, 1 inside: a signed distance (negative inside) turned into an anti-aliased mask."""
    t = (0.5 - value / edge).clamp(0, 1)
    return t * t * (3 - 2 * t)


def mix(base: Tensor, colour: Tensor, mask: Tensor) -> Tensor:
    """Paint ``colour`` (B, 3) or (B, 3, H, W) over ``base`` (B, 3, H, W) where ``mask`` (B, H, W) is one."""
    if colour.dim() == 2:
        colour = colour[:, :, None, None]
    return base + (colour - base) * mask[:, None]


def shade(albedo: Tensor, surface: Surface, light: Tensor, gloss: Tensor) -> Tensor:
    """Soft daylight plus one directional light and a highlight.

    Args:
        albedo: (B, 3, H, W).
        surface: Where the rays met.
        light: Unit direction towards the light, (B, 3).
        gloss: Strength of the highlight, (B, 1, 1) or (B, H, W).
    """
    nx, ny, nz = surface.normal
    lx, ly, lz = (per_sample(light[:, i]) for i in range(3))
    facing = nx * lx + ny * ly + nz * lz
    lambert = (facing * 0.8 + 0.2).clamp(min=0)
    ambient = 0.36 + 0.10 * ny
    half = torch.stack([light[:, 0], light[:, 1], light[:, 2] + 1], dim=1)
    half = half / half.norm(dim=1, keepdim=True)
    glint = (nx * per_sample(half[:, 0]) + ny * per_sample(half[:, 1]) + nz * per_sample(half[:, 2])).clamp(min=0)
    brightness = ambient + 0.78 * lambert
    return (albedo * brightness[:, None] + (gloss * glint**24)[:, None]).clamp(0, 1)


def backdrop(scene: dict[str, Any], size: int) -> Tensor:
    """A studio wall: the requested colour, lighter in the middle, (B, 3, size, size)."""
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    vignette = 1.05 - 0.16 * (line[None, :] ** 2 + line[:, None] ** 2)
    return (scene["background"][:, :, None, None] * vignette).clamp(0, 1)
