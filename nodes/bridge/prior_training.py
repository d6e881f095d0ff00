"""A meta-training run from a node: data, progress, cancelling, and the file at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...metalora_core.files.prior import Prior, save_prior
from ...metalora_core.meta_training import meta_train
from ...metalora_core.photos.folder_report import find_subjects
from ...metalora_core.photos.subject_folders import FolderSubjects, left_out
from ...metalora_core.provenance.effort import Meter
from ...metalora_core.provenance.permission import PRIOR_TRAINED, Covered, prior_details, shows_nobody
from ...metalora_core.references.domain import picture_features
from ...metalora_core.training.loss_course import has_risen, loss_course
from ...metalora_core.training.meta_options import MetaTrainingOptions
from ...metalora_core.training.progress import MetaTrainingProgress
from ...metalora_core.training.retries import last_good_saved
from ...metalora_core.training.subject_batches import SubjectDataset
from .audit import note_down
from .consent import check_subjects
from .folders import (
    NEW_NAME,
    POCKET_SUBJECTS,
    PRIORS,
    input_folder,
    kept_note,
    new_file,
    shown,
    unfinished_run,
    unused_file,
)
from .given import GivenPictures, missing_note
from .host.comfy_host import ComfyHost
from .host.memory import wants_checkpointing
from .host.trial import trainable_layers
from .progress import cancellable, show_progress, show_text, stop_if_cancelled

POCKET_PHOTOS = 4
UNFINISHED_DAYS = 30  # a prior may take days to train
POCKET_COUNT = 48
LOSS_ROSE = "The loss rose: with this prior subjects are unlikely to learn well. Train with more subjects of one kind."


@dataclass(frozen=True)
class PriorRequest:
    """The widgets of the node."""

    subjects: str
    class_word: str
    filename: str
    steps: int
    subject_limit: int = 0
    r_meta: int = 64
    r_mid: int = 8
    subjects_per_batch: int = 8
    resolution: int = 512
    warm_start: Any = "mean"
    checkpointing: str = "auto"
    seed: int = 0
    existing: str = NEW_NAME

    def options(self, name: str, subjects: int, layers: tuple[str, ...]) -> MetaTrainingOptions:
        return MetaTrainingOptions(
            steps=self.steps,
            subjects_per_batch=min(self.subjects_per_batch, subjects),
            r_meta=self.r_meta,
            r_mid=self.r_mid,
            include=layers,
            warm_start=self.warm_start,
            seed=self.seed,
            class_words=(self.class_word,),
            name=name,
            read_every=max(1, min(20, self.steps // 20)),
        )


@dataclass(frozen=True)
class PriorOutcome:
    """A trained prior, its losses, and the report."""

    prior: Prior
    losses: list[float]
    report: str


@cancellable()
def train_prior(model: Any, clip: Any, vae: Any, request: PriorRequest) -> PriorOutcome:
    """Train a prior and write it into models/metalora.

    Raises:
        InterruptProcessingException: ComfyUI's own, when the user cancels; the next run continues.
    """
    asked = new_file(PRIORS, request.filename)
    path = unused_file(asked, request.existing)
    place, unfinished = shown(PRIORS, path), unfinished_run(PRIORS, path, UNFINISHED_DAYS)
    host = ComfyHost(
        model, clip, vae, resolution=request.resolution, checkpointing=wants_checkpointing(request.checkpointing, model)
    )
    missing, losses = missing_note(host.channels, GivenPictures()), list[float]()
    if missing:
        show_text(missing)

    def on_progress(progress: MetaTrainingProgress) -> None:
        losses[:] = progress.losses
        show_progress(progress.step, progress.steps, losses=losses)
        stop_if_cancelled()

    subjects, features, note, records = _subjects(request, host)
    captions = sorted({text for i in range(len(subjects)) for text in subjects.captions_of(i)})
    host.encode_prompts(captions)
    options = request.options(path.stem, len(subjects), trainable_layers(host, captions[0]))
    meter = Meter(host.device)
    with last_good_saved(path, save_prior):
        base = type(model.model.model_config).__name__
        prior = meta_train(
            host,
            subjects,
            options,
            on_progress=on_progress,
            checkpoint=unfinished,
            save=lambda made: save_prior(path, made.described(features, base)),
        )
    for details in prior_details(place, prior.sha256, records, meter.read()):
        note_down(PRIOR_TRAINED, subjects=len(subjects), **details)
    report = f"{len(subjects)} subjects, {_told(request, host, prior, losses)}. Saved {place}"
    return PriorOutcome(prior, losses, "\n".join(filter(None, [report, kept_note(asked, path), note, missing])))


def _told(request: PriorRequest, host: ComfyHost, prior: Prior, losses: list[float]) -> str:
    outputs = {target.name: target.shape[0] for target in host.targets()}
    size = sum(request.r_mid * (layer.r_meta + outputs[name]) for name, layer in prior.layers.items())
    course = loss_course(losses)
    rise = f"{LOSS_ROSE} " if has_risen(losses) else ""
    return (
        f"{request.steps} steps, loss {course[0][1]:.4f} to {course[-1][1]:.4f}. {rise}"
        f"{len(prior.layers)} layers, {size / 1e6:.2g} million numbers an identity"
    )


def _folder_subjects(request: PriorRequest, host: ComfyHost) -> tuple[FolderSubjects, str, tuple[str, ...]]:
    """The subjects of a folder in the input folder, which files in it were not read, and the records that cover it."""
    found = find_subjects(input_folder(request.subjects), request.class_word, request.subject_limit, show_photos)
    named = [(subject.path.name, subject.class_word) for subject in found]
    nobody = shows_nobody(one.shape[1] for one in host.targets())
    covered = Covered() if nobody else check_subjects(named, request.subjects)
    subjects = FolderSubjects(found, host, request.resolution, request.class_word, show_photos)
    return subjects, "\n".join(filter(None, [left_out(found), covered.reminder])), covered.records


def show_photos(done: int, count: int) -> None:
    """Move the bar, and stop if the user has cancelled."""
    show_progress(done, count)
    stop_if_cancelled()


def _subjects(request: PriorRequest, host: ComfyHost) -> tuple[SubjectDataset, Tensor, str, tuple[str, ...]]:
    """The subjects, the features of their photos, (photos, features), what was left out, and the records' ids."""
    domain = POCKET_SUBJECTS.get(request.subjects)
    if domain is None:
        subjects, note, records = _folder_subjects(request, host)
        return subjects, subjects.features, note, records
    from ...metalora_core.photos.pictures import from_uint8
    from ...metalora_core.pocket.making.dataset import PhotoPlan, rendered_photos
    from ...metalora_core.pocket.making.latents_cache import PhotoSubjects

    plan = PhotoPlan(domain, "train", request.subject_limit or POCKET_COUNT, POCKET_PHOTOS)
    photos = from_uint8(rendered_photos(plan, cache_folder()))
    return PhotoSubjects(plan, host.encode_images(photos).cpu()), picture_features(photos), "", ()


def cache_folder() -> Path:
    """Where rendered photos are kept until ComfyUI ends."""
    import folder_paths

    return Path(folder_paths.get_temp_directory()) / "metalora_pocket"
