"""A folder of subject folders as a data set for meta-training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UnusableReferences
from ..model.host import Host
from ..references.domain import picture_features
from .folder_files import FoundPhotos, photo_files, read_class_word
from .reading import load_training_set


@dataclass(frozen=True)
class SubjectFolder:
    """One subject: its folder, what it is, and the files in the folder."""

    path: Path
    class_word: str
    found: FoundPhotos


class FolderSubjects:
    """Subjects of a domain from folders, their photos encoded once.

    Captions are the texts beside the photos, else "photo of a CLASS_WORD".

    Args:
        subjects: From ``find_subjects`` of `photos.folder_report`.
        host: Encodes the photos.
        size_px: Width and height of every photo.
        domain: Name of the domain.
        on_photos: Called with the photos encoded and the photos in all; it may raise.

    Raises:
        UnusableReferences: If a photo was damaged since it was found.
    """

    def __init__(
        self,
        subjects: Sequence[SubjectFolder],
        host: Host,
        size_px: int,
        domain: str,
        on_photos: Callable[[int, int], None] | None = None,
    ) -> None:
        self.domain = domain
        self._latents: list[Tensor] = []
        self._captions: list[list[str]] = []
        self._features: list[Tensor] = []
        done, count = 0, sum(len(subject.found.files) for subject in subjects)
        for subject in subjects:
            photos = load_training_set(subject.found.files, subject.class_word, "", size_px)
            with torch.no_grad():
                rows = [host.encode_images(image[None].to(host.device)) for image in photos.images]
            self._latents.append(torch.cat(rows).float().cpu())
            self._captions.append(list(photos.captions))
            self._features.append(torch.cat([picture_features(image[None]) for image in photos.images]))
            done += len(photos.images)
            if on_photos is not None:
                on_photos(done, count)

    def __len__(self) -> int:
        """Subjects."""
        return len(self._latents)

    @property
    def features(self) -> Tensor:
        """`picture_features` of all photos, (photos, features), for a prior's domain check."""
        return torch.cat(self._features)

    def latents_of(self, subject: int) -> Tensor:
        """A subject's photos as latents (P, C, h, w)."""
        return self._latents[subject]

    def captions_of(self, subject: int) -> list[str]:
        """One caption per photo."""
        return self._captions[subject]


def find_folders(folder: Path, class_word: str, limit: int = 0) -> tuple[list[SubjectFolder], list[str]]:
    """The subjects in a folder by the names of their files, and why others are not usable; no photo is read.

    Args:
        folder: Holds one folder per subject.
        class_word: What the subjects are; a file ``class_word.txt`` in a subject's folder says otherwise for that one.
        limit: Only the first so many subjects by name; 0 for all.

    Raises:
        UnusableReferences: If the folder is missing or holds no folder.
    """
    subjects, findings = list[SubjectFolder](), list[str]()
    for path in subject_folders(folder)[: limit or None]:
        try:
            subjects.append(SubjectFolder(path, read_class_word(path, class_word), photo_files(path)))
        except UnusableReferences as error:
            findings.append(f"{path.name}: {error}")
    return subjects, findings


def left_out(subjects: Sequence[SubjectFolder]) -> str:
    """Which files of all subjects were not read and why, in one line; empty for none."""
    reasons = [f"{subject.path.name}/{reason}" for subject in subjects for reason in subject.found.left_out]
    return FoundPhotos((), tuple(reasons)).note


def subject_folders(folder: Path) -> list[Path]:
    """The folders of the subjects, by name.

    Raises:
        UnusableReferences: If the folder is missing or holds no folder.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_the_systems(path.name))
    except OSError as error:
        raise UnusableReferences(f"{folder} could not be read ({error.strerror or error}). Check the path.") from error
    if not found:
        raise UnusableReferences(f"{folder} contains no folders; give a folder with one folder of photos per subject.")
    return found


def _is_the_systems(name: str) -> bool:
    # Hidden folders, and what a zip from a Mac or a network disk puts beside a person's own.
    return name.startswith((".", "@")) or name == "__MACOSX"
