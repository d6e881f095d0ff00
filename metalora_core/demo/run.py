"""Runs the demonstration: the same photos, the same steps, the same prompts, two ways of learning."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..adaptation import adapt
from ..evaluation.methods.peft_lora import PlainLoRAOptions, applied_plain_lora, train_plain_lora
from ..evaluation.methods.registry import META_WARM, PLAIN
from ..evaluation.tuning import rate_for_steps
from ..files.identity import chain_factors, save_identity
from ..files.prior import targets_of_prior
from ..inject import Injection
from ..model.generation import Request, generate_pictures
from ..training.adaptation_options import AdaptationOptions
from .subjects import DemoSubject

if TYPE_CHECKING:
    from ..files.prior import Prior
    from ..model.host import Host
    from ..training.progress import StepProgress

Progress = Callable[[str], Callable[["StepProgress"], None]]


@dataclass(frozen=True)
class DemoOptions:
    """Settings of both methods.

    Args:
        steps: Training steps of each.
        seed: Of both trainings and of the starting noise.
        sampling_steps: Of each picture.
        guidance: Classifier-free guidance of each picture, of all methods alike.
        flip: Learn mirrored photos too.
        meta: Meta-LoRA's settings, and what plain LoRA shares with it; steps, seed and flip are set from here.
        plain: Plain LoRA's own settings.
    """

    steps: int = 100
    seed: int = 0
    sampling_steps: int = 20
    guidance: float = 2.0
    flip: bool = True
    meta: AdaptationOptions = field(default_factory=AdaptationOptions)
    plain: PlainLoRAOptions = field(default_factory=PlainLoRAOptions)


def tuned_options(options: DemoOptions, domain: str, photos: int) -> DemoOptions:
    """The same with each method's best learning rate for these steps, as tuned on the domain's validation subjects."""
    meta, plain = (rate_for_steps(method, photos, domain, options.steps) for method in (META_WARM, PLAIN))
    return replace(
        options,
        meta=replace(options.meta, mid_learning_rate=meta, up_learning_rate=meta),
        plain=replace(options.plain, learning_rate=plain),
    )


@dataclass(frozen=True)
class MethodResult:
    """What one method made of a subject.

    Attributes:
        method: Its name.
        pictures: One per prompt, (prompts, 3, H, W).
        identity_error: Mean over the pictures, against who it is; 0 is perfect.
        prompt_error: Mean over the pictures, against what was asked; 0 is perfect.
        steps: Training steps.
        seconds: Of the training.
        parameters: Trained numbers.
        file_bytes: Of the file that is kept.
    """

    method: str
    pictures: Tensor
    identity_error: float
    prompt_error: float
    steps: int = 0
    seconds: float = 0.0
    parameters: int = 0
    file_bytes: int = 0


def compare(
    host: Host, prior: Prior, subject: DemoSubject, options: DemoOptions, on_progress: Progress | None = None
) -> list[MethodResult]:
    """Learn a subject with plain LoRA and with Meta-LoRA and sample its prompts, also with the base alone.

    Args:
        host: The base model; it is left unchanged.
        prior: Of the subject's domain; its targets are plain LoRA's too.
        subject: The subject to learn.
        options: Settings.
        on_progress: From a label to the listener of that training.

    Returns:
        Results of "base model", "plain LoRA" and "Meta-LoRA", and of "truth" where it is known: the scorers' own
        errors.
    """
    asked = request_of(subject, options)
    base = generate_pictures(host, replace(asked, prompts=subject.captions("")))
    found = [
        _scored("base model", base, subject),
        learn_plain(host, prior, subject, options, asked, on_progress),
        learn_meta(host, prior, subject, options, asked, on_progress),
    ]
    if subject.truth is not None:
        found.append(_scored("truth", subject.truth, subject))
    return found


def request_of(subject: DemoSubject, options: DemoOptions) -> Request:
    """The subject's prompts as a request for pictures, of the size of its photos."""
    size_px = subject.training_set.images[0].shape[-1]
    return Request(subject.prompts, size_px, steps=options.sampling_steps, guidance=options.guidance, seed=options.seed)


def learn_plain(
    host: Host,
    prior: Prior,
    subject: DemoSubject,
    options: DemoOptions,
    asked: Request,
    progress: Progress | None = None,
) -> MethodResult:
    """Learn a subject with plain LoRA on the prior's targets, sample its prompts, score the pictures."""
    shared = replace(options.meta, steps=options.steps, seed=options.seed, flip=options.flip)
    show = progress("plain LoRA") if progress is not None else None
    targets = targets_of_prior(prior, host.targets())
    learned = train_plain_lora(host, subject.training_set, targets, shared, options.plain, on_progress=show)
    with applied_plain_lora(host, learned):
        pictures = generate_pictures(host, asked)
    with tempfile.TemporaryDirectory() as folder:
        size = learned.save(Path(folder) / "plain.safetensors")
    return replace(
        _scored("plain LoRA", pictures, subject),
        steps=len(learned.losses), seconds=learned.seconds, parameters=learned.parameters, file_bytes=size,
    )  # fmt: skip


def learn_meta(
    host: Host,
    prior: Prior,
    subject: DemoSubject,
    options: DemoOptions,
    asked: Request,
    progress: Progress | None = None,
) -> MethodResult:
    """Learn a subject with Meta-LoRA, sample its prompts, score the pictures."""
    chosen = replace(options.meta, steps=options.steps, seed=options.seed, flip=options.flip)
    show = progress("Meta-LoRA") if progress is not None else None
    learned = adapt(host, prior, subject.training_set, chosen, on_progress=show)
    with Injection(host.model, targets_of_prior(prior, host.targets()), chain_factors(learned.identity, prior)):
        pictures = generate_pictures(host, asked)
    with tempfile.TemporaryDirectory() as folder:
        save_identity(Path(folder) / "identity.safetensors", learned.identity)
        size = (Path(folder) / "identity.safetensors").stat().st_size
    parameters = sum(layer.mid.numel() + layer.up.numel() for layer in learned.identity.layers.values())
    return replace(
        _scored("Meta-LoRA", pictures, subject),
        steps=len(learned.losses), seconds=learned.seconds, parameters=parameters, file_bytes=size,
    )  # fmt: skip


def _scored(method: str, pictures: Tensor, subject: DemoSubject) -> MethodResult:
    with torch.no_grad():
        scores = subject.score(pictures)
    return MethodResult(method, pictures, scores.identity, scores.prompt)
