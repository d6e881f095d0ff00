"""A prior from what people have: a folder of subjects, a folder of ordinary LoRA files, or both.

LoRA files alone are turned into a prior by algebra. Subjects are meta-trained, from such a prior if there are LoRA
files too. Either way the result is an ordinary prior.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..errors import InvalidOptions
from ..files.lora_files import FoundLoRAs
from ..files.prior import Prior
from ..meta_training import meta_train
from ..model.families import default_patterns
from ..model.host import Host
from ..model.targets import Target, choose_targets
from ..training.lora_start import prior_of_loras
from ..training.meta_options import MetaTrainingOptions
from ..training.progress import MetaTrainingProgress
from ..training.subject_batches import SubjectDataset

__all__ = [
    "QuickSources",
    "advice",
    "forecast_s",
    "in_words",
    "lora_targets",
    "quick_prior",
    "require_license",
]

_ENOUGH_SUBJECTS = 20
_ENOUGH_LORAS = 32
_MEASURED_STEPS = 3


@dataclass(frozen=True)
class QuickSources:
    """What a quick prior is made of; at least one of the two.

    Args:
        domain: What the subjects are.
        subjects: Their photos, or None.
        loras: Ordinary LoRA files of such subjects, or None.
        photos: `picture_features` of the photos, for the prior's domain check, or None.
    """

    domain: str
    subjects: SubjectDataset | None = None
    loras: FoundLoRAs | None = None
    photos: Tensor | None = None


def lora_targets(host: Host, options: MetaTrainingOptions) -> tuple[Target, ...]:
    """The layers that LoRA files are read for: those that a meta-training with these options would adapt."""
    return choose_targets(host.targets(), options.include or default_patterns(host.family), options.exclude)


def quick_prior(
    host: Host,
    sources: QuickSources,
    options: MetaTrainingOptions,
    *,
    on_forecast: Callable[[float], object],
    on_progress: Callable[[MetaTrainingProgress], None] | None = None,
    checkpoint: Path | None = None,
    save: Callable[[Prior], Prior],
) -> Prior:
    """Make a prior.

    Args:
        host: The base model; it is left unchanged.
        sources: What it is made of.
        options: Settings; a step takes at most as many subjects as there are, and with LoRA files only layers that
            some file changes are adapted.
        on_forecast: Called before a training with the seconds that it will take; it may raise.
        on_progress: As in `meta_train`.
        checkpoint: As in `meta_train`.
        save: Saves the prior and returns it as saved.

    Raises:
        InvalidOptions: If the LoRA files change nothing, or settings contradict each other.
    """
    start = None
    if sources.loras is not None:
        start = prior_of_loras(host, sources.loras.files, lora_targets(host, options), options, sources.domain)
    if sources.subjects is None:
        if start is None:
            raise ValueError("a quick prior needs subjects or LoRA files")
        return save(start)
    options = replace(options, subjects_per_batch=min(options.subjects_per_batch, len(sources.subjects)))
    if start is not None:
        options = replace(options, include=tuple(start.layers))
    if checkpoint is None or not checkpoint.exists():
        on_forecast(forecast_s(host, sources.subjects, options, start))
    return meta_train(
        host, sources.subjects, options, earlier=start, on_progress=on_progress, checkpoint=checkpoint, save=save
    )


def forecast_s(
    host: Host, subjects: SubjectDataset, options: MetaTrainingOptions, earlier: Prior | None = None
) -> float:
    """Seconds that `meta_train` will take, from a few steps that are made and thrown away."""
    ends = list[float]()
    few = replace(options, steps=_MEASURED_STEPS, read_every=1, bank_folder=None)
    meta_train(host, subjects, few, earlier=earlier, on_progress=lambda _: ends.append(time.monotonic()))
    # The first step also compiles and allocates.
    return (ends[-1] - ends[0]) / (len(ends) - 1) * options.steps


def require_license(license: str, ask: str) -> None:
    """Refuse LoRA files without a word on the right to use them.

    Args:
        license: What the user said.
        ask: How the user says it, such as "Say with --license under".

    Raises:
        InvalidOptions: If it is empty.
    """
    if not license.strip():
        raise InvalidOptions(
            "LoRA files belong to whoever trained them, and show whom they were trained on. "
            f'{ask} which licence or permission you use them, such as "own work" or "CC-BY-4.0".'
        )


def advice(sources: QuickSources, left_out: int) -> str:
    """What is made of what, and what too little of it costs, in one line.

    Args:
        sources: What the prior is made of.
        left_out: Subjects or files kept aside.
    """
    subjects, loras = len(sources.subjects or ()), len(sources.loras.files if sources.loras else ())
    told = f"Learning from {subjects} subjects and {loras} LoRA files; {left_out} kept aside to measure the prior."
    # Those kept aside count: the user has them.
    if subjects and subjects + left_out < _ENOUGH_SUBJECTS:
        told += f" {_ENOUGH_SUBJECTS} subjects or more are recommended."
    if loras and loras + left_out < _ENOUGH_LORAS:
        told += f" {_ENOUGH_LORAS} LoRA files or more are recommended."
    return told


def in_words(seconds: float) -> str:
    """A forecast as people say it, such as "40 seconds", "5 minutes" or "3.5 hours"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"
