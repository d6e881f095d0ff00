"""Stage 2: learn one subject. meta_down stays frozen, only the subject's mid and up are trained.

Source: Meta-LoRA, arXiv 2503.22352, section 3.3.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .errors import TrainingCancelled, is_compile_failure
from .files.atomic import require_writable
from .files.checkpoint import resumed
from .files.identity import Identity
from .files.prior import Prior, prior_sha256, targets_of_prior
from .model.base_weights import SAMPLE, report_other_weights
from .model.host import Host
from .model.sampling import sample
from .photos.training_set import GivenCaption, TrainingSet
from .training.adaptation_options import AdaptationOptions, AdaptationResult, settings_text
from .training.adaptation_state import AdaptationState
from .training.batches import denoising_losses
from .training.chain_trainer import ChainTrainer
from .training.checkpoint_clock import CheckpointClock
from .training.personal_prior import own_targets, personal_prior
from .training.photo_batches import HeldOut, PhotoBatches
from .training.progress import AdaptationProgress
from .training.rate_search import HELD_OUT_LEVELS, find_rate
from .training.retries import StepPlan, first_line, kept_on_failure, train_with_retries
from .training.seeds import step_generator
from .training.starts import start_of_prior

__all__ = ["adapt", "run_digest"]

_LOG = logging.getLogger(__name__)


# A caller may sit in inference mode, as ComfyUI's executor does.
@torch.inference_mode(False)
@torch.enable_grad()
def adapt(
    host: Host,
    prior: Prior | None,
    training_set: TrainingSet,
    options: AdaptationOptions | None = None,
    *,
    on_progress: Callable[[AdaptationProgress], None] | None = None,
    checkpoint: Path | None = None,
    validation: TrainingSet | None = None,
    save: Callable[[AdaptationResult], object] | None = None,
) -> AdaptationResult:
    """Learn a subject from its photos.

    What had to be changed on the way, such as recomputing blocks where a step did not fit into memory, is logged and
    told in the result.

    Args:
        host: The base model; it is left unchanged.
        prior: What the subjects of its domain share; None starts from random directions, and the identity then needs
            no other file.
        training_set: One to eight photos with captions.
        options: Settings.
        on_progress: Called at every look at the loss; it may raise ``TrainingCancelled``.
        checkpoint: Written every ``checkpoint_every`` steps or 30 s, at the end and whenever the run is stopped from
            outside; if it exists, the run resumes from it and ends bit-identical to an uninterrupted one.
        validation: Held-out photos for early stopping.
        save: Saves the result. It is called instead of the checkpoint at the end: on a disk that fills up the result
            comes first. If it raises, that checkpoint is written; else the checkpoint is removed.

    Returns:
        The identity, and how it went.

    Raises:
        InvalidOptions: If settings contradict each other, or the checkpoint belongs to another run.
        UnusableReferences: If photos are not usable.
        IncompatibleBaseModel: If the prior was made for another model.
        UnwritableFile: If the checkpoint's folder is not writable or too full.
        TrainingDiverged: If the loss or a factor becomes NaN or infinite; ``last_good`` is the last good identity.
        OutOfMemory: If a step does not fit even with every saving.
    """
    options = options or AdaptationOptions()
    options.check()
    used = prior or _personal(host, training_set, options)
    targets = targets_of_prior(used, host.targets())
    report_other_weights(host.model, targets, used.layers, used.metadata.training.get(SAMPLE), _words(used))
    if any(layer.step_size is not None for layer in used.layers.values()):
        _LOG.warning("The step sizes in the prior are ignored: learning them did not help.")
    if validation is None and options.hold_out and len(training_set.images) > 1:
        count = len(training_set.images)
        training_set, validation = training_set.part(0, count - 1), training_set.part(count - 1, count)
    training_set.check(host.downscale, options.batch_size)
    if validation is not None:
        validation.check(host.downscale, 1)
    trainer = ChainTrainer(host, start_of_prior(used, targets, options), options)
    state = AdaptationState(trainer, options, run_digest(host, options, used, training_set, validation))
    if checkpoint is not None:
        require_writable(checkpoint, state.checkpoint_bytes)
        if checkpoint.exists() and not resumed(checkpoint, state.load):
            state.go_back()
    batches = PhotoBatches(host, training_set, options)
    held_out = HeldOut(host, validation, options.validation_samples, options.seed) if validation is not None else None
    noise = HeldOut(host, training_set.part(0, 1), HELD_OUT_LEVELS, options.seed) if state.needs_rate else None

    def latest() -> Identity:
        return state.identity(used, host, training_set, best=False)

    run = _Run(host, state, batches, latest, held_out, on_progress, checkpoint, noise)
    with kept_on_failure(state, checkpoint, latest, forget=True, saves=save is not None):
        plan, notes = train_with_retries(host, batches.samples, run.train, state)
        notes = (state.found.note, *notes) if state.found else notes
        identity, seconds = state.identity(used, host, training_set), time.monotonic() - run.began
        losses, validations = tuple(state.losses), tuple(state.validation)
        result = AdaptationResult(identity, losses, validations, state.stop_reason, seconds, plan.text, notes)
        if save is not None:
            save(result)
    return result


def _personal(host: Host, photos: TrainingSet, options: AdaptationOptions) -> Prior:
    side = max((image.shape[-1] for image in photos.images), default=0)
    return personal_prior(host, own_targets(host), options, side)


def _words(prior: Prior) -> str:
    base = f" ({prior.metadata.base_name})" if prior.metadata.base_name else ""
    return f"prior {prior.metadata.name!r}{base}"


@dataclass
class _Run:
    """The loop, and what it does at every report."""

    host: Host
    state: AdaptationState
    batches: PhotoBatches
    latest: Callable[[], Identity]
    held_out: HeldOut | None
    on_progress: Callable[[AdaptationProgress], None] | None
    checkpoint: Path | None
    noise: HeldOut | None = None
    draws: bool = True
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Start the clock of the checkpoints."""
        self.clock = CheckpointClock(self.state.options.checkpoint_every)

    def train(self, plan: StepPlan) -> None:
        """Train to the last step, or until the held-out photos stop improving."""
        host, trainer = self.host, self.state.trainer
        with host.training(), trainer.chains.inject():
            if self.noise is not None and self.state.needs_rate:
                self._find_rate(plan, self.noise)
            if self._is_sampled(self.state.trainer.steps):  # a run that was stopped while it drew has not told of it
                self._report(self.state.losses[-1])
            for step in self.state.steps_left():
                self._backward(plan, step)
                trainer.step()
                if self.state.options.stops_at(trainer.steps):
                    self._look()

    def _backward(self, plan: StepPlan, step: int) -> None:
        for part in plan.cut(self.batches.draw(step)):
            self.state.trainer.backward(denoising_losses(self.host, part) @ part.weights)

    def _find_rate(self, plan: StepPlan, noise: HeldOut) -> None:
        """Find the learning rate by trial steps from the start, and go back there."""

        def trial(number: int, rate: float) -> None:
            self._backward(plan, number)
            self.state.trainer.trial_step(rate)

        found = find_rate(trial, noise.loss, self.state.options.steps)
        self.state.go_back()
        self.state.use(found)
        self.state.keep()

    def _look(self) -> None:
        """Read the loss, measure held-out photos, keep the state, report and write the checkpoint."""
        state, options, step = self.state, self.state.options, self.state.trainer.steps
        loss = state.read()
        if self.held_out is not None and step % options.validate_every == 0:
            factors = state.trainer.result()[0]
            with state.trainer.showing(factors):
                state.validated(self.held_out.loss(), factors)
        elif self.held_out is None and step % options.read_every == 0:
            state.keep_lowest(loss)
        state.keep()
        self._report(loss)
        # After the report: a run that is killed between the two resumes before it, and what it keeps is kept again.
        if self.checkpoint is not None and step < options.steps and self.clock.due(step):
            state.save(self.checkpoint)

    def _report(self, loss: float) -> None:
        if self.on_progress is not None:
            step, steps, losses = self.state.trainer.steps, self.state.options.steps, tuple(self.state.losses)
            seconds, picture = time.monotonic() - self.began, self._preview(step)
            self.on_progress(AdaptationProgress(step, steps, loss, seconds, picture, losses, self.latest))

    def _is_sampled(self, step: int) -> bool:
        every, steps = self.state.options.preview_every, self.state.options.steps
        return bool(step and every) and (step % every == 0 or step == steps)

    def _preview(self, step: int) -> Tensor | None:
        options, trainer = self.state.options, self.state.trainer
        if not self.draws or not self._is_sampled(step):
            return None
        try:
            with trainer.showing(trainer.result()[0]), torch.no_grad():
                latents = sample(
                    self.host,
                    self.batches.preview_conditioning(),
                    shape=self.batches.first_latent.shape,
                    steps=options.preview_steps,
                    generator=step_generator(options.seed, "preview"),
                )
                return self.host.decode_latents(latents)[0].float().cpu()
        except TrainingCancelled:
            raise
        except Exception as error:  # a preview is worth less than the run
            if is_compile_failure(error):
                raise
            self.draws = False
            _LOG.warning("No previews from step %d on: %s", step, first_line(error))
            return None


def run_digest(
    host: Host, options: AdaptationOptions, prior: Prior, photos: TrainingSet, validation: TrainingSet | None = None
) -> str:
    """Hash of whatever decides the run; how often it reports does not."""
    options = replace(options, preview_every=0, preview_steps=1)
    text = settings_text((options, prior_sha256(prior), host.weights_digest()))
    # A setting of earlier releases: with it in the hash their checkpoints resume.
    digest = hashlib.sha256(text.replace("flip=", "ema_decay=0.0, flip=", 1).encode())
    for part in (photos, validation):
        if part is not None:
            digest.update(repr((part.captions, part.class_word, part.trigger, part.one_sided)).encode())
            given = [caption.pictures for caption in part.captions if isinstance(caption, GivenCaption)]
            for image in (*part.images, *(picture for pictures in given for picture in pictures.values())):
                digest.update(image.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
