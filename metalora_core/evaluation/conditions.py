"""Changes to the reference photos or the seeds, to see how robust a method is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["CLEAN", "CONDITIONS", "Condition"]


@dataclass(frozen=True)
class Condition:
    """One circumstance of a run.

    Args:
        name: In rows and files.
        first_photo: Which of the photos comes first.
        seed: Added to the seeds of training and sampling.
        blur: Factor by which the photos are made smaller and larger again; 1 is sharp.
        noise: Standard deviation of grain that is added, pictures being in 0..1.
        crop: Share of the width and height that is kept of the middle; 1 is all.
    """

    name: str
    first_photo: int = 0
    seed: int = 0
    blur: int = 1
    noise: float = 0.0
    crop: float = 1.0

    def spoil(self, photos: Tensor, seed: int) -> Tensor:
        """Photos (B, 3, H, W) as this circumstance leaves them; the same seed gives the same grain."""
        size = photos.shape[-1]
        if self.blur > 1:
            small = interpolate(photos, size // self.blur, mode="bilinear", antialias=True)
            photos = interpolate(small, size, mode="bicubic").clamp(0, 1)
        if self.noise:
            generator = torch.Generator().manual_seed(seed)
            photos = (photos + self.noise * torch.randn(photos.shape, generator=generator)).clamp(0, 1)
        if self.crop < 1:
            kept = round(size * self.crop)
            first = (size - kept) // 2
            middle = photos[..., first : first + kept, first : first + kept]
            photos = interpolate(middle, size, mode="bilinear", antialias=True).clamp(0, 1)
        return photos


CLEAN = Condition("clean")
CONDITIONS: Mapping[str, Condition] = {
    one.name: one
    for one in (
        CLEAN,
        Condition("other_seed", seed=1),
        Condition("other_photo", first_photo=1),
        Condition("blur", blur=4),
        Condition("noise", noise=0.08),
        Condition("crop", crop=0.75),
    )
}
"""Every condition by name; the benchmark's ratios are of "clean" rows alone."""
