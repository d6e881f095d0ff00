"""Likeness scores of pictures, and the picture that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ...metalora_core.errors import InvalidOptions
from ...metalora_core.photos.pictures import from_pil, grid, to_pil
from .embedders import Embedder


@dataclass(frozen=True)
class Scores:
    """Similarities of generated pictures.

    Args:
        likeness: Mean cosine to the held-out photos, one per picture.
        copying: Largest cosine to a trained photo, one per picture; empty if none were given.
        ceiling: How alike the held-out photos are among themselves, what a perfect picture would reach.
    """

    likeness: tuple[float, ...]
    copying: tuple[float, ...]
    ceiling: float | None

    @property
    def mean(self) -> float:
        return sum(self.likeness) / len(self.likeness)

    @property
    def report(self) -> str:
        lines = [f"Likeness {self.mean:.3f} over {len(self.likeness)} pictures."]
        if self.ceiling is not None:
            lines.append(f"The held-out photos among themselves: {self.ceiling:.3f}.")
        for number, value in enumerate(self.likeness):
            copied = f", nearest trained photo {self.copying[number]:.3f}" if self.copying else ""
            lines.append(f"Picture {number + 1}: {value:.3f}{copied}")
        return "\n".join(lines)


def compare(
    embed: Embedder, pictures: Sequence[Tensor], held_out: Sequence[Tensor], trained: Sequence[Tensor] = ()
) -> Scores:
    """Score pictures against held-out photos, and against the trained ones if given; all (3, H, W) of any size.

    Raises:
        InvalidOptions: If there is no picture or no held-out photo.
    """
    if not pictures or not held_out:
        raise InvalidOptions("Evaluate Identity needs at least one generated picture and one held-out photo.")
    found, truth = _vectors(embed, pictures), _vectors(embed, held_out)
    likeness = (found @ truth.mT).mean(dim=1)
    copying = (found @ _vectors(embed, trained).mT).amax(dim=1).tolist() if trained else []
    ceiling = None
    if len(truth) > 1:
        among = truth @ truth.mT
        ceiling = float((among.sum() - among.diagonal().sum()) / (among.numel() - len(truth)))
    return Scores(tuple(likeness.tolist()), tuple(copying), ceiling)


def _vectors(embed: Embedder, pictures: Sequence[Tensor]) -> Tensor:
    return torch.cat([embed(picture[None]) for picture in pictures])


def score_grid(pictures: Sequence[Tensor], scores: Scores, columns: int) -> Tensor:
    """The pictures with their scores under them, best first: (3, H, W)."""
    order = sorted(range(len(pictures)), key=lambda index: -scores.likeness[index])
    rows: list[list[Image.Image | str]] = []
    for start in range(0, len(order), columns):
        shown = order[start : start + columns]
        rows += [[to_pil(pictures[n]) for n in shown], [f"{scores.likeness[n]:.3f}" for n in shown]]
    return from_pil(grid(rows))
