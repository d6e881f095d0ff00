"""Finds photos again by their hashes, wherever they lie."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import UnusableReferences
from .folder_files import caption_files
from .images import PHOTO_SUFFIXES, load_photo
from .pictures import pixels_sha256


def find_photos(folders: Sequence[Path], hashes: Collection[str]) -> Iterator[tuple[Path, list[Path]]]:
    """Photos in folders and below with one of the hashes, each with the caption files beside it.

    Args:
        folders: Where to look.
        hashes: SHA-256 of a file's bytes, as the command line has it, or of its pixels, as the nodes have it.
    """
    for folder in folders:
        for path in sorted(one for one in folder.rglob("*") if one.suffix.lower() in PHOTO_SUFFIXES):
            with suppress(UnusableReferences):  # no photo that anything was learned from
                photo = load_photo(path)
                if not {photo.sha256, pixels_sha256(photo.pixels)}.isdisjoint(hashes):
                    yield path, caption_files(path)
