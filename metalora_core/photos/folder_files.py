"""Which files of a folder are photos, which are captions, and why every other file is left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..checks import plain_line
from ..errors import UnreadableFile, UnusableReferences
from ..files.bounded import open_regular
from .images import PHOTO_SUFFIXES, is_picture

LARGEST_CAPTION_BYTES = 64 * 1024
CLASS_WORD_FILE = "class_word.txt"
_CAPTION_SUFFIXES = (".txt", ".caption", ".json")
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class FoundPhotos:
    """The photos of one or several folders.

    Args:
        files: Photos, each folder by name.
        left_out: Every other file and folder, one text each: its name and why it is not read.
    """

    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What was left out in one line, the first five by name; empty for nothing."""
        more = len(self.left_out) - _NAMED_AT_MOST
        named = "; ".join(self.left_out[:_NAMED_AT_MOST]) + (f"; and {more} more" if more > 0 else "")
        return f"Left out: {named}." if named else ""


def photo_files(path: Path | str) -> FoundPhotos:
    """The photos of a folder, or the one file that the path names.

    Raises:
        UnusableReferences: If the path does not exist or the folder has no photo.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise UnusableReferences(f"No photo or folder at {path}. Check the path.")
        return FoundPhotos((path,))
    try:
        entries = sorted(entry for entry in path.iterdir() if not _is_the_systems(entry.name))
    except OSError as error:
        raise UnusableReferences(f"{path} could not be read ({error.strerror or error}). Check the folder.") from error
    photos = tuple(entry for entry in entries if entry.suffix.lower() in PHOTO_SUFFIXES and not entry.is_dir())
    used = {*photos, path / CLASS_WORD_FILE, *(file for photo in photos for file in caption_files(photo)[:1])}
    others = [entry for entry in entries if entry not in used]
    found = FoundPhotos(photos, tuple(_left_out(entry, photos) for entry in others))
    if not photos:
        raise UnusableReferences(
            f"{path} has no photos; files ending in {', '.join(PHOTO_SUFFIXES)} are read. {found.note}".rstrip()
        )
    return found


def _is_the_systems(name: str) -> bool:
    # Hidden files beside photos are a system's notes about them, such as macOS's "._mug.jpg".
    return name.startswith((".", "@")) or name.lower() in _SYSTEM_FILES


def _left_out(entry: Path, photos: Sequence[Path]) -> str:
    name = plain_line(entry.name, 80)
    if entry.is_dir():
        return f"{name} is a folder; give it separately to read its photos"
    if not entry.is_file():
        return f"{name} is a pipe, a device or a broken link"
    if entry.suffix.lower() in _CAPTION_SUFFIXES:
        photo = next((photo for photo in photos if entry in _beside(photo)), None)
        if photo is None:
            return f"{name} does not have the name of a photo here, so it is not a caption"
        read = next(iter(caption_files(photo)), None)
        return (
            f'{name} has no text under "caption" or "text"'
            if read is None
            else f"{name} is not read, because {read.name} is"
        )
    if is_picture(entry):
        return f"{name} is a picture with another file ending; rename it"
    return f"{name} is not a supported photo; export pictures as JPEG or PNG"


def _beside(photo: Path) -> Iterable[Path]:
    # a.txt and, as some tools write it, a.jpg.txt; a case-sensitive system may have either ending.
    for suffix in _CAPTION_SUFFIXES:
        for ending in (suffix, suffix.upper()):
            yield photo.with_suffix(ending)
            yield photo.with_name(photo.name + ending)


def caption_files(photo: Path) -> list[Path]:
    """The files beside a photo that can be its caption; the first one is read."""
    return [file for file in _beside(photo) if file.is_file() and (file.suffix.lower() != ".json" or _in_json(file))]


def read_caption(photo: Path) -> tuple[Path, str] | None:
    """The caption beside a photo in one line, with its file; None if there is none.

    Raises:
        UnusableReferences: If the file is not UTF-8, too large, or cannot be read.
    """
    file = next(iter(caption_files(photo)), None)
    if file is None:
        return None
    text = _in_json(file) if file.suffix.lower() == ".json" else read_text(file)
    return file, " ".join((text or "").split())


def read_text(path: Path) -> str:
    """The text of a small file.

    Raises:
        UnusableReferences: If it is not a regular file, not UTF-8, above 64 kB, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST_CAPTION_BYTES + 1)
        if len(data) > LARGEST_CAPTION_BYTES:
            raise UnusableReferences(f"{path} is larger than 64 kB, too long for a caption. Shorten it.")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusableReferences(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    except (OSError, UnreadableFile) as error:
        raise UnusableReferences(str(error)) from error


def read_class_word(subject: Path, default: str) -> str:
    """What a subject is: the text of ``class_word.txt`` in its folder, else the default.

    Raises:
        UnusableReferences: If the file cannot be read.
    """
    own = subject / CLASS_WORD_FILE
    return " ".join(read_text(own).split()) or default if own.is_file() else default


def _in_json(file: Path) -> str | None:
    """The caption in a JSON file: the text itself, or what stands under "caption" or "text"."""
    try:
        content: Any = json.loads(read_text(file))
    except (UnusableReferences, ValueError, RecursionError):
        return None
    if isinstance(content, dict):
        fields = cast("dict[str, Any]", content)
        content = fields.get("caption", fields.get("text"))
    return content if isinstance(content, str) and content.strip() else None
