"""Avatars: heads and shoulders as smooth signed distance fields, with painted features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .factors import HAIR_STYLES, slices
from .raymarch import (
    Point,
    Surface,
    backdrop,
    ellipsoid,
    march,
    mix,
    per_sample,
    pixel_grid,
    shade,
    smooth_cut,
    smooth_union,
    soft_step,
    turn_to_local,
)


class Avatar:
    """The shape and paint of a batch of avatars, read from subject vectors (B, vector_size)."""

    def __init__(self, vectors: Tensor) -> None:
        self._v = vectors
        self._where = slices("avatars")
        width, jaw = self.scalar("head_width"), self.scalar("jaw_width")
        self.head_radii = (0.34 + 0.11 * width, 0.43, 0.41)
        self.jaw_radii = (0.19 + 0.17 * jaw, 0.26, 0.25)
        self.nose = 0.05 + 0.055 * self.scalar("nose_size")
        self.eye_x = 0.115 + 0.075 * self.scalar("eye_spacing")
        self.eye_r = 0.048 + 0.036 * self.scalar("eye_size")
        self.volume = self.scalar("hair_volume")
        self.style = {name: per_sample(self.category("hair_style")[:, i]) for i, name in enumerate(HAIR_STYLES)}

    def scalar(self, name: str) -> Tensor:
        """A scalar factor as (B, 1, 1)."""
        return per_sample(self._v[:, self._where[name]][:, 0])

    def colour(self, name: str) -> Tensor:
        """A colour factor as (B, 3)."""
        return self._v[:, self._where[name]]

    def category(self, name: str) -> Tensor:
        """A category factor as (B, choices)."""
        return self._v[:, self._where[name]]

    def skin_distance(self, p: Point) -> Tensor:
        """Head, jaw, nose and ears in head coordinates."""
        d = ellipsoid(p, (0.0, 0.10, 0.0), self.head_radii)
        d = smooth_union(d, ellipsoid(p, (0.0, -0.22, 0.08), self.jaw_radii), 0.22)
        nose = ellipsoid(p, (0.0, -0.06, 0.41), (self.nose * 0.8, self.nose * 1.35, self.nose * 1.3))
        d = smooth_union(d, nose, 0.05)
        ear = ellipsoid((p[0].abs(), p[1], p[2]), (self.head_radii[0] * 0.98, 0.0, -0.02), (0.06, 0.11, 0.07))
        return smooth_union(d, ear, 0.03)

    def hair_distance(self, p: Point) -> Tensor:
        """Hair in head coordinates; a bald head has none."""
        s, grow = self.style, 0.035 + 0.06 * self.volume
        r = self.head_radii
        cap = ellipsoid(p, (0.0, 0.12, -0.02), (r[0] + grow, r[1] + grow, r[2] + grow))
        hairline = 0.85 * p[2] - 0.62 * p[1]
        cap = smooth_cut(cap, 0.10 - hairline, 0.05)
        reach = 0.30 + 0.30 * self.volume
        curtain = ellipsoid(p, (0.0, 0.16 - reach, -0.14), (r[0] + 0.10, reach + 0.24, 0.33))
        curtain = torch.maximum(curtain, p[2] - 0.10)
        ball = ellipsoid(p, (0.0, 0.24, -0.13), (r[0] + 0.17 + grow, 0.42 + grow, 0.42))
        ball = smooth_cut(ball, 0.04 - hairline, 0.05)
        knot = 0.13 + 0.07 * self.volume
        bun = ellipsoid(p, (0.0, 0.64, -0.10), (knot, knot, knot))
        crest = ellipsoid(p, (0.0, 0.30, -0.06), (0.07, 0.40 + 0.14 * self.volume, 0.42))
        off = 4.0
        has_cap = s["short"] + s["long"] + s["bun"]
        d = cap + off * (1 - has_cap)
        d = torch.minimum(d, curtain + off * (1 - s["long"]))
        d = torch.minimum(d, ball + off * (1 - s["afro"]))
        d = torch.minimum(d, bun + off * (1 - s["bun"]))
        return torch.minimum(d, crest + off * (1 - s["crest"]))

    def paint_face(self, albedo: Tensor, p: Point, smile: Tensor, opening: Tensor) -> Tensor:
        """Cheeks, eyes, brows, mouth, facial hair and glasses, painted on the skin in head coordinates."""
        x, y, z = p
        front = soft_step(0.08 - z, 0.08)
        skin, hair = self.colour("skin"), self.colour("hair")
        wide = (opening - 0.3).clamp(min=0)
        side = x.abs() - self.eye_x
        cheek = ((side / 0.09) ** 2 + ((y + 0.10) / 0.07) ** 2).sqrt() - 1
        albedo = mix(albedo, skin * torch.tensor([1.0, 0.72, 0.70]), soft_step(cheek, 1.0) * front * 0.35)
        albedo = self._paint_beard(albedo, x, y, front, hair)
        eye_y = y - 0.065
        lid = 1 + 0.25 * wide
        eye = (side**2 + (eye_y / (0.86 * lid)) ** 2).sqrt() - self.eye_r
        albedo = mix(albedo, torch.full_like(skin, 0.97), soft_step(eye) * front)
        iris = (side**2 + eye_y**2).sqrt() - self.eye_r * 0.66
        albedo = mix(albedo, self.colour("iris"), soft_step(iris) * soft_step(eye) * front)
        pupil = (side**2 + eye_y**2).sqrt() - self.eye_r * 0.30
        albedo = mix(albedo, torch.full_like(skin, 0.05), soft_step(pupil) * front)
        brow_y = y - 0.065 - self.eye_r - 0.055 - 0.04 * wide + 0.10 * side * (smile * -1).clamp(min=0) * 3
        thick = 0.012 + 0.020 * self.scalar("brow_thickness")
        brow = ((side.abs() - self.eye_r * 0.9).clamp(min=0) ** 2 + (brow_y + 2.2 * side**2) ** 2).sqrt() - thick
        albedo = mix(albedo, hair * 0.55, soft_step(brow) * front)
        albedo = self._paint_mouth(albedo, x, y, front, smile, opening)
        return self._paint_glasses(albedo, x, side, eye_y, front)

    def _paint_mouth(
        self, albedo: Tensor, x: Tensor, y: Tensor, front: Tensor, smile: Tensor, opening: Tensor
    ) -> Tensor:
        half = 0.075 + 0.055 * self.scalar("mouth_width")
        half = half * (1 + 0.12 * smile.abs() - 0.25 * (opening - 0.3).clamp(min=0))
        curve = y + 0.27 - smile * 1.1 * (x**2 - 0.5 * half**2) / (half + 0.02)
        gap = 0.075 * opening * (1 - (x / half) ** 2).clamp(min=0).sqrt()
        outside = ((x.abs() - half).clamp(min=0) ** 2 + (curve.abs() - gap).clamp(min=0) ** 2).sqrt()
        albedo = mix(albedo, self.colour("skin") * torch.tensor([0.78, 0.36, 0.36]), soft_step(outside - 0.024) * front)
        hole = torch.maximum(curve.abs() - gap, x.abs() - half)
        return mix(albedo, torch.tensor([[0.22, 0.05, 0.07]]), soft_step(hole) * front * (opening > 0.1))

    def _paint_beard(self, albedo: Tensor, x: Tensor, y: Tensor, front: Tensor, hair: Tensor) -> Tensor:
        kinds = self.category("facial_hair")
        moustache = ((x / 0.13) ** 2 + ((y + 0.205 + 0.9 * x**2) / 0.035) ** 2).sqrt() - 1
        beard = torch.maximum(y + 0.19 - 0.2 * x.abs() - 0.9 * x**2, -y - 0.46)
        albedo = mix(albedo, hair * 0.9, soft_step(moustache, 0.3) * front * per_sample(kinds[:, 1]))
        return mix(albedo, hair * 0.9, soft_step(beard, 0.04) * per_sample(kinds[:, 2]))

    def _paint_glasses(self, albedo: Tensor, x: Tensor, side: Tensor, eye_y: Tensor, front: Tensor) -> Tensor:
        kinds = self.category("glasses")
        radius = self.eye_r + 0.030
        ring = ((side**2 + eye_y**2).sqrt() - radius).abs() - 0.011
        square = (torch.maximum(side.abs() * 0.92, eye_y.abs() * 1.15) - radius).abs() - 0.011
        bridge = torch.maximum((eye_y - 0.01).abs() - 0.010, x.abs() - (self.eye_x - radius).clamp(min=0))
        temple = torch.maximum((eye_y - 0.01).abs() - 0.010, self.eye_x + radius - x.abs())
        dark = torch.tensor([[0.08, 0.08, 0.10]])
        for kind, frame in ((1, ring), (2, square)):
            shape = torch.minimum(torch.minimum(frame, bridge), temple)
            albedo = mix(albedo, dark, soft_step(shape) * soft_step(-0.1 - front, 0.3) * per_sample(kinds[:, kind]))
        return albedo


def render_avatars(vectors: Tensor, scene: dict[str, Any], size: int) -> Tensor:
    """Render avatars (B, vector_size) in jittered scenes; returns RGB (B, 3, size, size) in [0, 1]."""
    avatar = Avatar(vectors)
    x, y = pixel_grid(scene, size)

    def head(p: Point) -> Point:
        return turn_to_local(
            (p[0] / 1.12, (p[1] - 0.10) / 1.12, p[2] / 1.12), scene["yaw"], scene["pitch"], scene["roll"]
        )

    def neck_distance(p: Point) -> Tensor:
        return ellipsoid(p, (0.0, -0.60, -0.06), (0.17, 0.45, 0.17))

    def shirt_distance(p: Point) -> Tensor:
        return ellipsoid(p, (0.0, -1.10, -0.10), (0.78, 0.50, 0.42))

    def distance(p: Point) -> Tensor:
        local = head(p)
        d = smooth_union(avatar.skin_distance(local) * 1.12, neck_distance(p), 0.06)
        return torch.minimum(torch.minimum(d, avatar.hair_distance(local) * 1.12), shirt_distance(p))

    surface: Surface = march(distance, x, y, 2.0 / size)
    local = head(surface.point)
    skin = torch.minimum(avatar.skin_distance(local) * 1.12, neck_distance(surface.point))
    ones = torch.ones_like(x)[:, None]
    albedo = avatar.colour("skin")[:, :, None, None] * ones
    smile, opening = per_sample(scene["smile"]), per_sample(scene["open"])
    albedo = avatar.paint_face(albedo, local, smile, opening)
    hair = avatar.hair_distance(local) * 1.12
    strands = 1 + 0.06 * torch.sin(local[0] * 46) * torch.sin(local[2] * 31 + local[1] * 5)
    albedo = mix(albedo, avatar.colour("hair")[:, :, None, None] * strands[:, None], soft_step(hair - skin, 0.02))
    shirt = shirt_distance(surface.point)
    albedo = mix(albedo, avatar.colour("shirt"), soft_step(shirt - torch.minimum(skin, hair), 0.02))
    picture = shade(albedo, surface, scene["light"], 0.10 * torch.ones_like(x))
    return backdrop(scene, size) * (1 - surface.coverage[:, None]) + picture * surface.coverage[:, None]
