"""The benchmark's subjects: subjects of the pocket world with reference photos, prompts and known truth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...photos.training_set import TrainingSet, is_one_sided
from ...pocket.readers import FactorReader, prompt_error
from ...pocket.world.factors import Domain, Split, Subject, draw_subject, identity_error
from ...pocket.world.render import PICTURE_SIZE, render
from ...pocket.world.scenes import Scene, draw_scenes, scene_truth
from ..conditions import CLEAN, Condition
from ..plan import MOST_PHOTOS, first_index
from .scores import PictureScores, copying, diversity

__all__ = [
    "MOST_PHOTOS",
    "TRIGGER",
    "BenchSubject",
    "chosen_scenes",
    "first_index",
    "pocket_subject",
    "reference_words",
]

TRIGGER = "ohwx"
_DRAWS_PER_PROMPT = 40


@dataclass(frozen=True, eq=False)
class BenchSubject:
    """One subject to learn.

    Args:
        subject: Who it is.
        photo_scenes: Scenes of the reference photos.
        photos: Reference photos (photos, 3, H, W); the first n are those of a run with n photos.
        asked: What the prompts ask for; pose, light and background differ from the first photo's.
        truth: True photos of the asked scenes, (prompts, 3, H, W).
    """

    subject: Subject
    photo_scenes: tuple[Scene, ...]
    photos: Tensor
    asked: tuple[Scene, ...]
    truth: Tensor

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts with the subject's trigger."""
        return tuple(s.caption(self.subject.domain, self.subject.class_word, TRIGGER) for s in self.asked)

    def training_set(self, photos: int) -> TrainingSet:
        """The first photos with their captions."""
        captions = [s.caption(self.subject.domain, self.subject.class_word, TRIGGER) for s in self.photo_scenes]
        word = self.subject.class_word
        return TrainingSet(
            tuple(self.photos[:photos]), tuple(captions[:photos]), word, TRIGGER, one_sided=is_one_sided(word)
        )

    def score(self, pictures: Tensor, photos: int, reader: FactorReader) -> PictureScores:
        """Score one picture per prompt, (prompts, 3, H, W), of a run with that many photos."""
        domain = self.subject.domain
        asked = torch.stack([scene_truth(scene, domain) for scene in self.asked])
        shown = torch.stack([scene_truth(scene, domain) for scene in self.photo_scenes[:photos]])
        who, what = _read(reader, pictures)
        floors = _floors(self, reader)
        return PictureScores(
            identity_error=float(identity_error(who, self.subject.vector, domain).mean()) - floors[0],
            prompt_error=float(prompt_error(what, asked).mean()) - floors[1],
            copying=copying(what, asked, shown, domain),
            diversity=diversity(pictures, self.truth),
            identity_floor=floors[0],
            prompt_floor=floors[1],
        )


@torch.no_grad()
def _read(reader: FactorReader, pictures: Tensor) -> tuple[Tensor, Tensor]:
    return reader(pictures.clamp(0, 1))


@lru_cache(maxsize=160)
def _floors(subject: BenchSubject, reader: FactorReader) -> tuple[float, float]:
    """Identity and prompt error of the true photos of the asked scenes."""
    who, what = _read(reader, subject.truth)
    asked = torch.stack([scene_truth(scene, subject.subject.domain) for scene in subject.asked])
    identity = identity_error(who, subject.subject.vector, subject.subject.domain)
    return float(identity.mean()), float(prompt_error(what, asked).mean())


@lru_cache(maxsize=160)
def pocket_subject(
    domain: Domain, split: Split, index: int, prompts: int, photos: int = MOST_PHOTOS, condition: Condition = CLEAN
) -> BenchSubject:
    """Render a subject of the pocket world with everything that its runs need.

    Args:
        domain: "avatars" or "products".
        split: "test", or "validation" for tuning.
        index: Its number in the split.
        prompts: Scenes to ask for.
        photos: How many of its photos are taken; fewer change nothing about them.
        condition: What is done to its photos, and which of them comes first.
    """
    subject = draw_subject(domain, split, index)
    shown, asked = chosen_scenes(subject, prompts, condition.first_photo)
    shown = shown[:photos]
    pictures = render([subject] * (photos + prompts), [*shown, *asked], PICTURE_SIZE)
    return BenchSubject(
        subject, shown, condition.spoil(pictures[:photos], _seed("spoil", subject)), asked, pictures[photos:]
    )


def chosen_scenes(subject: Subject, prompts: int, first_photo: int = 0) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Scenes of a subject's photos and of its prompts; the prompts ask for what the first photo does not show."""
    drawn = draw_scenes(subject.domain, MOST_PHOTOS, _seed("photos", subject))
    shown = tuple(drawn[first_photo:] + drawn[:first_photo])
    return shown, _other_scenes(subject.domain, shown[0], prompts, _seed("prompts", subject))


def _seed(purpose: str, subject: Subject) -> int:
    text = f"benchmark {purpose} {subject.domain} {subject.seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _other_scenes(domain: Domain, shown: Scene, count: int, seed: int) -> tuple[Scene, ...]:
    """Scenes in which everything differs from one photo, with changing backgrounds."""
    chosen: list[Scene] = []
    for scene in draw_scenes(domain, _DRAWS_PER_PROMPT * count, seed):
        same = [
            (scene.turn, scene.tilt) == (shown.turn, shown.tilt),
            scene.light == shown.light,
            scene.background in {shown.background, *(other.background for other in chosen[-4:])},
            domain == "avatars" and scene.expression == shown.expression,
        ]
        if not any(same):
            chosen.append(scene)
    return tuple(chosen[:count])


def reference_words(shown: Sequence[Scene]) -> str:
    """What the first photo shows, for tables by angle, expression and light: "left|level|above|blue|smiling"."""
    first = shown[0]
    return "|".join((first.turn, first.tilt, first.light, first.background, first.expression))
