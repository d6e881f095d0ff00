"""Scorers: small networks that read identity factors and scene numbers off a picture.

They do what face recognition and CLIP do for real photos. Here the truth is known, so their own error is too: see
:func:`error_floor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .world.factors import FACTORS, Domain, Subject, identity_error, slices, vector_size
from .world.render import render
from .world.scenes import SCENE_GROUPS, Scene, scene_truth


def _convolution(channels: int, out: int, size: int, stride: int = 1) -> list[nn.Module]:
    # Batch statistics keep a photo's own contrast, which normalising each photo by itself would take away.
    convolution = nn.Conv2d(channels, out, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.SiLU()]


class FactorReader(nn.Module):
    """Picture in, identity vector and scene numbers out, for one domain.

    A plain convolutional network that keeps the coarse layout (8 × 8) up to its linear layers, since it has to
    recognise sizes and positions.
    """

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain: Domain = domain
        self.scene_size = len(scene_truth(Scene(), domain))
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for i in range(4):
            layers += _convolution(widths[i], widths[i + 1], 5 if i == 0 else 3, 2)
        layers += [*_convolution(128, 128, 3), *_convolution(128, 32, 1)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(32 * 8 * 8, 160, bias=False),
            nn.BatchNorm1d(160),
            nn.SiLU(),
            nn.Linear(160, vector_size(domain) + self.scene_size),
        )

    def embedding(self, pictures: Tensor) -> Tensor:
        """What the outputs are read from, (B, 160), of pictures (B, 3, 128, 128) in [0, 1]."""
        return self.head[:-1](self.features(pictures * 2 - 1))

    def logits(self, pictures: Tensor) -> Tensor:
        """Raw outputs, (B, vector_size + scene_size), of pictures (B, 3, 128, 128) in [0, 1]."""
        return self.head[-1](self.embedding(pictures))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Identity vectors (B, vector_size) and scene numbers (B, scene_size)."""
        raw = self.logits(pictures)
        identity, scene = raw[:, : -self.scene_size], raw[:, -self.scene_size :]
        read = identity.sigmoid()
        for factor, place in zip(FACTORS[self.domain], slices(self.domain).values(), strict=True):
            if factor.kind == "category":
                read = read.index_copy(1, torch.arange(place.start, place.stop), identity[:, place].softmax(1))
        return read, scene


def prompt_error(read: Tensor, asked: Tensor) -> Tensor:
    """Mean squared difference of scene numbers, each word of the prompt counting the same.

    Args:
        read: Scene numbers read from pictures, (..., 9) for avatars, (..., 7) for products.
        asked: What the prompts asked for.

    Returns:
        Shape (...).
    """
    squared = (read - asked).square()
    groups = [squared[..., place].mean(-1) for place in SCENE_GROUPS.values() if place.stop <= read.shape[-1]]
    return torch.stack(groups).mean(0)


@dataclass(frozen=True)
class Scores:
    """Mean errors of a set of pictures."""

    identity: float
    prompt: float


@torch.no_grad()
def score(reader: FactorReader, pictures: Tensor, truth: Tensor, scenes: Sequence[Scene]) -> Scores:
    """Compare pictures with the identity they should show and the scenes that were asked for.

    Args:
        reader: The domain's scorer.
        pictures: (B, 3, 128, 128) in [0, 1].
        truth: Identity vector (vector_size,) or one for each picture.
        scenes: B scenes.
    """
    identity, found = reader(pictures.clamp(0, 1))
    asked = torch.stack([scene_truth(scene, reader.domain) for scene in scenes])
    errors = identity_error(identity, truth, reader.domain), prompt_error(found, asked)
    return Scores(*(float(error.mean()) for error in errors))


def error_floor(reader: FactorReader, subjects: Sequence[Subject], scenes: Sequence[Scene]) -> Scores:
    """The scorer's own error on true photos of the subjects; no picture can be expected to score lower."""
    truth = torch.stack([subject.vector for subject in subjects])
    return score(reader, render(subjects, scenes), truth, scenes)
