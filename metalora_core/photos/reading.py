"""From photos and folders on disk to training sets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UnusableReferences
from ..files.prior import Prior
from ..references.findings import Severity
from ..references.report import assess_references
from .captions import mentions, subject_words, with_subject
from .folder_files import photo_files, read_caption
from .images import Photo, fit, load_photo
from .pictures import pixels_sha256
from .training_set import TrainingSet


@dataclass(frozen=True)
class ReadPhotos:
    """Photos of a subject with their captions, before a model has said how large it wants them.

    Args:
        photos: In the order given, each folder by name.
        captions: One per photo.
        class_word: What the subject is.
        trigger: The word to call it by.
        note: Which files were left out and why, in one line; empty for none.
    """

    photos: tuple[Photo, ...]
    captions: tuple[str, ...]
    class_word: str
    trigger: str
    note: str = ""

    def remarks(self, size_px: int, prior: Prior | None = None) -> list[str]:
        """What was changed or left out while reading, and what could be better, one line each.

        Args:
            size_px: Side of the training pictures.
            prior: The prior that the photos will be used with.

        Raises:
            UnusableReferences: If a photo is unusable.
        """
        report = assess_references(
            self.photos,
            training_side_px=size_px,
            domain=prior.features if prior is not None else None,
            domain_name=prior.metadata.domain if prior is not None else "",
        )
        report.require_usable()
        changed = [f"{photo.name}: {note}" for photo in self.photos for note in photo.notes]
        warned = [finding.text for finding in report.findings if finding.severity is Severity.WARNING]
        return [*([self.note] if self.note else []), *changed, *warned]

    def known_by(self, hashes: Collection[str]) -> ReadPhotos:
        """The same, each photo by the hash of its pixels where that is among the hashes, and of its file elsewhere.

        ComfyUI hands pixels to the nodes, so records that were made there name photos by those.
        """

        def known(photo: Photo) -> Photo:
            pixels = pixels_sha256(photo.pixels)
            return replace(photo, sha256=pixels) if pixels in hashes else photo

        return replace(self, photos=tuple(map(known, self.photos))) if hashes else self

    def training_set(self, size_px: int) -> TrainingSet:
        """The photos cropped and scaled to squares of this side."""
        return TrainingSet(
            images=tuple(fit(photo, size_px) for photo in self.photos),
            captions=self.captions,
            class_word=self.class_word,
            trigger=self.trigger,
            photo_hashes=tuple(photo.sha256 for photo in self.photos),
        )


def caption_for(photo: Path | None, class_word: str, trigger: str) -> str:
    """The caption of a photo: the text beside it, else "photo of a TRIGGER WORD".

    Read are a.txt, a.caption and a.json (a text, or one under "caption" or "text"), or a.jpg.txt and so on.

    Raises:
        UnusableReferences: If the text is not UTF-8 or lacks the trigger, so that nothing would learn the word.
    """
    words = subject_words(trigger, class_word)
    found = read_caption(photo) if photo is not None else None
    if found is None:
        return f"photo of a {words}"
    file, caption = found
    if not trigger:
        return caption or f"photo of a {words}"
    if not mentions(caption, trigger):
        raise UnusableReferences(
            f"{file} does not mention {trigger!r}: {caption[:80]!r}. Write the caption as "
            f'"photo of a {words}, …", so that the word is learned.'
        )
    return with_subject(caption, trigger, class_word)


def read_photos(paths: Sequence[Path | str], class_word: str = "", trigger: str = "") -> ReadPhotos:
    """Read photos and their captions; no model is needed.

    Raises:
        UnusableReferences: If there is no photo, or a photo or caption cannot be used; all findings at once.
    """
    photos: list[Photo] = []
    captions: list[str] = []
    notes: list[str] = []
    findings: list[str] = []
    for path in paths:
        try:
            found = photo_files(path)
        except UnusableReferences as error:
            findings.append(str(error))
            continue
        notes += [found.note] if found.note else []
        for file in found.files:
            try:
                captions.append(caption_for(file, class_word, trigger))
                photos.append(load_photo(file))
            except UnusableReferences as error:
                findings.append(str(error))
    if findings:
        raise UnusableReferences("\n".join(findings))
    if not photos:
        raise UnusableReferences("No photos given. Give one to eight photos, or a folder of them.")
    return ReadPhotos(tuple(photos), tuple(captions), class_word, trigger, " ".join(notes))


def load_training_set(
    paths: Sequence[Path],
    class_word: str,
    trigger: str,
    size_px: int,
    on_note: Callable[[str], None] | None = None,
    prior: Prior | None = None,
) -> TrainingSet:
    """Read photos and their captions.

    Args:
        paths: Photos, or folders of them.
        class_word: What the subject is.
        trigger: The word to call it by.
        size_px: Width and height that every photo is cropped and scaled to.
        on_note: Called with each of `ReadPhotos.remarks`; None skips looking for them.
        prior: The prior that the photos will be used with.

    Raises:
        UnusableReferences: If there is no photo, or a photo or caption is not usable.
    """
    read = read_photos(paths, class_word, trigger)
    if on_note is not None:
        for note in read.remarks(size_px, prior):
            on_note(note)
    return read.training_set(size_px)


def require_left(count: int, held_out: int) -> None:
    """Refuse to hold out all of ``count`` photos.

    Raises:
        UnusableReferences: If no photo would be left to learn from.
    """
    if held_out >= count:
        raise UnusableReferences(
            f"Found {count} photo(s), but {held_out} should be held out. Hold out fewer, or give more photos."
        )


def split_training_set(photos: TrainingSet, held_out: int) -> tuple[TrainingSet, TrainingSet | None]:
    """Hold out the last ``held_out`` photos for early stopping.

    Raises:
        UnusableReferences: If no photo would be left to learn from.
    """
    count = len(photos.images)
    require_left(count, held_out)
    if not held_out:
        return photos, None
    return photos.part(0, count - held_out), photos.part(count - held_out, count)
