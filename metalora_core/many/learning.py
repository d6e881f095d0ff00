"""Learn many subjects with one base model in memory, several of them in each pass.

Subjects with the same prior and settings wait for each other until enough of them are there. A group that fails is
halved, so that one subject too many or one that diverges costs the others time only; alone, a subject is learned by
`adapt`, with everything that `adapt` does to finish. Side by side a subject ends where it would end alone, up to
rounding: after the pocket model's 50 steps ΔW differs by a part in a million.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..adaptation import adapt
from ..errors import MetaLoRAError, TrainingCancelled
from ..evaluation.methods.cohort import train_cohort
from ..files.checkpoint import forget_checkpoint
from ..files.prior import Prior, prior_sha256, targets_of_prior
from ..model.base_weights import SAMPLE, report_other_weights
from ..model.host import Host
from ..photos.training_set import TrainingSet
from ..training.adaptation_options import AdaptationOptions, AdaptationResult, settings_text
from ..training.adaptation_state import LearnedRecord, learned_identity
from ..training.loss_course import has_risen
from ..training.progress import AdaptationProgress
from ..training.retries import StepPlan, first_line, free_memory
from ..training.starts import start_of_prior

__all__ = ["Learned", "ReadySubject", "adapt_side_by_side", "learn_many"]

_LOG = logging.getLogger(__name__)
_BY_NUMBER = frozenset({"adamw", "adam", "sgd", "schedulefree_adamw"})
"""Optimizers that look at each number alone; with any other, subjects side by side would change each other."""


@dataclass(frozen=True, eq=False)
class ReadySubject:
    """A subject that can be learned now.

    Args:
        name: Unique among all.
        photos: Its photos.
        prior: What it is learned from.
        options: Settings.
        validation: Held-out photos; a subject that has them is learned alone.
        checkpoint: Where a subject that is learned alone keeps its state; None for nowhere.
    """

    name: str
    photos: TrainingSet
    prior: Prior
    options: AdaptationOptions
    validation: TrainingSet | None = None
    checkpoint: Path | None = None

    @property
    def fits(self) -> bool:
        """Whether other subjects may be learned in the same pass."""
        return self.validation is None and not self.options.hold_out and self.options.optimizer in _BY_NUMBER

    @property
    def kind(self) -> str:
        """The same for subjects that may be learned in one pass."""
        sizes = sorted({tuple(image.shape) for image in self.photos.images})
        return f"{prior_sha256(self.prior)} {settings_text(self.options)} {sizes}"


@dataclass(frozen=True, eq=False)
class Learned:
    """How it went.

    Args:
        subject: Who was learned.
        result: The identity, or None if it failed.
        failure: Why it failed; else empty.
        together: How many were learned in the same pass.
    """

    subject: ReadySubject
    result: AdaptationResult | None
    failure: str = ""
    together: int = 1


@dataclass
class _Run:
    host: Host
    finished: Callable[[Learned], None]
    on_look: Callable[[float], None] | None

    def learn(self, group: Sequence[ReadySubject]) -> None:
        if len(group) == 1:
            self._alone(group[0])
            return
        try:
            results = adapt_side_by_side(
                self.host,
                group[0].prior,
                [one.photos for one in group],
                group[0].options,
                on_progress=lambda progress: self._told(progress.loss),
            )
        except Exception as error:  # whose fault it is shows when they are fewer
            if isinstance(error, TrainingCancelled):
                raise
            _LOG.info("%d subjects could not be learned side by side (%s).", len(group), first_line(error))
            results = None
        if results is None:
            # Outside of the handler: its frames hold the memory of the failed step.
            free_memory(self.host.device)
            self.learn(group[: len(group) // 2])
            self.learn(group[len(group) // 2 :])
            return
        for subject, result in zip(group, results, strict=True):
            # A loss that rises makes `adapt` keep what it had before, which only a run of its own has.
            if has_risen(result.losses):
                self._alone(subject)
            else:
                self.finished(Learned(subject, result, together=len(group)))

    def _alone(self, subject: ReadySubject) -> None:
        try:
            result = adapt(
                self.host,
                subject.prior,
                subject.photos,
                subject.options,
                on_progress=lambda progress: self._told(progress.loss),
                checkpoint=subject.checkpoint,
                validation=subject.validation,
            )
        except Exception as error:  # the others are learned all the same
            if isinstance(error, TrainingCancelled):
                raise
            text = str(error) if isinstance(error, MetaLoRAError) else f"{type(error).__name__}: {first_line(error)}"
            self.finished(Learned(subject, None, text))
            return
        self.finished(Learned(subject, result))
        if subject.checkpoint is not None:
            forget_checkpoint(subject.checkpoint)

    def _told(self, loss: float) -> None:
        if self.on_look is not None:
            self.on_look(loss)


def learn_many(
    host: Host,
    subjects: Iterable[ReadySubject],
    side_by_side: int,
    *,
    finished: Callable[[Learned], None],
    on_look: Callable[[float], None] | None = None,
) -> None:
    """Learn every subject; one that fails stops no other.

    Args:
        host: The base model; it is left unchanged.
        subjects: Read one after the other, so that the photos of a few are in memory.
        side_by_side: Most subjects in one pass; 1 learns each alone.
        finished: Called with each subject as soon as it is learned or has failed; what it raises ends the run.
        on_look: Called with the latest loss at every look; it may raise ``TrainingCancelled``.

    Raises:
        TrainingCancelled: From ``on_look``; a subject that is learned alone has a checkpoint, a group starts over.
    """
    run, waiting = _Run(host, finished, on_look), dict[str, list[ReadySubject]]()
    for subject in subjects:
        if not subject.fits or side_by_side < 2:
            run.learn([subject])
            continue
        group = waiting.setdefault(subject.kind, [])
        group.append(subject)
        if len(group) == side_by_side:
            run.learn(waiting.pop(subject.kind))
    for group in waiting.values():
        run.learn(group)


def adapt_side_by_side(
    host: Host,
    prior: Prior,
    photos: Sequence[TrainingSet],
    options: AdaptationOptions,
    *,
    on_progress: Callable[[AdaptationProgress], None] | None = None,
) -> list[AdaptationResult]:
    """Learn several subjects in one pass, each as `adapt` would with its own photos and the same seed.

    Nothing is kept on the way, and no held-out photos stop it.

    Args:
        host: The base model; it is left unchanged.
        prior: What all of them are learned from.
        photos: One training set per subject, all photos of one size.
        options: Settings.
        on_progress: Called every ``read_every`` steps with the mean loss; it may raise ``TrainingCancelled``.

    Returns:
        A result per subject; its seconds are an equal share of the whole time.

    Raises:
        InvalidOptions: If settings contradict each other, or this model takes the captions in separate passes.
        UnusableReferences: If photos are not usable.
        IncompatibleBaseModel: If the prior was made for another model.
        TrainingDiverged: If a loss or a factor of any of them becomes NaN or infinite.
    """
    options.check()
    began, targets = time.monotonic(), targets_of_prior(prior, host.targets())
    report_other_weights(host.model, targets, prior.layers, prior.metadata.training.get(SAMPLE), prior.metadata.name)
    start = start_of_prior(prior, targets, options)

    def look(step: int, loss: float) -> None:
        if on_progress is not None:
            on_progress(AdaptationProgress(step, options.steps, loss, time.monotonic() - began))

    (end,) = train_cohort(host, start, photos, options, [options.steps], on_look=look)
    results, memory = list[AdaptationResult](), StepPlan.of(host).text
    for number, own in enumerate(photos):
        losses, found = tuple(end.losses[:, number].tolist()), end.found[number] if end.found else None
        record = LearnedRecord(options, options.steps, losses, found)
        identity = learned_identity(host, prior, own, start, end.flats[number], record)
        share = (time.monotonic() - began) / len(photos)
        notes = (found.note,) if found else ()
        results.append(AdaptationResult(identity, losses, (), "finished", share, memory, notes))
    return results
