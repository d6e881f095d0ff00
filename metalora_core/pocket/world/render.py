"""Photos of the pocket world: any subject in any scene."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .avatars import render_avatars
from .factors import Subject
from .products import render_products
from .scenes import Scene, jittered

PICTURE_SIZE = 128
_CHUNK = 16


@torch.no_grad()
def render(subjects: Sequence[Subject], scenes: Sequence[Scene], size: int = PICTURE_SIZE) -> Tensor:
    """Photograph each subject in its scene.

    Args:
        subjects: All of one domain, length B.
        scenes: Length B.
        size: Width and height in pixels.

    Returns:
        RGB pictures in [0, 1], shape (B, 3, size, size).

    Raises:
        ValueError: If the lengths differ or the domains are mixed.
    """
    if len(subjects) != len(scenes) or len({subject.domain for subject in subjects}) != 1:
        raise ValueError(
            f"Found {len(subjects)} subjects of {len({s.domain for s in subjects})} domains and {len(scenes)} scenes; "
            "give one scene for each subject, all of one domain."
        )
    domain = subjects[0].domain
    draw = render_avatars if domain == "avatars" else render_products
    pictures: list[Tensor] = []
    for i in range(0, len(subjects), _CHUNK):
        vectors = torch.stack([subject.vector for subject in subjects[i : i + _CHUNK]])
        pictures.append(draw(vectors, jittered(list(scenes[i : i + _CHUNK]), domain), size))
    return torch.cat(pictures)
