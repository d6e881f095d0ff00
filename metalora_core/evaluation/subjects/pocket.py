"""Subjects of the pocket world: reference photos, prompts and known truth, for the benchmark and the demonstration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ...photos.reading import load_training_set
from ...photos.training_set import TrainingSet, is_one_sided
from ...pocket.readers import FactorReader, prompt_error
from ...pocket.world.factors import Domain, Split, Subject, draw_subject, identity_error
from ...pocket.world.render import PICTURE_SIZE, render
from ...pocket.world.scenes import BACKGROUNDS, EXPRESSIONS, LIGHTS, Scene, draw_scenes, scene_truth
from ..conditions import CLEAN, CONDITIONS, Condition
from ..plan import MOST_PHOTOS
from .scores import PictureScores, copy_angle, copying, diversity
from .world import TRIGGER, LearnedSubject

if TYPE_CHECKING:
    from ...files.prior import Prior
    from ...model.host import Host
    from ..plan import BenchPlan

__all__ = ["Bench", "chosen_scenes", "demo_subject", "other_scenes", "own_subject", "pocket_subject"]

_DRAWS_PER_PROMPT = 60
# The demonstration's photos and prompts have seeds of their own, so that no prompt repeats a photo's small changes.
_ELSEWHERE: Mapping[Domain, str] = {"avatars": "person", "products": "mug"}
_DEMO_PHOTOS, _DEMO_PROMPTS = 31_000_000, 32_000_000


@dataclass(frozen=True)
class Bench:
    """The pocket world as a `World`.

    Args:
        host: The base model.
        priors: Of each domain.
        readers: Score the pictures of each domain.
    """

    host: Host
    priors: Mapping[str, Prior]
    readers: Mapping[Domain, FactorReader]

    def subjects(
        self, plan: BenchPlan, domain: str, numbers: Sequence[int], condition: str
    ) -> Sequence[LearnedSubject]:
        """The subjects of these numbers of the plan's split."""
        own, split = cast("Domain", domain), cast("Split", plan.split)
        most, where = plan.most_photos, CONDITIONS[condition]
        return [pocket_subject(own, split, n, plan.prompts, self.readers[own], most, where) for n in numbers]


@lru_cache(maxsize=160)
def pocket_subject(
    domain: Domain,
    split: Split,
    index: int,
    prompts: int,
    reader: FactorReader,
    photos: int = MOST_PHOTOS,
    condition: Condition = CLEAN,
) -> LearnedSubject:
    """A subject of the benchmark.

    Args:
        domain: "avatars" or "products".
        split: "test", or "validation" for tuning.
        index: Its number in the split.
        prompts: Scenes to ask for.
        reader: Scores the pictures.
        photos: How many of its photos to use; the first ones are the same for any number.
        condition: What is done to its photos, and which of them comes first.
    """
    subject = draw_subject(domain, split, index)
    shown, asked = chosen_scenes(subject, prompts, condition.first_photo)
    return _rendered(subject, shown[:photos], asked, reader, condition)


def demo_subject(
    domain: Domain, index: int, photos: int, prompts: int, readers: Mapping[Domain, FactorReader]
) -> LearnedSubject:
    """A test subject of the demonstration, which no training or tuning has seen."""
    shown = tuple(draw_scenes(domain, photos, _DEMO_PHOTOS + index))
    asked = other_scenes(domain, shown, prompts, _DEMO_PROMPTS + index, apart=3, same_light=True)
    return _rendered(draw_subject(domain, "test", index), shown, asked, readers[domain])


def own_subject(
    photos: Path,
    class_word: str,
    prompts: int,
    readers: Mapping[Domain, FactorReader],
    on_note: Callable[[str], None] | None = None,
) -> LearnedSubject:
    """A user's own subject; the mean of what the scorer reads in its photos stands in for the truth.

    Args:
        photos: Folder of photos.
        class_word: What it is; "person" belongs to the avatars, every other word to the products.
        prompts: Scenes to ask for.
        readers: Read the photos and score the pictures.
        on_note: Called with what could be better about the photos.

    Raises:
        UnusableReferences: If the folder holds no usable photo.
    """
    from ...pocket.load import load_pocket_prior

    domain: Domain = "avatars" if class_word.lower() == "person" else "products"
    own = load_training_set([photos], class_word, TRIGGER, PICTURE_SIZE, on_note, load_pocket_prior(domain))
    who, shown = _read(readers[domain], torch.stack(own.images))
    asked = other_scenes(domain, (), prompts, _DEMO_PROMPTS)
    nothing, scenes = torch.empty(0, 3, 1, 1), _numbers(asked, domain)
    score = _Scorer(readers[domain], who.mean(dim=0), shown, scenes, nothing, own.images[0])
    return _subject(domain, 0, own, asked, "", score)


def _rendered(
    subject: Subject, shown: Sequence[Scene], asked: Sequence[Scene], reader: FactorReader, condition: Condition = CLEAN
) -> LearnedSubject:
    domain, word = subject.domain, subject.class_word
    pictures = render([subject] * (len(shown) + len(asked)), [*shown, *asked], PICTURE_SIZE)
    photos = condition.spoil(pictures[: len(shown)], _seed("spoil", subject))
    training_set = TrainingSet(
        images=tuple(photos),
        captions=tuple(scene.caption(domain, word, TRIGGER) for scene in shown),
        class_word=word,
        trigger=TRIGGER,
        photo_hashes=tuple(hashlib.sha256(photo.numpy().tobytes()).hexdigest() for photo in photos),
        one_sided=is_one_sided(word),
    )
    scenes = _numbers(shown, domain), _numbers(asked, domain)
    scorer = _Scorer(reader, subject.vector, *scenes, pictures[len(shown) :], photos[0])
    first = shown[0]
    words = "|".join((first.turn, first.tilt, first.light, first.background, first.expression))
    return _subject(domain, subject.seed, training_set, asked, words, scorer)


def _subject(
    domain: Domain, number: int, photos: TrainingSet, asked: Sequence[Scene], words: str, scorer: _Scorer
) -> LearnedSubject:
    prompts = tuple(scene.caption(domain, photos.class_word, TRIGGER) for scene in asked)
    short = tuple(scene.words(domain) for scene in asked)
    # Somebody else of its class, and something of the other domain, in scenes that its own pictures show too.
    other: Domain = "products" if domain == "avatars" else "avatars"
    strangers = (asked[0].caption(domain, photos.class_word), asked[-1].caption(other, _ELSEWHERE[other]))
    return LearnedSubject(domain, number, photos, prompts, short, words, scorer.truth, strangers, scorer)


@dataclass(frozen=True, eq=False)
class _Scorer:
    """Scores pictures of one subject by what a scorer reads in them.

    Args:
        reader: Of the subject's domain.
        who: Its identity vector.
        shown: Scene numbers of the reference photos, (photos, 9 or 7).
        asked: Of the prompts, (prompts, 9 or 7).
        truth: True photos of the requested scenes; none if there are none.
        photo: The first reference photo, (3, H, W).
    """

    reader: FactorReader
    who: Tensor
    shown: Tensor
    asked: Tensor
    truth: Tensor
    photo: Tensor

    def __call__(self, pictures: Tensor, photos: int) -> PictureScores:
        """Score one picture per prompt, (prompts, 3, H, W), of a run with that many photos."""
        (identity, prompt, seen), (identity_floor, prompt_floor, photo) = self._errors(pictures), self._floors
        has_truth = len(self.truth) > 0
        return PictureScores(
            identity_error=identity - identity_floor,
            prompt_error=prompt - prompt_floor,
            copying=copying(seen, self.asked, self.shown[:photos], self.reader.domain),
            diversity=diversity(pictures, self.truth) if has_truth else float("nan"),
            identity_floor=identity_floor,
            prompt_floor=prompt_floor,
            photo_prompt_error=photo - prompt_floor,
            copy_angle=self._copy_angle(pictures) if has_truth else float("nan"),
        )

    def _errors(self, pictures: Tensor) -> tuple[float, float, Tensor]:
        who, what = _read(self.reader, pictures)
        identity = identity_error(who, self.who, self.reader.domain)
        return float(identity.mean()), float(prompt_error(what, self.asked).mean()), what

    @cached_property
    def _floors(self) -> tuple[float, float, float]:
        """The scorer's own errors on the true photos, and the prompt error of the first reference photo."""
        photo = float(prompt_error(_read(self.reader, self.photo[None])[1], self.asked).mean())
        return (*self._errors(self.truth)[:2], photo) if len(self.truth) else (0.0, 0.0, photo)

    @torch.no_grad()
    def _copy_angle(self, pictures: Tensor) -> float:
        drawn, truth, photo = (self.reader.embedding(p.clamp(0, 1)) for p in (pictures, self.truth, self.photo[None]))
        return copy_angle(drawn, truth[:, None], photo[0])


@torch.no_grad()
def _read(reader: FactorReader, pictures: Tensor) -> tuple[Tensor, Tensor]:
    return reader(pictures.clamp(0, 1))


def _numbers(scenes: Sequence[Scene], domain: Domain) -> Tensor:
    return torch.stack([scene_truth(scene, domain) for scene in scenes])


def chosen_scenes(subject: Subject, prompts: int, first_photo: int = 0) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """Scenes of a benchmark subject's photos and of its prompts, which ask for what the first photo does not show."""
    drawn = draw_scenes(subject.domain, MOST_PHOTOS, _seed("photos", subject))
    shown = tuple(drawn[first_photo:] + drawn[:first_photo])
    return shown, other_scenes(subject.domain, shown[:1], prompts, _seed("prompts", subject))


def _seed(purpose: str, subject: Subject) -> int:
    text = f"benchmark {purpose} {subject.domain} {subject.seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def other_scenes(
    domain: Domain, shown: Sequence[Scene], count: int, seed: int, *, apart: int = 4, same_light: bool = False
) -> tuple[Scene, ...]:
    """Choose scenes that the photos do not show: another pose, light, expression and background.

    Where the photos leave no other background, expression or light, any will do.

    Args:
        domain: Whose scenes.
        shown: Scenes of the photos.
        count: How many.
        seed: Of the draws.
        apart: So many scenes before one have other backgrounds than it.
        same_light: The photos' light will do too.
    """
    backgrounds = _unless_all({scene.background for scene in shown}, len(BACKGROUNDS))
    expressions = _unless_all({scene.expression for scene in shown}, len(EXPRESSIONS) if domain == "avatars" else 1)
    lights = set[str]() if same_light else _unless_all({scene.light for scene in shown}, len(LIGHTS))
    poses = {(scene.turn, scene.tilt) for scene in shown}
    chosen: list[Scene] = []
    drawn = draw_scenes(domain, _DRAWS_PER_PROMPT * count, seed)
    for scene in drawn:
        recent = {other.background for other in chosen[-apart:]}
        new = scene.background not in backgrounds | recent and scene.expression not in expressions
        if new and scene.light not in lights and (scene.turn, scene.tilt) not in poses:
            chosen.append(scene)
    return tuple([*chosen, *drawn][:count])


def _unless_all(seen: set[str], all_there_are: int) -> set[str]:
    return seen if len(seen) < all_there_are else set[str]()
