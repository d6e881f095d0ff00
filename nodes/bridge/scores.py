"""Report and grid of Evaluate Identity."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from PIL import Image
from torch import Tensor

from ...metalora_core.errors import InvalidOptions
from ...metalora_core.evaluation.subjects.scores import Likeness, likeness
from ...metalora_core.photos.pictures import from_pil, grid, to_pil
from .embedders import Embed


def score(embed: Embed, pictures: Sequence[Tensor], held_out: Sequence[Tensor], learned: Sequence[Tensor]) -> Likeness:
    """Score pictures against held-out photos, and against the trained ones if given; all (3, H, W) of any size.

    Raises:
        InvalidOptions: If there is no picture or no held-out photo.
    """
    if not pictures or not held_out:
        raise InvalidOptions("Evaluate Identity needs at least one generated picture and one held-out photo.")

    def vectors(photos: Sequence[Tensor]) -> Tensor:
        return torch.cat([embed(photo[None]) for photo in photos])

    return likeness(vectors(pictures), vectors(held_out), vectors(learned) if learned else None)


def report(found: Likeness) -> str:
    """The mean and what photos of the subject reach, then one line per picture."""
    lines = [f"Identity similarity {fmean(found.similarity):.3f} over {len(found.error)} pictures."]
    if found.ceiling < 1:
        lines.append(f"Photos of the subject among themselves: {found.ceiling:.3f}.")
    if found.copying:
        lines.append("Copying: 0 is no closer to a trained photo than other photos are, 1 is the trained photo again.")
    for number, value in enumerate(found.similarity):
        copied = f", copying {found.copying[number]:.2f}" if found.copying else ""
        lines.append(f"Picture {number + 1}: {value:.3f}{copied}")
    return "\n".join(lines)


def score_grid(pictures: Sequence[Tensor], found: Likeness, columns: int) -> Tensor:
    """The pictures with their similarity under them, best first: (3, H, W)."""
    order = sorted(range(len(pictures)), key=lambda index: found.error[index])
    rows: list[list[Image.Image | str]] = []
    for start in range(0, len(order), columns):
        shown = order[start : start + columns]
        rows += [[to_pil(pictures[n]) for n in shown], [f"{found.similarity[n]:.3f}" for n in shown]]
    return from_pil(grid(rows))
