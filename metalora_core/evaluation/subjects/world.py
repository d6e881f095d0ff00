"""A subject to learn, and where a benchmark's subjects come from: the pocket world, or folders of photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ...photos.training_set import TrainingSet
from .scores import PictureScores

if TYPE_CHECKING:
    from ...files.prior import Prior
    from ...model.host import Host
    from ..plan import BenchPlan

__all__ = ["TRIGGER", "LearnedSubject", "World"]

TRIGGER = "ohwx"


@dataclass(frozen=True, eq=False)
class LearnedSubject:
    """One subject of the benchmark or the demonstration.

    Args:
        domain: Of the prior that is used.
        number: In rows; its random numbers depend on it.
        photos: Reference photos; a run with n photos learns from the first n.
        prompts: With its trigger.
        asked: The prompts in short, for people.
        words: What the first photo shows, for tables: "left|level|above|blue|smiling"; empty if unknown.
        truth: Held-out true photos, (photos, 3, H, W): of the requested scenes, where they exist; none if only the
            reference photos are known.
        others: Prompts that do not ask for the subject, whose pictures should stay what the base model draws.
        score: From one picture a prompt, (prompts, 3, H, W), and the number of photos learned from, to scores.
    """

    domain: str
    number: int
    photos: TrainingSet
    prompts: tuple[str, ...]
    asked: tuple[str, ...]
    words: str
    truth: Tensor
    others: tuple[str, ...]
    score: Callable[[Tensor, int], PictureScores]

    @property
    def size_px(self) -> int:
        """Width and height of its photos."""
        return self.photos.images[0].shape[-1]

    @property
    def nameless(self) -> tuple[str, ...]:
        """The prompts without the trigger, for a base model, which does not know it."""
        return tuple(prompt.replace(f"{TRIGGER} ", "") for prompt in self.prompts)


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
