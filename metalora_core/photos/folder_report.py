"""What is in a folder of subject folders: what cannot be used, and what is there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..checks import plain_line
from ..errors import UnusableReferences
from .folder_files import read_caption
from .images import load_photo
from .pictures import pixels_sha256
from .reading import caption_for
from .subject_folders import SubjectFolder, find_folders, left_out

_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class FolderReport:
    """What was found.

    Args:
        subjects: Those with at least one usable photo, without the others.
        broken: A photo, caption or folder that cannot be used, and why, one text each.
        twice: Photos of one subject with the same pixels, "SUBJECT: FIRST, SECOND".
        shared: Photos of several subjects with the same pixels, "SUBJECT/FIRST, OTHER/SECOND".
        single: Subjects with one photo.
        without_caption: Photos that have no text beside them.
        photos: Usable photos.
        note: Which files were left out and why; empty for none.
    """

    subjects: list[SubjectFolder] = field(default_factory=list[SubjectFolder])
    broken: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    without_caption: int = 0
    photos: int = 0
    note: str = ""

    @property
    def lines(self) -> list[str]:
        """For people, the numbers first; each kind of finding in one line, its first five by name."""
        told = [f"{len(self.subjects)} subjects with {self.photos} photos."]
        for words, found in (
            ("cannot be used", self.broken),
            ("photos are twice in one subject", self.twice),
            ("photos are in several subjects", self.shared),
            ("subjects have one photo only", self.single),
        ):
            if found:
                more = f"; and {len(found) - _NAMED_AT_MOST} more" if len(found) > _NAMED_AT_MOST else ""
                told.append(f"{len(found)} {words}: {'; '.join(found[:_NAMED_AT_MOST])}{more}.".replace("..", "."))
        if self.without_caption:
            told.append(f'{self.without_caption} photos have no caption and count as "photo of a" with the class word.')
        return [*told, *([self.note] if self.note else [])]

    def require_whole(self, remedy: str = "") -> None:
        """Refuse a folder with anything in it that cannot be used.

        Args:
            remedy: What can be done about it, as the last sentence.

        Raises:
            UnusableReferences: With all findings.
        """
        if self.broken:
            raise UnusableReferences(f"Some subjects are not usable. {' '.join(self.broken)} {remedy}".rstrip())


def look_at_folder(
    folder: Path,
    class_word: str,
    trigger: str = "",
    limit: int = 0,
    on_photos: Callable[[int, int], None] | None = None,
) -> FolderReport:
    """Read every photo and caption of a folder of subjects once.

    Args:
        folder: Holds one folder per subject.
        class_word: What the subjects are; ``class_word.txt`` in a subject's folder says otherwise for that one.
        trigger: The word that each caption has to contain; empty for none.
        limit: Only the first so many subjects by name; 0 for all.
        on_photos: Called with the photos read and the photos in all; it may raise.

    Raises:
        UnusableReferences: If the folder is missing or holds no folder.
    """
    found, broken = find_folders(folder, class_word, limit)
    kept, seen, plain = list[SubjectFolder](), defaultdict[str, list[tuple[str, str]]](list), 0
    done, count = 0, sum(len(subject.found.files) for subject in found)
    for subject in found:
        usable = list[Path]()
        for file in subject.found.files:
            try:
                caption_for(file, subject.class_word, trigger)
                seen[pixels_sha256(load_photo(file).pixels)].append((subject.path.name, file.name))
                plain += read_caption(file) is None
                usable.append(file)
            except UnusableReferences as error:
                broken.append(f"{subject.path.name}: {error}")
            done += 1
            if on_photos is not None:
                on_photos(done, count)
        if usable:
            kept.append(replace(subject, found=replace(subject.found, files=tuple(usable))))
    return FolderReport(
        kept,
        tuple(broken),
        *_doubles(list(seen.values())),
        tuple(plain_line(one.path.name, 80) for one in kept if len(one.found.files) == 1),
        plain,
        sum(len(one.found.files) for one in kept),
        left_out(found),
    )


def find_subjects(
    folder: Path, class_word: str, limit: int = 0, on_photos: Callable[[int, int], None] | None = None
) -> list[SubjectFolder]:
    """The subjects in a folder, each photo and caption of them read once, so that a broken one is reported at the
    start; as `look_at_folder`.

    Raises:
        UnusableReferences: If there are no subjects, or one has an unusable photo; all findings at once.
    """
    report = look_at_folder(folder, class_word, limit=limit, on_photos=on_photos)
    report.require_whole()
    return report.subjects


def _doubles(places: Sequence[Sequence[tuple[str, str]]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    twice, shared = list[str](), list[str]()
    for same in places:
        subjects = sorted({subject for subject, _ in same})
        if len(subjects) > 1:
            shared.append(", ".join(f"{subject}/{file}" for subject, file in same))
        elif len(same) > 1:
            twice.append(f"{subjects[0]}: {', '.join(file for _, file in same)}")
    return tuple(twice), tuple(shared)
