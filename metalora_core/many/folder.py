"""A folder of subject folders learned into a folder of identity files, with a manifest, so that a run can resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..adaptation import run_digest
from ..errors import InvalidOptions, MetaLoRAError, UnreadableFile
from ..files.identity import Identity, load_identity
from ..files.prior import Prior
from ..files.sweep import unfinished_beside
from ..model.host import Host
from ..photos.folder_files import read_class_word
from ..photos.reading import ReadPhotos, read_photos, split_training_set
from ..photos.subject_folders import subject_folders
from ..provenance.effort import DEVICE, SECONDS, Effort, device_name
from ..training.adaptation_options import AdaptationOptions
from ..training.adaptation_state import risen_note
from ..training.personal_prior import own_targets, personal_prior
from .learning import Learned, ReadySubject, learn_many
from .manifest import ManifestRow, read_manifest, write_manifest

__all__ = ["REPLACES_NOTE", "RUN", "FolderPlan", "FolderRun", "Permitted"]

REPLACES_NOTE = "It replaces what an earlier run had learned from other photos or settings."

RUN = "run"
"""Entry of an identity's metrics: hash of everything that decided it."""


@dataclass(frozen=True)
class Permitted:
    """That a subject may be learned.

    Args:
        record: Id of the consent record that its identity is tied to, or None.
        save: Saves the identity, tied to the record, and logs what learning it took.
    """

    record: str | None
    save: Callable[[Path, Identity, Effort], object]


@dataclass(frozen=True)
class FolderPlan:
    """What is learned, and how.

    Args:
        source: Folder with one folder of photos per subject.
        output: Folder for the identities and the manifest; not inside ``source``.
        class_word: What the subjects are; ``class_word.txt`` in a subject's folder says otherwise for that one.
        trigger: The word that calls each of them.
        size_px: Width and height of the training pictures.
        prior_for: Prior for a class word, or None to learn without.
        options_for: Settings for a prior, a number of photos to learn from, and a class word.
        permitted: Asks whether a subject (name, class word, hashes of its photos) may be learned.
        held_out: Photos held out of each subject for early stopping.
        side_by_side: Most subjects in one pass.
        also: Text for whatever else decides the results, such as the text encoder of a host.
    """

    source: Path
    output: Path
    class_word: str
    trigger: str
    size_px: int
    prior_for: Callable[[str], Prior | None]
    options_for: Callable[[Prior | None, int, str], AdaptationOptions]
    permitted: Callable[[str, str, Sequence[str]], Permitted]
    held_out: int = 0
    side_by_side: int = 1
    also: str = ""


@dataclass
class FolderRun:
    """A run over a folder.

    Args:
        host: The base model; it is left unchanged.
        plan: What is learned.
        on_subject: Called with the subjects done, all subjects and the latest loss; it may raise ``TrainingCancelled``.
        on_failure: Called with the name and reason of each subject that could not be learned.
    """

    host: Host
    plan: FolderPlan
    on_subject: Callable[[int, int, float], None] | None = None
    on_failure: Callable[[str, str], None] | None = None
    photos: Mapping[str, Sequence[Path]] = field(default_factory=dict[str, Sequence[Path]])
    """Photos of some subjects that are learned from; of the others, all."""
    rows: dict[str, ManifestRow] = field(default_factory=dict[str, ManifestRow])
    """By subject, those that are done."""

    def __post_init__(self) -> None:
        """Read what an earlier run has left."""
        self.names = [folder.name for folder in subject_folders(self.plan.source)]
        self._earlier = read_manifest(self.plan.output)
        self._ready: dict[str, tuple[Permitted, str, list[str]]] = {}
        self._personal: dict[str, Prior] = {}
        self._loss = float("nan")

    def learn(self) -> list[ManifestRow]:
        """Learn every subject that is not there yet; returns a row for each, in the order of their names.

        Raises:
            TrainingCancelled: From ``on_subject``; the same call resumes.
            UnwritableFile: If the manifest cannot be written.
        """
        learn_many(self.host, self._subjects(), self.plan.side_by_side, finished=self._finished, on_look=self._looked)
        self._looked(self._loss)
        return self.sorted_rows

    @property
    def sorted_rows(self) -> list[ManifestRow]:
        """A row for each subject that is done, by name."""
        return [self.rows[name] for name in self.names if name in self.rows]

    def identity_path(self, name: str) -> Path:
        """Where a subject's identity is."""
        return self.plan.output / f"{name}.safetensors"

    def _subjects(self) -> Iterator[ReadySubject]:
        for name in self.names:
            try:
                ready = self._prepared(name)
            except (MetaLoRAError, OSError) as error:
                self._done(ManifestRow(name, "failed", failure=str(error)))
                ready = None
            if ready is not None:
                yield ready
            else:
                self._looked(self._loss)

    def _prepared(self, name: str) -> ReadySubject | None:
        """A subject with its photos, or None if an earlier run has learned it from the same."""
        plan, folder = self.plan, self.plan.source / name
        word = read_class_word(folder, plan.class_word)
        prior = plan.prior_for(word)
        read = read_photos(self.photos.get(name, [folder]), word, plan.trigger)
        permitted = plan.permitted(name, word, [photo.sha256 for photo in read.photos])
        notes = read.remarks(plan.size_px, prior)
        photos, validation = split_training_set(read.training_set(plan.size_px), plan.held_out)
        options = plan.options_for(prior, len(photos.images), word)
        used = prior or self._without_prior(options)
        digest = run_digest(self.host, options, used, photos, validation) + plan.also
        digest = hashlib.sha256(digest.encode()).hexdigest() if plan.also else digest
        if self._known(name, digest, read, permitted):
            return None
        notes += [REPLACES_NOTE] if self.identity_path(name).exists() else []
        self._ready[name] = (permitted, digest, notes)
        unfinished = unfinished_beside(self.identity_path(name))
        return ReadySubject(name, photos, used, options, validation, unfinished)

    def _without_prior(self, options: AdaptationOptions) -> Prior:
        key = f"{options.r_mid} {options.seed}"
        if key not in self._personal:
            self._personal[key] = personal_prior(self.host, own_targets(self.host), options, self.plan.size_px)
        return self._personal[key]

    def _known(self, name: str, digest: str, read: ReadPhotos, permitted: Permitted) -> bool:
        path = self.identity_path(name)
        identity = _of_earlier_run(path) if path.exists() else None
        if identity is None or identity.metadata.metrics[RUN] != digest:
            return False
        before = self._earlier.get(name)
        if before is None or before.run != digest or before.state == "failed":
            before = _row(name, identity, digest, len(read.photos) - self.plan.held_out)
        if permitted.record not in (None, identity.metadata.consent_id):  # recorded since it was learned
            permitted.save(path, identity, {})
        self._done(replace(before, state="known"))
        return True

    def _finished(self, learned: Learned) -> None:
        name, result = learned.subject.name, learned.result
        permitted, digest, notes = self._ready.pop(name)
        try:
            if result is None:
                raise MetaLoRAError(learned.failure)
            record = result.identity.metadata
            described = record.model_copy(update={"name": name, "metrics": {**record.metrics, RUN: digest}})
            identity = replace(result.identity, metadata=described)
            effort = {SECONDS: round(result.seconds, 3), DEVICE: device_name(self.host.device)}
            permitted.save(self.identity_path(name), identity, effort)
        except MetaLoRAError as error:
            photos = len(learned.subject.photos.images)
            word, trigger = learned.subject.photos.class_word, learned.subject.photos.trigger
            self._done(
                ManifestRow(name, "failed", "", word, trigger, photos, warnings="\n".join(notes), failure=str(error))
            )
            return
        warnings = [*notes, *result.notes, *filter(None, [risen_note(described)])]
        row = _row(name, identity, digest, len(learned.subject.photos.images))
        self._loss = row.final_loss
        self._done(
            replace(
                row,
                seconds=round(result.seconds, 3),
                side_by_side=learned.together,
                warnings="\n".join(warnings),
            )
        )

    def _done(self, row: ManifestRow) -> None:
        self.rows[row.subject] = row
        known = {**self._earlier, **self.rows}  # a run that is broken off keeps the rows of the one before
        write_manifest(self.plan.output, [known[name] for name in self.names if name in known])
        if row.failure and self.on_failure is not None:
            self.on_failure(row.subject, row.failure)

    def _looked(self, loss: float) -> None:
        self._loss = loss
        if self.on_subject is not None:
            self.on_subject(len(self.rows), len(self.names), loss)


def _of_earlier_run(path: Path) -> Identity:
    """The identity in a file, if a run like this one has learned it; any other file is not for us to replace."""
    try:
        identity = load_identity(path)
        found = "" if {RUN, "final_loss"} <= identity.metadata.metrics.keys() else "another command made it"
    except UnreadableFile as error:
        identity, found = None, str(error).rstrip(".")
    if identity is None or found:
        raise InvalidOptions(f"{path} is in the way: {found}. Move it, or choose another output folder.")
    return identity


def _row(name: str, identity: Identity, digest: str, photos: int) -> ManifestRow:
    record = identity.metadata
    return ManifestRow(
        subject=name,
        state="learned",
        file=f"{name}.safetensors",
        class_word=record.class_word,
        trigger=record.trigger,
        photos=photos,
        steps=record.steps,
        final_loss=round(float(str(record.metrics["final_loss"])), 6),
        settings=json.dumps(record.settings, sort_keys=True),
        run=digest,
    )
