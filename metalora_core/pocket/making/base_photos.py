"""What the base model is trained on: latents and captions, how often each is used, and which places in it matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...hosts.flux import pack
from ...photos.training_set import is_one_sided
from ..autoencoder import decode
from ..load import load_autoencoder
from ..world.factors import DOMAINS, SPLIT_BASE, Subject, draw_subjects, slices
from ..world.render import render
from ..world.scenes import EXPRESSIONS, Scene, draw_scenes
from .dataset import PhotoPlan
from .latents_cache import encoded_photos, patch_map


@dataclass(frozen=True)
class TrainingPhotos:
    """What the base model is trained on, photo by photo.

    Attributes:
        latents: (N, 16, 16, 16), unit variance; a half-precision store is fine.
        captions: N captions.
        looks: N lists of phrases that describe the photo's subject; they may be empty.
        gains: How much each latent channel moves the picture, (16,); None for all alike.
        focus: How much of what matters a photo shows in each of its tokens, 0 to 1, (N, 64); None for all alike.
        products: Whether a photo shows a product, (N,); None to use all photos equally often.
    """

    latents: Tensor
    captions: Sequence[str]
    looks: Sequence[Sequence[str]]
    gains: Tensor | None = None
    focus: Tensor | None = None
    products: Tensor | None = None

    def __post_init__(self) -> None:
        counts = (len(self.latents), len(self.captions), len(self.looks))
        if len(set(counts)) > 1:
            raise ValueError(f"Found {counts} latents, captions and lists of looks; give one of each a photo.")
        for name, rows in (("focus", self.focus), ("products", self.products)):
            if rows is not None and len(rows) != len(self.latents):
                raise ValueError(f"Found {len(rows)} rows of {name} for {len(self.latents)} photos; give one each.")

    def draw(self, count: int, product_share: float, generator: torch.Generator) -> Tensor:
        """Photos of a batch, (count,), with the requested share of products; with replacement."""
        if self.products is None:
            return torch.randint(len(self.latents), (count,), generator=generator)
        odds = torch.where(
            self.products, product_share / self.products.sum(), (1 - product_share) / (~self.products).sum()
        )
        return torch.multinomial(odds, count, replacement=True, generator=generator)


@torch.no_grad()
def channel_gains(autoencoder: Any, latents: Tensor) -> Tensor:
    """Mean squared change of the decoded pictures for a small change of each latent channel, (C,)."""
    generator = torch.Generator().manual_seed(0)
    pictures, gains = decode(autoencoder, latents), list[Tensor]()
    for channel in range(latents.shape[1]):
        moved = latents.clone()
        moved[:, channel] += 0.3 * torch.randn(moved[:, channel].shape, generator=generator)
        gains.append((decode(autoencoder, moved) - pictures).square().mean())
    return torch.stack(gains)


@torch.no_grad()
def face_places(autoencoder: Any, gains: Tensor, subjects: int = 48) -> Tensor:
    """Where an avatar's expression and eyes show, (64,): the change of each token with them, 1 where it is largest.

    Args:
        autoencoder: The pocket autoencoder.
        gains: How much each latent channel moves the picture, (16,).
        subjects: Training subjects that are photographed in one scene each, with every expression and with the eyes of
            others.
    """
    weight, bias = patch_map(autoencoder)
    who = draw_subjects("avatars", "train", subjects)
    scenes = draw_scenes("avatars", subjects, SPLIT_BASE["train"] + 78)

    def change(shown: Sequence[tuple[list[Subject], list[Scene]]]) -> Tensor:
        photos = [pack(torch.nn.functional.conv2d(render(*each), weight, bias, stride=8)) for each in shown]
        seen = (torch.stack(photos).var(0) * gains.repeat_interleave(4)).sum(-1).mean(0)
        seen = (seen + seen.view(8, 8).flip(-1).flatten()) / 2
        return (seen / seen.max()).sqrt()

    by_expression = [(who, [replace(scene, expression=expression) for scene in scenes]) for expression in EXPRESSIONS]
    others = [who[i:] + who[:i] for i in range(len(EXPRESSIONS))]
    by_eyes = [([_with_eyes_of(one, other) for one, other in zip(who, each, strict=True)], scenes) for each in others]
    return torch.maximum(change(by_expression), change(by_eyes))


def _with_eyes_of(subject: Subject, other: Subject) -> Subject:
    vector = subject.vector.clone()
    for name in ("iris", "eye_spacing", "eye_size", "glasses"):
        place = slices(subject.domain)[name]
        vector[place] = other.vector[place]
    return replace(subject, vector=vector)


def training_photos(folder: Path) -> TrainingPhotos:
    """All training photos and their mirror images; a mirrored mug would have its handle elsewhere and is left out."""
    autoencoder = load_autoencoder()
    latents, captions, phrases = list[Tensor](), list[str](), list[list[str]]()
    for plan in map(PhotoPlan, DOMAINS):
        words = [subject.class_word for subject in plan.drawn_subjects() for _ in range(plan.photos)]
        looked = plan.looks()
        for mirrored in (False, True):
            kept = [i for i, word in enumerate(words) if not (mirrored and is_one_sided(word))]
            told = plan.captions(mirrored=mirrored)
            latents.append(encoded_photos(plan, folder, autoencoder, mirrored=mirrored)[torch.tensor(kept)])
            captions += [told[i] for i in kept]
            phrases += [looked[i] for i in kept]
    joined = torch.cat(latents)
    gains = channel_gains(autoencoder, joined[:: len(joined) // 32].float())
    products = torch.arange(len(joined)) >= len(latents[0]) + len(latents[1])
    focus = torch.where(products[:, None], 0.0, face_places(autoencoder, gains))
    return TrainingPhotos(joined, captions, phrases, gains, focus, products)
