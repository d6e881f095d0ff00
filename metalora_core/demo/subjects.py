"""The demonstration's subjects: a test subject of the pocket world, or the user's own photos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..photos.reading import load_training_set
from ..photos.training_set import TrainingSet, is_one_sided
from ..pocket import load_pocket_prior
from ..pocket.readers import Readers, Scores
from ..pocket.world.factors import Domain, draw_subject
from ..pocket.world.render import PICTURE_SIZE, render
from ..pocket.world.scenes import BACKGROUNDS, EXPRESSIONS, Scene, draw_scenes

TRIGGER = "ohwx"
# Photos and prompts are drawn from seeds of their own, so that no prompt repeats a photo's small changes.
_PHOTO_SEED = 31_000_000
_PROMPT_SEED = 32_000_000
_DRAWS_PER_PROMPT = 60


@dataclass(frozen=True)
class DemoSubject:
    """A subject to learn, what to ask for, and how to score the pictures.

    Attributes:
        domain: Whose prior is used.
        training_set: The reference photos.
        scenes: What each prompt asks for.
        truth: The subject in those scenes (scenes, 3, H, W), or None where only the photos are known.
        score: Pictures of the scenes (scenes, 3, H, W) to errors.
    """

    domain: Domain
    training_set: TrainingSet
    scenes: tuple[Scene, ...]
    truth: Tensor | None
    score: Callable[[Tensor], Scores]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Prompts with the subject's trigger."""
        return self.captions(TRIGGER)

    def captions(self, trigger: str) -> tuple[str, ...]:
        """The prompts with another trigger, or with none for the base model, which does not know it."""
        return tuple(scene.caption(self.domain, self.training_set.class_word, trigger) for scene in self.scenes)


def pocket_subject(
    domain: Domain, index: int, photos: int, prompts: int, readers: Readers, split: str = "test"
) -> DemoSubject:
    """A subject of the pocket world with as many photos as asked for.

    Args:
        domain: "avatars" or "products".
        index: Its number in the split.
        photos: Reference photos.
        prompts: Scenes to ask for.
        readers: Score the answers.
        split: "test" for subjects that nothing was trained or tuned on, "validation" for tuning.
    """
    subject = draw_subject(domain, "test" if split == "test" else "validation", index)
    shown = draw_scenes(domain, photos, _PHOTO_SEED + index)
    asked = other_scenes(domain, shown, prompts, _PROMPT_SEED + index)
    pictures = render([subject] * photos, shown)
    training_set = TrainingSet(
        images=tuple(pictures),
        captions=tuple(scene.caption(domain, subject.class_word, TRIGGER) for scene in shown),
        class_word=subject.class_word,
        trigger=TRIGGER,
        photo_hashes=tuple(hashlib.sha256(picture.numpy().tobytes()).hexdigest() for picture in pictures),
        one_sided=is_one_sided(subject.class_word),
    )
    return DemoSubject(
        domain=domain,
        training_set=training_set,
        scenes=asked,
        truth=render([subject] * len(asked), asked),
        score=lambda answers: readers.score(answers, domain, subject.vector, asked),
    )


def own_subject(
    photos: Path, class_word: str, prompts: int, readers: Readers, on_note: Callable[[str], None] | None = None
) -> DemoSubject:
    """A user's own subject; the mean of what the scorers read in its photos stands in for the truth.

    Args:
        photos: Folder of photos.
        class_word: What it is; "person" belongs to the avatars, every other word to the products.
        prompts: Scenes to ask for.
        readers: Read the photos and score the answers.
        on_note: Gets one line for each thing that could be better about the photos.

    Raises:
        UnusableReferences: If the folder holds no usable photo.
    """
    domain: Domain = "avatars" if class_word == "person" else "products"
    prior = load_pocket_prior(domain)
    training_set = load_training_set([photos], class_word, TRIGGER, PICTURE_SIZE, on_note, prior)
    vector = readers.read_identity(torch.stack(training_set.images), domain).mean(dim=0)
    scenes = other_scenes(domain, (), prompts, _PROMPT_SEED)
    return DemoSubject(
        domain, training_set, scenes, None, lambda answers: readers.score(answers, domain, vector, scenes)
    )


def other_scenes(domain: Domain, shown: Sequence[Scene], count: int, seed: int) -> tuple[Scene, ...]:
    """Choose scenes that the photos do not show: another background, expression and pose.

    Where the photos leave no other expression or pose, any will do. Backgrounds change from scene to scene.
    """
    backgrounds = _unless_all({scene.background for scene in shown}, len(BACKGROUNDS))
    faces = len(EXPRESSIONS) if domain == "avatars" else 1
    expressions = _unless_all({scene.expression for scene in shown}, faces)
    poses = {(scene.turn, scene.tilt) for scene in shown}
    chosen: list[Scene] = []
    drawn = draw_scenes(domain, _DRAWS_PER_PROMPT * count, seed)
    for scene in drawn:
        recent = {other.background for other in chosen[-3:]}
        new = scene.background not in backgrounds | recent and scene.expression not in expressions
        if new and (scene.turn, scene.tilt) not in poses and len(chosen) < count:
            chosen.append(scene)
    return tuple([*chosen, *drawn][:count])


def _unless_all(seen: set[str], all_there_are: int) -> set[str]:
    return seen if len(seen) < all_there_are else set[str]()
