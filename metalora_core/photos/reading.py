"""From photos and folders on disk to what the two trainings learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import UnusableReferences
from ..files.prior import Prior
from ..references.findings import Severity
from ..references.quality import QualityThresholds
from ..references.report import assess_references
from .images import Photo, fit, load_photos
from .training_set import TrainingSet


def caption_for(photo: Path | None, class_word: str, trigger: str) -> str:
    """The caption of a photo: the text file of the same name beside it, else "photo of a TRIGGER WORD".

    Raises:
        UnusableReferences: If the text file is not UTF-8 or lacks the trigger, so that nothing would learn the word.
    """
    words = f"{trigger} {class_word}".strip()
    beside = photo.with_suffix(".txt") if photo is not None else None
    if beside is None or not beside.is_file():
        return f"photo of a {words}"
    try:
        caption = " ".join(beside.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise UnusableReferences(f"{beside} is not UTF-8 text. Save the caption as UTF-8.") from error
    except OSError as error:
        raise UnusableReferences(f"{beside} could not be read ({error.strerror or error}). Check the file.") from error
    if trigger and trigger not in caption:
        raise UnusableReferences(
            f"{beside} does not mention {trigger!r}: {caption[:80]!r}. Write the caption as "
            f'"photo of a {words}, …", so that the word is learned.'
        )
    return caption


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
        trigger: Word that will call it.
        size_px: Width and height that every photo is cropped and scaled to.
        on_note: Told what was changed while a photo was read, such as a first frame taken, and what could be better:
            a blurred photo, the same one twice, one that the prior does not know the like of. None: nobody looks.
        prior: That the photos will be learned with.

    Raises:
        UnusableReferences: If there is no photo, or a photo or caption cannot be used.
    """
    photos = load_photos(paths)
    if on_note is not None:
        for note in _remarks(photos, size_px, prior):
            on_note(note)
    return TrainingSet(
        images=tuple(fit(photo, size_px) for photo in photos),
        captions=tuple(caption_for(photo.path, class_word, trigger) for photo in photos),
        class_word=class_word,
        trigger=trigger,
        photo_hashes=tuple(photo.sha256 for photo in photos),
    )


def _remarks(photos: Sequence[Photo], size_px: int, prior: Prior | None) -> list[str]:
    report = assess_references(
        photos,
        thresholds=QualityThresholds(training_side_px=size_px),
        domain=prior.features if prior is not None else None,
        domain_name=prior.metadata.domain if prior is not None else "",
    )
    report.require_usable()
    changed = [f"{photo.name}: {note}" for photo in photos for note in photo.notes]
    return changed + [finding.text for finding in report.findings if finding.severity is Severity.WARNING]


def split_training_set(photos: TrainingSet, held_out: int) -> tuple[TrainingSet, TrainingSet | None]:
    """Keep the last ``held_out`` photos aside for early stopping.

    Raises:
        UnusableReferences: If no photo would be left to learn from.
    """
    count = len(photos.images)
    if held_out >= count:
        raise UnusableReferences(
            f"Found {count} photo(s), and {held_out} should be held out. Hold out fewer, or give more photos."
        )
    if not held_out:
        return photos, None
    return photos.part(0, count - held_out), photos.part(count - held_out, count)
