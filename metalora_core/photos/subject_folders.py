"""A folder of subject folders as a data set for meta-training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import UnusableReferences
from ..model.host import Host
from ..references.domain import picture_features
from .reading import load_training_set


class FolderSubjects:
    """One subject per sub-folder, its photos encoded once.

    A sub-folder's class word is ``class_word``, or the text of a file ``class_word.txt`` in it. Captions are the text
    files beside the photos, else "photo of a CLASS_WORD".

    Args:
        folder: Holds one folder per subject.
        host: Encodes the photos.
        class_word: What the subjects are.
        size_px: Width and height of every photo.
        domain: Name of the domain; the class word if empty.
        limit: Only the first so many subjects by name; 0 for all.

    Raises:
        UnusableReferences: If there are no subjects, or one has no usable photo; all findings at once.
    """

    def __init__(
        self, folder: Path, host: Host, class_word: str, size_px: int, domain: str = "", limit: int = 0
    ) -> None:
        self.domain = domain or class_word
        self._latents: list[Tensor] = []
        self._captions: list[list[str]] = []
        self._features: list[Tensor] = []
        findings: list[str] = []
        for subject in subject_folders(folder)[: limit or None]:
            try:
                photos = load_training_set([subject], _class_word(subject, class_word), "", size_px)
            except UnusableReferences as error:
                findings.append(f"{subject.name}: {error}")
                continue
            with torch.no_grad():
                rows = [host.encode_images(image[None].to(host.device)) for image in photos.images]
            self._latents.append(torch.cat(rows).float().cpu())
            self._captions.append(list(photos.captions))
            self._features.append(torch.cat([picture_features(image[None]) for image in photos.images]))
        if findings:
            raise UnusableReferences("Some subjects cannot be used. " + " ".join(findings))

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
        raise UnusableReferences(f"{folder} holds no folders; give a folder with one folder of photos per subject.")
    return found


def _is_the_systems(name: str) -> bool:
    # Hidden folders, and what a zip from a Mac or a network disk puts beside a person's own.
    return name.startswith((".", "@")) or name == "__MACOSX"


def _class_word(subject: Path, default: str) -> str:
    own = subject / "class_word.txt"
    if not own.is_file():
        return default
    try:
        return own.read_text(encoding="utf-8").strip() or default
    except (UnicodeDecodeError, OSError) as error:
        raise UnusableReferences(f"{own} could not be read as UTF-8 text ({error}). Save it again.") from error
