"""A folder of subjects learned from a node: what is shown meanwhile, and where the identities are kept."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...metalora_core.errors import InvalidOptions, UnreadableFile
from ...metalora_core.files.atomic import atomic_write
from ...metalora_core.files.identity import Identity, load_identity, own_prior, save_identity
from ...metalora_core.files.prior import Prior, targets_of_prior
from ...metalora_core.many.folder import FolderPlan, FolderRun, Permitted
from ...metalora_core.many.manifest import ManifestRow, write_manifest
from ...metalora_core.photos.captions import word_findings
from ...metalora_core.photos.folder_files import CLASS_WORD_FILE
from ...metalora_core.photos.pictures import save_picture, to_pil
from ...metalora_core.photos.training_set import chosen_flip
from ...metalora_core.provenance.consent import Purpose
from ...metalora_core.provenance.effort import Effort
from ...metalora_core.provenance.permission import IDENTITY_LEARNED, IDENTITY_TIED, Use, shows_nobody, tied
from ...metalora_core.training.adaptation_options import AdaptationOptions
from ...metalora_core.training.personal_prior import usual_options
from .audit import note_identity
from .consent import require_permission_by_name
from .folders import ADAPTED, IDENTITIES, POCKET_SUBJECTS, input_folder, new_file, shown
from .host.comfy_host import ComfyHost
from .host.digests import part_digest, uncompared
from .host.memory import wants_checkpointing
from .host.targets import targets_of
from .host.trial import try_out
from .image_tensors import from_image
from .learned import LearnedIdentity
from .permissions import permissions
from .photos import trained_px
from .pocket_model import pocket_photos
from .prior_training import cache_folder
from .progress import cancellable, show_progress, show_text, stop_if_cancelled

_MANIFEST = "manifest.csv"
_SAMPLES, _SAMPLE_PHOTOS = 4, 2


@dataclass(frozen=True)
class ManyRequest:
    """The widgets of the node, 0 standing for the preset."""

    subjects: str
    class_word: str
    trigger: str
    prior: Prior | None = None
    steps: int = 0
    seed: int = 0
    side_by_side: int = 4
    resolution: int = 0
    mirror: str = "auto"

    def check(self) -> None:
        if wrong := word_findings(self.trigger.strip(), self.class_word.strip()):
            raise InvalidOptions(f"Adapt Many: {'; '.join(wrong)}.")

    def options(self, host: ComfyHost, photos: int, class_word: str) -> AdaptationOptions:
        preset = usual_options(host, self.prior, photos)
        flip = chosen_flip(self.mirror, preset.flip, class_word)
        return replace(preset, steps=self.steps or preset.steps, seed=self.seed, flip=flip)


@dataclass(frozen=True)
class ManyOutcome:
    """What the node gives out: the identities and the names of their folders, in one order."""

    learned: list[LearnedIdentity]
    names: list[str]
    report: str


@torch.inference_mode(False)
@cancellable()
def adapt_many(model: Any, clip: Any, vae: Any, request: ManyRequest) -> ManyOutcome:
    """Learn every subject of a folder that was not learned before.

    Raises:
        InterruptProcessingException: ComfyUI's own, when the user cancels; the next run continues.
    """
    request.check()
    source = _source(request.subjects)
    resolution = request.resolution or trained_px(request.prior)
    spared = wants_checkpointing("auto", model)
    host = ComfyHost(model, clip, vae, resolution=resolution, checkpointing=spared)
    caption = f"photo of a {request.trigger.strip()} {request.class_word.strip()}"
    if request.prior is not None:
        try_out(host, targets_of_prior(request.prior, host.targets()), caption)
    unknown = uncompared(model, clip, vae)
    also = uuid.uuid4().hex if unknown else part_digest(clip) + part_digest(vae)
    output = new_file(IDENTITIES, f"{ADAPTED}/{request.subjects}/{_MANIFEST}", ".csv").parent
    reminders = set[str]()
    plan = FolderPlan(
        source,
        output,
        request.class_word.strip(),
        request.trigger.strip(),
        resolution,
        prior_for=lambda word: request.prior,
        options_for=lambda used, photos, word: request.options(host, photos, word),
        permitted=_asker(shows_nobody(one.shape[1] for one in targets_of(model)), reminders),
        side_by_side=request.side_by_side,
        also=also,
    )
    run = FolderRun(host, plan, on_subject=_on_subject, on_failure=_on_failure)
    with torch.enable_grad():
        rows = run.learn()
    write_manifest(output, rows, parquet=True)
    told = [f"Trained from the start each time: {', '.join(unknown)} cannot be compared."] if unknown else []
    return _outcome(rows, request.prior, output, [*told, *sorted(reminders)])


def _source(subjects: str) -> Path:
    """The folder of the subjects; that of the pocket model's samples is written first."""
    if subjects not in POCKET_SUBJECTS:
        return input_folder(subjects)
    domain = POCKET_SUBJECTS[subjects]
    folder = cache_folder() / "many" / domain
    for number in range(1, _SAMPLES + 1):
        photos, _, word = pocket_photos(domain, number, _SAMPLE_PHOTOS, 0)
        own = folder / f"{domain}_{number}"
        for index, photo in enumerate(from_image(photos)):
            save_picture(to_pil(photo), own / f"{index}.png")
        atomic_write(own / CLASS_WORD_FILE, [word.encode()])
    return folder


def _asker(nobody: bool, reminders: set[str]) -> Callable[[str, str, Sequence[str]], Permitted]:
    def ask(name: str, word: str, photos: Sequence[str]) -> Permitted:
        record, reminder = require_permission_by_name(name, Use(Purpose.TRAINING, word, photos, nobody=nobody))
        if reminder:
            reminders.add(reminder)

        def save(path: Path, identity: Identity, effort: Effort) -> None:
            saved = identity if record is None else tied(identity, record, permissions().installation)
            save_identity(path, saved)
            note_identity(IDENTITY_LEARNED if effort else IDENTITY_TIED, saved, shown(IDENTITIES, path), effort)

        return Permitted(record, save)

    return ask


def _on_subject(done: int, count: int, loss: float) -> None:
    show_progress(done, count)
    stop_if_cancelled()


def _on_failure(name: str, reason: str) -> None:
    show_text(f"{name} was not learned: {reason}")


def _outcome(rows: Sequence[ManifestRow], prior: Prior | None, output: Path, notes: list[str]) -> ManyOutcome:
    learned = list[LearnedIdentity]()
    for row in (row for row in rows if row.file):
        identity = load_identity(output / row.file)
        used = own_prior(identity) or prior
        if used is not None:
            learned.append(LearnedIdentity(identity, used))
    counts = {state: sum(row.state == state for row in rows) for state in ("learned", "known", "failed")}
    lines = [
        f"{counts['learned']} subjects learned, {counts['known']} known from before, {counts['failed']} failed.",
        *(f"{row.subject} was not learned: {row.failure}" for row in rows if row.failure),
        f"Saved {shown(IDENTITIES, output / _MANIFEST)}.",
        *notes,
    ]
    return ManyOutcome(learned, [row.subject for row in rows if row.file], "\n".join(lines))


def folder_state(subjects: str) -> str:
    """Changes whenever a file of the folder changes, so that ComfyUI runs the node again."""
    digest = hashlib.sha256()
    with suppress(InvalidOptions, UnreadableFile, OSError):
        for path in sorted(input_folder(subjects).rglob("*")):
            state = path.stat()
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
