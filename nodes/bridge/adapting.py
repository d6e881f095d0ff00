"""An adaptation run from a node: what is trained, what is shown meanwhile, and where the result is kept."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...metalora_core import __version__
from ...metalora_core.adaptation import adapt
from ...metalora_core.checks import plain_line
from ...metalora_core.errors import DamagedFile, InvalidOptions
from ...metalora_core.files.identity import Identity, load_identity, own_prior, save_identity
from ...metalora_core.files.kept_steps import kept_steps
from ...metalora_core.files.metadata import thumbnail_in
from ...metalora_core.files.prior import Prior, prior_sha256, targets_of_prior
from ...metalora_core.photos.training_set import GivenCaption, TrainingSet, chosen_flip
from ...metalora_core.provenance.effort import Effort, Meter
from ...metalora_core.provenance.permission import IDENTITY_LEARNED, IDENTITY_TIED, shows_nobody, tied
from ...metalora_core.training.adaptation_options import AdaptationOptions, AdaptationResult, settings_text
from ...metalora_core.training.adaptation_state import result_step, risen_note
from ...metalora_core.training.loss_course import loss_course
from ...metalora_core.training.personal_prior import NO_PRIOR_NOTE, own_targets, personal_prior, usual_options
from ...metalora_core.training.progress import AdaptationProgress
from ...metalora_core.training.retries import last_good_saved
from .audit import note_identity
from .consent import sharing_refused
from .fit import base_weights
from .folders import ADAPTED, IDENTITIES, new_file, shown, unfinished_run
from .given import GivenPictures, missing_note
from .host.comfy_host import ComfyHost
from .host.digests import model_digest, part_digest, uncompared
from .host.given import require_heeded
from .host.memory import wants_checkpointing
from .host.targets import compile_wrappers, targets_of
from .host.trial import trainable_layers, try_out
from .kept_steps import keep_step, require_kept, samples
from .learned import LearnedIdentity
from .lora_tensors import lora_tensors
from .permissions import permissions
from .photos import References
from .pocket_model import own_world_note
from .progress import cancellable, report_with_course, show_progress, show_sample, show_text, stop_if_cancelled

PREVIEWS = 4
UNFINISHED_DAYS = 7


@dataclass(frozen=True)
class Request:
    """The widgets of the node, 0 standing for the preset."""

    references: References
    prior: Prior | None = None
    steps: int = 0
    seed: int = 0
    resolution: int = 0
    learning_rate: float = 1.0
    batch_size: int = 0
    optimizer: str = "adamw"
    checkpointing: str = "auto"
    guidance: float = 1.0
    preview_every: int = 0
    mirror: str = "auto"
    reference: Tensor | None = None
    mask: Tensor | None = None
    use_step: int = 0

    @cached_property
    def given(self) -> GivenPictures:
        return GivenPictures.connected(self.reference, self.mask)

    def save_tied(self, path: Path, identity: Identity, thumbnail: bytes = b"") -> Identity:
        """Save an identity that names the photos' record, if there is one."""
        consent_id = self.references.consent_id
        saved = identity if consent_id is None else tied(identity, consent_id, permissions().installation)
        save_identity(path, saved, thumbnail)
        return saved

    def options(self, host: ComfyHost) -> AdaptationOptions:
        preset = usual_options(host, self.prior, len(self.references.photos))
        steps = self.steps or preset.steps
        return replace(
            preset,
            steps=steps,
            seed=self.seed,
            batch_size=self.batch_size or preset.batch_size,
            optimizer=self.optimizer,
            mid_learning_rate=preset.mid_learning_rate * self.learning_rate,
            up_learning_rate=preset.up_learning_rate * self.learning_rate,
            rate_factor=self.learning_rate if preset.learning_rate == "auto" else 1.0,
            # What the model is given must stay in register with the photo.
            crop_px=0 if self.given.any else preset.crop_px,
            flip=chosen_flip(self.mirror, preset.flip, self.references.class_word),
            preview_every=self.preview_every or max(1, -(-steps // PREVIEWS)),
        )


@dataclass(frozen=True)
class Outcome:
    """What the node gives out."""

    learned: LearnedIdentity
    report: str
    losses: list[float]
    shown: dict[str, Any]

    def lora_model(self) -> Any:
        """ComfyUI's LORA_MODEL, which core's nodes save and apply unasked, so only with the right to share."""
        from comfy_execution.graph_utils import ExecutionBlocker

        withheld = sharing_refused(self.learned)
        return ExecutionBlocker(withheld) if withheld else lora_tensors(self.learned.factors())


@torch.inference_mode(False)
@cancellable()
def adapt_identity(model: Any, clip: Any, vae: Any, request: Request) -> Outcome:
    """Learn the subject, or load it if the very same was learned before.

    Raises:
        InterruptProcessingException: ComfyUI's own, when the user cancels; the next run continues.
    """
    if request.prior is not None:
        targets_of_prior(request.prior, targets_of(model))
    layers = request.prior.layers.values() if request.prior else ()
    widths = [layer.meta_down.shape[1] for layer in layers] or [target.shape[1] for target in targets_of(model)]
    reminder = request.references.require_permission(shows_nobody(widths))
    if own_world := own_world_note(clip, [photo.pixels for photo in request.references.photos]):
        show_text(own_world)
        reminder = f"{own_world} {reminder}".rstrip()
    resolution = request.resolution or request.references.usual_resolution(request.prior)
    spared = wants_checkpointing(request.checkpointing, model)
    host = ComfyHost(model, clip, vae, resolution=resolution, guidance=request.guidance, checkpointing=spared)
    request.given.check(model, host.channels, request.references.photos, resolution)
    # What cannot be compared may differ from the last run's, so nothing learned before is given out or continued.
    unknown = uncompared(model, clip, vae)
    if unknown and request.use_step:
        raise InvalidOptions(
            f"use_step is {request.use_step}, but {', '.join(unknown)} cannot be compared, so each run trains from the "
            "start and no step is kept. Set use_step to 0."
        )
    key = uuid.uuid4().hex if unknown else _key(host, clip, vae, request)
    name = f"{ADAPTED}/{_file_stem(request.references.trigger)}_{key[:16]}"
    path = new_file(IDENTITIES, name)
    place = shown(IDENTITIES, path)
    if path.is_file():
        with suppress(DamagedFile):  # it is learned again
            identity = _known(load_identity(path), request, path)
            note = f"Learned before with the same photos and settings. Read {place}. {reminder}"
            return _outcome(identity, request, path, note.rstrip(" ."))
    identity, note = _train(host, request, path, keeps=not unknown)
    told = f" Trained from the start each time: {', '.join(unknown)} cannot be compared." if unknown else ""
    note = f"{note} Saved {place}.{told} {reminder}".replace("..", ".").rstrip()
    return _outcome(identity, request, path, note)


def _train(host: ComfyHost, request: Request, path: Path, *, keeps: bool) -> tuple[Identity, str]:
    options = request.options(host)
    if request.use_step:
        require_kept(request.use_step, options.kept_steps, "preview_every sets how far apart they are")
    unfinished = unfinished_run(IDENTITIES, path, UNFINISHED_DAYS)
    missing = missing_note(host.channels, request.given)
    if missing:
        show_text(missing)
    photos = _photos(host, request)
    prior, dead = _tried(host, request.prior, options, photos.captions[0])
    require_heeded(host, photos.captions[0])
    notes = [missing, request.references.enlarged(host.resolution), dead]
    for sample in samples(path):  # of a run that was cancelled
        show_sample(sample, options.steps)
    saved, meter = list[tuple[Identity, str]](), Meter(host.device)
    with torch.enable_grad(), last_good_saved(path, request.save_tied):
        result = adapt(
            host,
            prior,
            photos,
            options,
            on_progress=_listener(host, request, path, options, keeps=keeps),
            checkpoint=unfinished,
            save=lambda result: saved.append(_saved(result, host, request, path, meter.read())),
        )
    ((identity, warning),) = saved
    done = f"{result.stop_reason.capitalize()} in {result.seconds:.1f} s at {host.resolution} px."
    return identity, " ".join([done, *filter(None, [*notes, warning]), *result.notes])


def _tried(host: ComfyHost, prior: Prior | None, options: AdaptationOptions, caption: str) -> tuple[Prior, str]:
    """The connected prior after a trial of its layers, or a personal one for those that can learn; and a note."""
    if prior is None:
        layers = trainable_layers(host, caption)
        return personal_prior(host, own_targets(host, layers), options, host.resolution), ""
    trial = try_out(host, targets_of_prior(prior, host.targets()), caption)
    return prior, f"{len(trial.dead)} of {len(trial.facts)} layers cannot learn in this model." if trial.dead else ""


def _saved(
    result: AdaptationResult, host: ComfyHost, request: Request, path: Path, effort: Effort
) -> tuple[Identity, str]:
    """What was learned, bound to its consent, saved and noted down; and the audit log's warning."""
    described = _described(result.identity, host, result.losses, path.stem)
    drawn = kept_steps(path).get(result_step(described.metadata))
    identity = request.save_tied(path, described, thumbnail_in(drawn))
    return identity, note_identity(IDENTITY_LEARNED, identity, shown(IDENTITIES, path), effort)


def _described(identity: Identity, host: ComfyHost, losses: Sequence[float], name: str, **metrics: Any) -> Identity:
    record = identity.metadata
    metrics = {**record.metrics, **base_weights(host.patcher, identity.layers), "losses": list(losses), **metrics}
    return replace(identity, metadata=record.model_copy(update={"metrics": metrics, "name": name}))


def _photos(host: ComfyHost, request: Request) -> TrainingSet:
    """The photos; their captions bring what the model is given, and the first one's serves prompts without a photo."""
    photos, references = request.references.training_set(host.resolution), request.references.photos
    captions = request.given.captions(references, photos.captions, host.resolution, host.channels.fills)
    if isinstance(captions[0], GivenCaption):
        host.pictures = captions[0].pictures
    return replace(photos, captions=captions)


def _known(identity: Identity, request: Request, path: Path) -> Identity:
    """An identity learned before, tied to the record that is connected now if it was learned without one."""
    if request.references.consent_id in (None, identity.metadata.consent_id):
        return identity
    bound = request.save_tied(path, identity, thumbnail_in(path))
    note_identity(IDENTITY_TIED, bound, shown(IDENTITIES, path))
    return bound


def _listener(
    host: ComfyHost, request: Request, path: Path, options: AdaptationOptions, *, keeps: bool
) -> Callable[[AdaptationProgress], None]:
    """What a running adaptation reports to: it shows how far it is, and keeps the steps that can be chosen, if any."""

    def listen(progress: AdaptationProgress) -> None:
        step = progress.step
        if keeps and step in options.kept_steps and progress.learned is not None:
            name = _step_file(path, step).stem
            learned = _described(progress.learned(), host, progress.losses, name, chosen_step=step)
            keep_step(path, progress, learned, request.save_tied)
        show_progress(step, progress.steps, progress.preview, progress.losses)
        stop_if_cancelled()

    return listen


def _step_file(path: Path, step: int) -> Path:
    """Where a step that was chosen is saved: beside the result, and for good."""
    return path.with_stem(f"{path.stem}_step{step}")


def _chosen(last: Identity, request: Request, path: Path) -> Identity:
    """The identity of the step that was asked for; the run is not repeated for it."""
    step = request.use_step
    if step in (0, result_step(last.metadata)):
        return last
    own, kept = _step_file(path, step), kept_steps(path)
    if own.is_file():
        with suppress(DamagedFile):  # it is written again
            return _known(load_identity(own), request, own)
    remedy = f"to train again, choose another seed; steps that were not used within {UNFINISHED_DAYS} days are deleted"
    require_kept(step, {*kept, result_step(last.metadata)}, remedy)
    identity = request.save_tied(own, load_identity(kept[step]), thumbnail_in(kept[step]))
    note_identity("step of an identity chosen", identity, shown(IDENTITIES, own))
    return identity


def _outcome(last: Identity, request: Request, path: Path, note: str) -> Outcome:
    identity = _chosen(last, request, path)
    prior = own_prior(identity) or request.prior
    if prior is None:
        raise DamagedFile(f"The identity {identity.metadata.name!r} lacks its own prior. Learn it again.")
    used_file = path if identity is last else _step_file(path, request.use_step)
    record, learned = last.metadata, LearnedIdentity(identity, prior, thumbnail_in(used_file))
    losses = [float(loss) for loss in record.metrics.get("losses", [])]
    course = loss_course(losses)
    first = f"{record.steps} steps, loss {course[0][1]:.4f} to {course[-1][1]:.4f}. " if course else ""
    if identity is last:
        used = result_step(record)
        first += f"{rise} " if (rise := risen_note(record)) else ""
    else:
        used = request.use_step
        first += f"Step {used} of {record.steps} is used, {shown(IDENTITIES, used_file)}. "
    first += f"{len(identity.layers)} layers, {identity.numbers / 1e6:.2g} million numbers. "
    first += f"{NO_PRIOR_NOTE} " if prior.personal else ""
    report = f"{first}{note}\nPrompt: photo of a {learned.words}, …"
    use = {"step": used, "last": result_step(record), "steps": record.steps}
    told = report_with_course(report, losses) | {"samples": samples(path), "use": [use]}
    return Outcome(learned, report, losses, told)


def _key(host: ComfyHost, clip: Any, vae: Any, request: Request) -> str:
    """Hash of everything that decides the result; what only changes speed or display is left out."""
    model, options = host.patcher, replace(request.options(host), preview_every=0)
    parts = [
        __version__,
        model_digest(model),
        part_digest(clip),
        part_digest(vae),
        prior_sha256(request.prior) if request.prior else "no prior",
        request.references.digest(),
        settings_text((options, host.resolution, request.guidance)),
        "compiled" if compile_wrappers(model) else "",
        *([request.given.digest()] if request.given.any else []),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _file_stem(trigger: str) -> str:
    stem = "".join(mark if mark.isalnum() else "_" for mark in plain_line(trigger, 32)).strip("_")
    return stem or "identity"
