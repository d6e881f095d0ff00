"""Products: mugs, bottles, vases, bowls and jars as solids of revolution, with a colour band and a mark."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .factors import slices
from .raymarch import Point, backdrop, march, mix, per_sample, pixel_grid, shade, smooth_union, soft_step, turn_to_local

# Radius at foot, belly, shoulder and rim, and the half height, of each kind before a subject's own factors.
_PROFILES = torch.tensor(
    [
        [0.36, 0.38, 0.38, 0.38, 0.40],  # mug
        [0.25, 0.30, 0.13, 0.10, 0.68],  # bottle
        [0.20, 0.34, 0.24, 0.22, 0.58],  # vase
        [0.20, 0.42, 0.52, 0.58, 0.26],  # bowl
        [0.30, 0.38, 0.38, 0.30, 0.44],  # jar
    ]
)
_OPEN = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])


class Product:
    """The shape and paint of a batch of products, read from subject vectors (B, vector_size)."""

    def __init__(self, vectors: Tensor) -> None:
        self._v = vectors
        self._where = slices("products")
        kind = vectors[:, self._where["kind"]]
        base = kind @ _PROFILES
        width = 0.82 + 0.36 * self._raw("width")
        self.half_height = per_sample(base[:, 4] * (0.80 + 0.40 * self._raw("height")))
        foot = base[:, 0] * (0.72 + 0.56 * self._raw("foot")) * width
        belly = base[:, 1] * (0.78 + 0.44 * self._raw("belly")) * width
        neck = base[:, 2] * (0.76 + 0.48 * self._raw("neck")) * width
        self.radii = tuple(per_sample(r) for r in (foot, belly, neck, base[:, 3] * width))
        # A steep wall is nearer than its horizontal distance says; without this, rays step through a bowl.
        steep = 1.6 * (self.radii[3] - self.radii[0]).abs() / (2 * self.half_height)
        self.slope = 0.85 / (1 + steep**2).sqrt()
        self.mug, self.jar = per_sample(kind[:, 0]), per_sample(kind[:, 4])
        self.open = per_sample(kind @ _OPEN)
        self.front_radius = torch.maximum(self.radii[1], self.radii[2])

    def _raw(self, name: str) -> Tensor:
        return self._v[:, self._where[name]][:, 0]

    def scalar(self, name: str) -> Tensor:
        """A scalar factor as (B, 1, 1)."""
        return per_sample(self._raw(name))

    def colour(self, name: str) -> Tensor:
        """A colour factor as (B, 3)."""
        return self._v[:, self._where[name]]

    def radius_at(self, height: Tensor) -> Tensor:
        """Radius of the profile at relative heights −1…1: a cubic through the four control radii."""
        t = (height.clamp(-1, 1) + 1) * 1.5
        r0, r1, r2, r3 = self.radii
        a = r0 * (t - 1) * (t - 2) * (t - 3) / -6 + r1 * t * (t - 2) * (t - 3) / 2
        return (a + r2 * t * (t - 1) * (t - 3) / -2 + r3 * t * (t - 1) * (t - 2) / 6).clamp(min=0.05)

    def distance(self, p: Point) -> Tensor:
        """Signed distance in object coordinates."""
        x, y, z = p
        rho = (x**2 + z**2 + 1e-8).sqrt()
        height = y / self.half_height
        radius = self.radius_at(height)
        side = (rho - radius) * self.slope
        ends = y.abs() - self.half_height
        body = smooth_union(-side, -ends, 0.05) * -1
        hollow = torch.maximum((rho - radius + 0.05) * self.slope, self.half_height * -1 + 0.08 - y)
        body = torch.where(self.open > 0.5, torch.maximum(body, -hollow), body)
        handle_x = x + self.front_radius + 0.02
        ring = (((handle_x**2 + y**2) + 1e-8).sqrt() - 0.20).square() + z**2
        handle = torch.maximum((ring + 1e-8).sqrt() - 0.055, radius - 0.02 - rho)
        body = torch.where(self.mug > 0.5, torch.minimum(body, handle), body)
        knob = (x**2 + (y - self.half_height - 0.07) ** 2 + z**2 + 1e-8).sqrt() - 0.085
        lid = torch.maximum((rho - self.radii[3] - 0.06) * 0.9, (y - self.half_height).abs() - 0.035)
        return torch.where(self.jar > 0.5, torch.minimum(body, torch.minimum(knob, lid)), body)

    def albedo(self, p: Point) -> Tensor:
        """Colours in object coordinates, (B, 3, H, W)."""
        x, y, z = p
        rho = (x**2 + z**2 + 1e-8).sqrt()
        height = y / self.half_height
        inside = (rho < self.radius_at(height) - 0.03) & (height > -0.9) & (self.open > 0.5)
        colour = self.colour("body")[:, :, None, None] * torch.ones_like(x)[:, None]
        outside = (~inside).float()
        place = -0.75 + 1.5 * self.scalar("band_position")
        half = 0.06 + 0.16 * self.scalar("band_width")
        band = (height - place).abs() - half
        on_body = outside * (rho < self.radius_at(height) + 0.03)
        colour = mix(colour, self.colour("band"), soft_step(band, 0.05) * on_body)
        knob = self.jar * soft_step(self.half_height - 0.04 - y, 0.02)
        colour = mix(colour, self.colour("band"), knob)
        colour = self._paint_mark(colour, x, y, z, rho, on_body)
        return colour * (1 - 0.35 * inside.float()[:, None])

    def _paint_mark(self, colour: Tensor, x: Tensor, y: Tensor, z: Tensor, rho: Tensor, mask: Tensor) -> Tensor:
        kinds = self._v[:, self._where["mark_kind"]]
        size = self.half_height * (0.30 + 0.22 * self.scalar("mark_size"))
        around = torch.atan2(x, z) * rho.clamp(max=0.6)
        u, v = around, y
        disc = (u**2 + v**2 + 1e-8).sqrt() - size
        diamond = (u.abs() + v.abs()) * 0.75 - size * 0.9
        stripe = 0.6 * (u.abs() - size * 1.2 / 2).abs() - size * 0.16
        stripes = torch.maximum(stripe, v.abs() - size * 1.3)
        cross = torch.minimum(
            torch.maximum(u.abs() - size * 0.28, v.abs() - size), torch.maximum(v.abs() - size * 0.28, u.abs() - size)
        )
        for i, shape in enumerate((disc, diamond, stripes, cross)):
            colour = mix(colour, self.colour("mark"), soft_step(shape, 0.025) * mask * per_sample(kinds[:, i + 1]))
        return colour


def render_products(vectors: Tensor, scene: dict[str, Any], size: int) -> Tensor:
    """Render products (B, vector_size) in jittered scenes; returns RGB (B, 3, size, size) in [0, 1]."""
    product = Product(vectors)
    x, y = pixel_grid(scene, size)

    def local(p: Point) -> Point:
        return turn_to_local((p[0], p[1] + 0.02, p[2]), scene["yaw"], scene["pitch"], scene["roll"])

    surface = march(lambda p: product.distance(local(p)), x, y, 2.0 / size, steps=28)
    albedo = product.albedo(local(surface.point))
    gloss = 0.06 + 0.55 * product.scalar("gloss")
    picture = shade(albedo, surface, scene["light"], gloss * torch.ones_like(x))
    wall = backdrop(scene, size)
    foot = -product.half_height * per_sample(scene["pitch"].cos())
    lx = per_sample(scene["light"][:, 0])
    shadow = (((x + 0.16 * lx) / (product.radii[0] + 0.16)) ** 2 + ((y - foot) / 0.13) ** 2).sqrt()
    wall = wall * (1 - 0.42 * (1.25 - shadow).clamp(0, 1)[:, None] ** 1.5)
    return wall * (1 - surface.coverage[:, None]) + picture * surface.coverage[:, None]
