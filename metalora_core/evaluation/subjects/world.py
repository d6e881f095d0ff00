"""Where a benchmark's subjects come from and how their pictures are scored: the pocket world, or folders of photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from torch import Tensor

from ...photos.training_set import TrainingSet
from ..conditions import CONDITIONS
from .pocket import BenchSubject, pocket_subject, reference_words
from .scores import PictureScores

if TYPE_CHECKING:
    from ...files.prior import Prior
    from ...model.host import Host
    from ...pocket.readers import FactorReader, Readers
    from ...pocket.world.factors import Domain, Split
    from ..plan import BenchPlan

__all__ = ["Bench", "LearnedSubject", "World"]


@dataclass(frozen=True, eq=False)
class LearnedSubject:
    """One subject of a benchmark.

    Args:
        number: In rows; seeds its random choices.
        photos: Reference photos; a run with n photos learns from the first n.
        prompts: The prompts to sample, with its trigger.
        asked: The prompts in short, for people.
        words: What the first photo shows, see `reference_words`; empty if unknown.
        truth: True photos that nothing was learned from, (…, 3, H, W): of the asked scenes, where they exist.
        score: From one picture a prompt, (prompts, 3, H, W), and the number of photos learned from, to scores.
    """

    number: int
    photos: TrainingSet
    prompts: tuple[str, ...]
    asked: tuple[str, ...]
    words: str
    truth: Tensor
    score: Callable[[Tensor, int], PictureScores]

    @property
    def size_px(self) -> int:
        """Width and height of its photos."""
        return self.photos.images[0].shape[-1]


class World(Protocol):
    """What a benchmark is run on."""

    @property
    def host(self) -> Host:
        """The base model."""
        ...

    @property
    def priors(self) -> Mapping[str, Prior]:
        """Of each domain."""
        ...

    def subjects(
        self, plan: BenchPlan, domain: str, numbers: Sequence[int], condition: str
    ) -> Sequence[LearnedSubject]:
        """The subjects of these numbers under a condition."""
        ...


@dataclass(frozen=True)
class Bench:
    """The pocket world.

    Args:
        host: The base model.
        priors: Of each domain.
        readers: Score the pictures.
    """

    host: Host
    priors: Mapping[str, Prior]
    readers: Readers

    def subjects(
        self, plan: BenchPlan, domain: str, numbers: Sequence[int], condition: str
    ) -> Sequence[LearnedSubject]:
        """The subjects of these numbers of the plan's split."""
        own, split = cast("Domain", domain), cast("Split", plan.split)
        most, where = plan.most_photos, CONDITIONS[condition]
        found = [pocket_subject(own, split, number, plan.prompts, most, where) for number in numbers]
        return [_learned(subject, most, self.readers.by_domain[own]) for subject in found]


def _learned(subject: BenchSubject, photos: int, reader: FactorReader) -> LearnedSubject:
    domain = subject.subject.domain
    return LearnedSubject(
        subject.subject.seed,
        subject.training_set(photos),
        subject.prompts,
        tuple(scene.words(domain) for scene in subject.asked),
        reference_words(subject.photo_scenes),
        subject.truth,
        partial(subject.score, reader=reader),
    )
