"""Runs the demonstration: the same photos, the same steps, the same prompts, two ways of learning."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..adaptation import adapt
from ..applying import apply_identity
from ..evaluation.methods.peft_lora import PlainLoRAOptions, PlainLoRAResult, applied_plain_lora, train_plain_lora
from ..evaluation.methods.registry import META_WARM, PLAIN
from ..evaluation.subjects.world import LearnedSubject
from ..evaluation.tuning import rate_for_steps
from ..files.identity import save_identity
from ..files.prior import targets_of_prior
from ..model.generation import Request, generate_pictures
from ..training.adaptation_options import AdaptationOptions, AdaptationResult

if TYPE_CHECKING:
    from ..files.prior import Prior
    from ..model.host import Host
    from ..training.progress import StepProgress

Progress = Callable[[str], Callable[["StepProgress"], None]]
_SAMPLING_STEPS, _GUIDANCE = 20, 2.0


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
    host: Host,
    prior: Prior,
    subject: LearnedSubject,
    *,
    steps: int = 100,
    seed: int = 0,
    flip: bool = True,
    on_progress: Progress | None = None,
) -> list[MethodResult]:
    """Learn a subject with plain LoRA and with Meta-LoRA and sample its prompts, also with the base alone.

    Each method has its best learning rate for these steps, as tuned on the domain's validation subjects.

    Args:
        host: The base model; it is left unchanged.
        prior: Of the subject's domain; its targets are plain LoRA's too.
        subject: The subject to learn.
        steps: Training steps of each method.
        seed: Of both trainings and of the starting noise.
        flip: Learn mirrored photos too.
        on_progress: From a label to the listener of that training.

    Returns:
        Results of "base model", "plain LoRA" and "Meta-LoRA", and of "truth" where it is known: the scorers' own
        errors.
    """
    photos, targets = len(subject.photos.images), targets_of_prior(prior, host.targets())
    rate, plain_rate = (rate_for_steps(method, photos, subject.domain, steps) for method in (META_WARM, PLAIN))
    options = AdaptationOptions(steps=steps, seed=seed, flip=flip, mid_learning_rate=rate, up_learning_rate=rate)
    asked = Request(subject.prompts, subject.size_px, steps=_SAMPLING_STEPS, guidance=_GUIDANCE, seed=seed)
    found = [_scored("base model", generate_pictures(host, replace(asked, prompts=subject.nameless)), subject)]
    own, listener = PlainLoRAOptions(learning_rate=plain_rate), on_progress and on_progress("plain LoRA")
    plain = train_plain_lora(host, subject.photos, targets, options, own, on_progress=listener)
    with applied_plain_lora(host, plain):
        drawn = _scored("plain LoRA", generate_pictures(host, asked), subject)
    found.append(_with_costs(drawn, plain, plain.parameters, plain.save))
    learned = adapt(host, prior, subject.photos, options, on_progress=on_progress and on_progress("Meta-LoRA"))
    with apply_identity(host, learned.identity, prior):
        drawn = _scored("Meta-LoRA", generate_pictures(host, asked), subject)
    trained = sum(layer.mid.numel() + layer.up.numel() for layer in learned.identity.layers.values())
    found.append(_with_costs(drawn, learned, trained, lambda path: save_identity(path, learned.identity)))
    return [*found, _scored("truth", subject.truth, subject)] if len(subject.truth) else found


def _scored(method: str, pictures: Tensor, subject: LearnedSubject) -> MethodResult:
    scores = subject.score(pictures, len(subject.photos.images))
    # The scorer's own error, which the benchmark subtracts, stays in: your own photos have no truth that would show it.
    identity, prompt = scores.identity_error + scores.identity_floor, scores.prompt_error + scores.prompt_floor
    return MethodResult(method, pictures, identity, prompt)


def _with_costs(
    result: MethodResult,
    learned: PlainLoRAResult | AdaptationResult,
    parameters: int,
    save: Callable[[Path], object],
) -> MethodResult:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "learned.safetensors"
        save(path)
        size = path.stat().st_size
    return replace(result, steps=len(learned.losses), seconds=learned.seconds, parameters=parameters, file_bytes=size)
