"""Stage 2: learn one subject. meta_down stays frozen, only the subject's mid and up are trained.

Source: Meta-LoRA, arXiv 2503.22352, section 3.3.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .errors import OutOfMemory, TrainingCancelled, TrainingDiverged, is_compile_failure, is_out_of_memory
from .files.atomic import require_writable
from .files.checkpoint import Checkpoint, resumed
from .files.prior import Prior, prior_sha256, targets_of_prior
from .inject import Injection
from .model.base_weights import SAMPLE, report_other_weights, weights_sample
from .model.host import Host
from .model.sampling import sample
from .model.targets import Target
from .photos.training_set import TrainingSet
from .training.adaptation_options import AdaptationOptions, AdaptationResult
from .training.adaptation_state import AdaptationState
from .training.batches import denoising_losses
from .training.photo_batches import HeldOut, PhotoBatches
from .training.progress import AdaptationProgress
from .training.retries import StepPlan, free_memory
from .training.seeds import step_generator
from .training.starts import start_of_prior

__all__ = ["adapt"]

_LOG = logging.getLogger(__name__)


# A caller may sit in inference mode, as ComfyUI's executor does.
@torch.inference_mode(False)
@torch.enable_grad()
def adapt(
    host: Host,
    prior: Prior,
    training_set: TrainingSet,
    options: AdaptationOptions | None = None,
    *,
    on_progress: Callable[[AdaptationProgress], None] | None = None,
    checkpoint: Path | None = None,
    validation: TrainingSet | None = None,
    on_note: Callable[[str], None] | None = None,
) -> AdaptationResult:
    """Learn a subject from its photos.

    Args:
        host: The base model; it leaves as it came.
        prior: What the subjects of its domain share.
        training_set: One to eight photos with captions.
        options: Settings.
        on_progress: Called whenever the loop looks up; it may raise ``TrainingCancelled``.
        checkpoint: Written every ``checkpoint_every`` steps, at the end and whenever the run is stopped from outside;
            if it exists, the run resumes from it and ends bit-identical to an uninterrupted one.
        validation: Held-out photos for early stopping.
        on_note: Told in one line when a step did not fit into memory, or its passes could not be compiled, and how the
            run goes on; and what of the prior is not used.

    Returns:
        The identity, not yet saved, and how it went.

    Raises:
        InvalidOptions: If settings contradict each other, or the checkpoint belongs to another run.
        UnusableReferences: If photos cannot be learned from.
        IncompatibleBaseModel: If the prior was made for another model.
        UnwritableFile: If the checkpoint's folder is not writable or too full.
        TrainingDiverged: If the loss or a factor becomes NaN or infinite; ``last_good`` is the last good identity.
        OutOfMemory: If a step does not fit even with every saving.
    """
    options = options or AdaptationOptions()
    options.check()
    targets = targets_of_prior(prior, host.targets())
    report_other_weights(host.model, targets, prior.layers, prior.metadata.training.get(SAMPLE), _words(prior))
    if on_note is not None and any(layer.step_size is not None for layer in prior.layers.values()):
        on_note("The prior's step sizes are not used: learning them proved of no use.")
    if validation is None and options.hold_out and len(training_set.images) > 1:
        count = len(training_set.images)
        training_set, validation = training_set.part(0, count - 1), training_set.part(count - 1, count)
    training_set.check(host.downscale, options.batch_size)
    if validation is not None:
        validation.check(host.downscale, 1)
    state = AdaptationState(host, start_of_prior(prior, targets, options), options)
    digest = _digest(host, options, prior, training_set, validation)
    if checkpoint is not None:
        require_writable(checkpoint, state.checkpoint_bytes)
        if checkpoint.exists() and not resumed(checkpoint, partial(state.load, digest=digest)):
            state = AdaptationState(host, start_of_prior(prior, targets, options), options)
    batches = PhotoBatches(host, training_set, options)
    held_out = HeldOut(host, validation, options.validation_samples, options.seed) if validation is not None else None
    run = _Run(host, state, batches, held_out, on_progress, checkpoint, digest)
    with run.kept_on_failure(prior, training_set):
        stop_reason = run.train_as_possible(targets, on_note)
    kept = state.result() if state.best is None else state.best
    identity = state.identity(kept, host, prior, training_set, state.step)
    identity.metadata.metrics[SAMPLE] = [*weights_sample(host.model, targets, identity.layers)]
    seconds = time.monotonic() - run.began
    return AdaptationResult(identity, tuple(state.losses), tuple(state.validation), stop_reason, seconds, run.plan.text)


def _words(prior: Prior) -> str:
    base = f" ({prior.metadata.base_name})" if prior.metadata.base_name else ""
    return f"prior {prior.metadata.name!r}{base}"


@dataclass(frozen=True)
class _Failure:
    """Why a plan did not work.

    Args:
        said: The error's first line.
        of_compiler: The passes could not be compiled; otherwise the memory did not suffice.
    """

    said: str
    of_compiler: bool


class _Run:
    """The loop and what it does when it looks up."""

    def __init__(
        self,
        host: Host,
        state: AdaptationState,
        batches: PhotoBatches,
        held_out: HeldOut | None,
        on_progress: Callable[[AdaptationProgress], None] | None,
        checkpoint: Path | None,
        digest: str,
    ) -> None:
        self.host, self.state, self.batches, self.held_out = host, state, batches, held_out
        self.on_progress, self.checkpoint, self.digest = on_progress, checkpoint, digest
        self.no_previews = False
        self.began = time.monotonic()
        self.last_good: Checkpoint = state.snapshot(digest)
        self.plan = StepPlan.of(host)

    def train_as_possible(self, targets: Sequence[Target], on_note: Callable[[str], None] | None) -> str:
        """Train to the end, from the last good step on with another plan whenever the one before does not work."""
        asked = self.plan
        try:
            while True:
                self.plan.set_on(self.host)
                failure = self._train_as_planned(targets)
                if failure is None:
                    return self._stop_reason
                # Here nothing of the failed step is alive any more: its frames went with the exception.
                free_memory(self.host.device)
                self.state.restore(self.last_good)
                self.plan, reason = self._other_plan(failure)
                if on_note is not None:
                    on_note(f"{reason}; going on from step {self.state.step}, {self.plan.text}.")
        finally:
            asked.set_on(self.host)

    def _train_as_planned(self, targets: Sequence[Target]) -> _Failure | None:
        """Train; returns what was said if the memory did not suffice or the passes could not be compiled."""
        try:
            with self.host.training(), Injection(self.host.model, targets, self.state.factors) as put:
                put.require_all()
                self._stop_reason = self.train()
        except Exception as error:
            uncompiled = self.plan.compiled and is_compile_failure(error)
            if not (uncompiled or is_out_of_memory(error)):
                raise
            return _Failure(_first_line(error), of_compiler=uncompiled)
        return None

    def _other_plan(self, failure: _Failure) -> tuple[StepPlan, str]:
        """The plan to go on with, and why in words."""
        if failure.of_compiler:
            return replace(self.plan, compiled=False), f"The passes could not be compiled ({failure.said})"
        batch = self.state.options.batch_size + (self.state.options.preservation_weight > 0)
        plan = self.plan.smaller(self.host, batch)
        if plan is None:
            raise OutOfMemory(
                f"Step {self.state.step + 1} does not fit into memory, even {self.plan.text}. Use smaller pictures, "
                f"free memory, or load the base in fewer bits. It was said: {failure.said}"
            )
        return plan, "A step did not fit into memory"

    def train(self) -> str:
        """Train to the end; returns why it stopped."""
        state, host, options = self.state, self.host, self.state.options
        while state.step < options.steps:
            if self._stale():
                return f"no improvement on the held-out photos since step {self._best_step()}"
            batch, conditioning, weights = self.batches.draw(state.step)
            state.use()
            pieces = list[Tensor]()
            for rows in self.plan.cut(len(weights)):
                given = {name: value[rows] for name, value in conditioning.items()}
                losses = denoising_losses(host, batch.latents[rows], batch.noise[rows], batch.t[rows], given)
                pieces.append(losses @ weights[rows])
                (pieces[-1] * state.loss_scale).backward()
                pieces[-1] = pieces[-1].detach()
            state.update(sum(pieces[1:], start=pieces[0]))
            if options.stops_at(state.step):
                self._look_up()
        return "finished"

    @contextmanager
    def kept_on_failure(self, prior: Prior, photos: TrainingSet) -> Generator[None]:
        """Keep the last good state whatever stops the run: in the error, or as a checkpoint to go on from."""
        state, good = self.state, self.last_good
        try:
            yield
        except TrainingDiverged as error:
            state.restore(self.last_good)
            error.last_good = state.identity(state.result(), self.host, prior, photos, state.step)
            if self.checkpoint is not None:
                self.checkpoint.unlink(missing_ok=True)  # going on from it could only diverge again
            raise
        except BaseException:  # a host's own interrupt may be anything; finished steps are saved
            if self.checkpoint is not None and self.last_good is not good:
                state.save(self.checkpoint, self.last_good)
            raise

    def _look_up(self) -> None:
        state, options = self.state, self.state.options
        loss = state.read_losses()
        if not (math.isfinite(loss) and bool(state.flat().isfinite().all())):
            raise TrainingDiverged(
                f"The loss became {loss} between steps {self.last_good.step} and {state.step}. Lower "
                "mid_learning_rate and up_learning_rate, or raise warmup_steps.",
                step=state.step,
                last_good_step=self.last_good.step,
            )
        if self.held_out is not None and state.step % options.validate_every == 0:
            self._validate(self.held_out)
        self.last_good = state.snapshot(self.digest)
        if self.checkpoint is not None and (state.step % options.checkpoint_every == 0 or state.step == options.steps):
            state.save(self.checkpoint, self.last_good)
        if self.on_progress is not None:
            seconds = time.monotonic() - self.began
            self.on_progress(AdaptationProgress(state.step, options.steps, loss, seconds, self._preview()))

    def _validate(self, held_out: HeldOut) -> None:
        state, kept = self.state, self.state.result()
        state.use(kept)
        with torch.no_grad():
            losses = [denoising_losses(self.host, p.latents, p.noise, p.t, p.conditioning) for p in held_out.probes]
        loss = float(torch.cat(losses).mean())
        if state.options.early_stop_patience and loss < min((v for _, v in state.validation), default=math.inf):
            state.best = kept
        state.validation.append((state.step, loss))

    def _best_step(self) -> int:
        return min(self.state.validation, key=lambda pair: pair[1])[0]

    def _stale(self) -> bool:
        patience, seen = self.state.options.early_stop_patience, self.state.validation
        if not patience or not seen:
            return False
        return sum(step > self._best_step() for step, _ in seen) >= patience

    def _preview(self) -> Tensor | None:
        options, state = self.state.options, self.state
        if not options.preview_every or state.step % options.preview_every or self.no_previews:
            return None
        state.use(state.result())
        try:
            return self._drawn(options)
        except TrainingCancelled:
            raise
        except Exception as error:  # a picture on the way is worth less than the run
            if is_compile_failure(error):
                raise
            self.no_previews = True
            _LOG.warning("No previews from step %d on: %s", state.step, _first_line(error))
            return None

    @torch.no_grad()
    def _drawn(self, options: AdaptationOptions) -> Tensor:
        latents = sample(
            self.host,
            self.batches.preview_conditioning(),
            shape=self.batches.first_latent.shape,
            steps=options.preview_steps,
            generator=step_generator(options.seed, "preview"),
        )
        return self.host.decode_latents(latents)[0].float().cpu()


def _first_line(error: BaseException) -> str:
    """What was said, of a compiler's backend what it met; the error is not kept, nor the frames that hang on it."""
    cause = getattr(error, "inner_exception", error)
    return (str(cause) or type(cause).__name__).splitlines()[0][:200]


def _digest(
    host: Host, options: AdaptationOptions, prior: Prior, photos: TrainingSet, validation: TrainingSet | None
) -> str:
    """Hash of whatever decides the run; how often somebody looks at it does not."""
    options = replace(options, preview_every=0, preview_steps=1)
    text = repr((options, prior_sha256(prior), host.weights_digest()))
    # A setting of earlier releases: with it in the hash their checkpoints resume.
    digest = hashlib.sha256(text.replace("flip=", "ema_decay=0.0, flip=", 1).encode())
    for part in (photos, validation):
        if part is not None:
            digest.update(repr((part.captions, part.class_word, part.trigger, part.one_sided)).encode())
            for image in part.images:
                digest.update(image.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
