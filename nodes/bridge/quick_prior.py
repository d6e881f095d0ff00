"""A quick prior from a node: subjects, LoRA files or both, measured at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...metalora_core.errors import IncompatibleBaseModel, InvalidOptions, MissingDependency
from ...metalora_core.files.lora_files import FoundLoRAs, LayerRows, layer_names, lora_files, read_loras
from ...metalora_core.files.prior import Prior, save_prior
from ...metalora_core.model.families import family_of_shapes
from ...metalora_core.model.targets import Target
from ...metalora_core.photos.folder_report import find_subjects
from ...metalora_core.photos.pictures import from_pil
from ...metalora_core.photos.reading import caption_for
from ...metalora_core.photos.subject_folders import FolderSubjects, SubjectFolder, left_out
from ...metalora_core.photos.training_set import TrainingSet
from ...metalora_core.provenance.effort import Meter
from ...metalora_core.provenance.permission import PRIOR_TRAINED, Covered, prior_details, shows_nobody
from ...metalora_core.quick.making import QuickSources, advice, in_words, lora_targets, quick_prior, require_license
from ...metalora_core.references.domain import picture_features
from ...metalora_core.training.meta_options import MetaTrainingOptions
from ...metalora_core.training.progress import MetaTrainingProgress
from ...metalora_core.training.retries import last_good_saved
from .audit import note_down
from .consent import check_subjects
from .folders import (
    NEW_NAME,
    NOTHING,
    POCKET_SUBJECTS,
    PRIORS,
    input_folder,
    kept_note,
    lora_folder,
    new_file,
    shown,
    unfinished_run,
    unused_file,
)
from .host.comfy_host import ComfyHost
from .host.memory import wants_checkpointing
from .host.trial import trainable_layers
from .image_tensors import to_image
from .prior_training import POCKET_PHOTOS, UNFINISHED_DAYS, cache_folder, show_photos
from .progress import cancellable, show_progress, show_text, stop_if_cancelled

_POCKET_COUNT = 20
_NO_PICTURE_PX = 64


@dataclass(frozen=True)
class QuickRequest:
    """The widgets of the node."""

    subjects: str
    loras: str
    class_word: str
    license: str
    filename: str
    steps: int
    left_out: int = 2
    subjects_per_batch: int = 8
    resolution: int = 512
    checkpointing: str = "auto"
    seed: int = 0
    existing: str = NEW_NAME

    def check(self) -> None:
        if self.subjects == NOTHING and self.loras == NOTHING:
            raise InvalidOptions("There is nothing to make a prior of; choose a folder under subjects or loras.")
        if self.loras != NOTHING:
            require_license(self.license, "Write under license by")

    def options(self, name: str, layers: tuple[str, ...]) -> MetaTrainingOptions:
        return MetaTrainingOptions(
            steps=self.steps,
            subjects_per_batch=self.subjects_per_batch,
            include=layers,
            seed=self.seed,
            class_words=(self.class_word,),
            name=name,
            license=self.license.strip(),
            read_every=max(1, min(20, self.steps // 20)),
        )


@dataclass(frozen=True)
class QuickOutcome:
    """The prior, the picture as IMAGE, and the report."""

    prior: Prior
    picture: Tensor
    report: str


@dataclass(frozen=True)
class _Data:
    """What is learned from, what is kept aside, what was left out, and the consent records that cover it."""

    sources: QuickSources
    aside: list[TrainingSet]
    note: str
    records: tuple[str, ...] = ()


@cancellable()
def make_quick_prior(model: Any, clip: Any, vae: Any, request: QuickRequest) -> QuickOutcome:
    """Make a prior, write it into models/metalora, and measure it.

    Raises:
        InterruptProcessingException: ComfyUI's own, when the user cancels; the next run continues.
    """
    request.check()
    asked = new_file(PRIORS, request.filename)
    path = unused_file(asked, request.existing)
    unfinished = unfinished_run(PRIORS, path, UNFINISHED_DAYS)
    host = ComfyHost(
        model, clip, vae, resolution=request.resolution, checkpointing=wants_checkpointing(request.checkpointing, model)
    )
    caption = caption_for(None, request.class_word, "")
    host.encode_prompts([caption, ""])
    options = request.options(path.stem, trainable_layers(host, caption))
    data = _data(request, host, options)
    base, features = type(model.model.model_config).__name__, data.sources.photos
    meter = Meter(host.device)
    with last_good_saved(path, save_prior):
        prior = quick_prior(
            host,
            data.sources,
            options,
            on_forecast=lambda seconds: show_text(f"The training will take about {in_words(seconds)}."),
            on_progress=_show_step,
            checkpoint=unfinished,
            save=lambda made: save_prior(path, made.described(torch.empty(0) if features is None else features, base)),
        )
    place = shown(PRIORS, path)
    for details in prior_details(place, prior.sha256, data.records, meter.read()):
        note_down(PRIOR_TRAINED, **details)
    scores, picture = _measured(host, prior, data.aside, request.seed)
    lines = [scores, advice(data.sources, len(data.aside)), data.note, f"Saved {place}", kept_note(asked, path)]
    return QuickOutcome(prior, picture, "\n".join(filter(None, lines)))


def _show_step(progress: MetaTrainingProgress) -> None:
    show_progress(progress.step, progress.steps, losses=progress.losses)
    stop_if_cancelled()


def _data(request: QuickRequest, host: ComfyHost, options: MetaTrainingOptions) -> _Data:
    from ...metalora_core.quick.left_out import aside, photos_aside

    folders, notes, covered = list[SubjectFolder](), list[str](), list[Covered]()
    nobody = shows_nobody(one.shape[1] for one in host.targets())
    if request.subjects != NOTHING and request.subjects not in POCKET_SUBJECTS:
        folders = find_subjects(input_folder(request.subjects), request.class_word, on_photos=show_photos)
        notes.append(left_out(folders))
        if not nobody:
            covered.append(check_subjects([(one.path.name, one.class_word) for one in folders], request.subjects))
    targets, found = lora_targets(host, options), None
    if request.loras != NOTHING:
        folder = lora_folder(request.loras)
        if not nobody:
            covered.append(
                check_subjects([(path.stem, request.class_word) for path in lora_files(folder)], folder.name)
            )
        found = read_loras(folder, names_in_comfyui(host, targets), targets, show_photos)
        notes.append(found.note)
    note = "\n".join(filter(None, [*notes, *(one.reminder for one in covered)]))
    records = tuple(record for one in covered for record in one.records)
    if request.subjects in POCKET_SUBJECTS:
        return _Data(*_pocket_data(request, host, found), note, records)
    (folders, others), (found, files) = aside(folders, found, request.left_out)
    photos = photos_aside(host, others, files, targets, request.class_word, request.resolution, 1.0)
    data = FolderSubjects(folders, host, request.resolution, request.class_word, show_photos) if folders else None
    if data is not None:
        host.encode_prompts(sorted({text for i in range(len(data)) for text in data.captions_of(i)}))
    return _Data(QuickSources(request.class_word, data, found, data.features if data else None), photos, note, records)


def names_in_comfyui(host: ComfyHost, targets: Sequence[Target]) -> dict[str, LayerRows]:
    """Every name that ComfyUI's LoRA loaders know for a layer of a model, and diffusers' where that is installed."""
    from comfy.lora import model_lora_keys_unet

    by_key = {f"diffusion_model.{target.name}.weight": target for target in targets}
    names = dict[str, LayerRows]()
    for name, place in model_lora_keys_unet(host.patcher.model, {}).items():
        key, *cut = place if isinstance(place, tuple) else (place,)
        target = by_key.get(key)
        if target is None or len(cut) > 1 or (cut and cut[0][0] != 0):  # columns, or rows in another order
            continue
        start, count = cut[0][1:] if cut else (0, target.shape[0])
        names[name] = LayerRows(target.name, start, start + count)
    return _names_in_diffusers(host, targets) | names


def _names_in_diffusers(host: ComfyHost, targets: Sequence[Target]) -> dict[str, LayerRows]:
    shapes = {target.name: target.shape for target in targets}
    family = family_of_shapes(host.family, shapes)
    if family is not None:
        with suppress(MissingDependency, IncompatibleBaseModel):
            from ...metalora_core.hosts.target_map import named_targets

            return layer_names(named_targets(family, shapes), family.component)
    return {}


def _pocket_data(
    request: QuickRequest, host: ComfyHost, found: FoundLoRAs | None
) -> tuple[QuickSources, list[TrainingSet]]:
    """Rendered subjects of the pocket model, and others that are kept aside."""
    from ...metalora_core.photos.pictures import from_uint8
    from ...metalora_core.pocket.making.dataset import PhotoPlan, rendered_photos
    from ...metalora_core.pocket.making.latents_cache import PhotoSubjects

    plan = PhotoPlan(POCKET_SUBJECTS[request.subjects], "train", _POCKET_COUNT + request.left_out, POCKET_PHOTOS)
    photos, first = from_uint8(rendered_photos(plan, cache_folder())), _POCKET_COUNT * POCKET_PHOTOS
    captions = plan.captions()
    aside = [
        TrainingSet(
            tuple(photos[i : i + POCKET_PHOTOS]), tuple(captions[i : i + POCKET_PHOTOS]), request.class_word, ""
        )
        for i in range(first, len(photos), POCKET_PHOTOS)
    ]
    subjects = PhotoSubjects(plan, host.encode_images(photos).cpu(), _POCKET_COUNT)
    return QuickSources(request.class_word, subjects, found, picture_features(photos[:first])), aside


def _measured(host: ComfyHost, prior: Prior, photos: list[TrainingSet], seed: int) -> tuple[str, Tensor]:
    from ...metalora_core.quick.left_out import compare_on_left_out

    if not photos:
        return "Nothing was kept aside to measure the prior with.", torch.zeros(1, _NO_PICTURE_PX, _NO_PICTURE_PX, 3)
    scores = compare_on_left_out(host, prior, photos, seed=seed, on_subject=show_photos)
    return scores.text, to_image(from_pil(scores.picture)[None])
