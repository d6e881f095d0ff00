"""The photos of Prepare Reference Photos: those dropped on the node, which lie in ComfyUI's input folder, or connected
ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...metalora_core.errors import InvalidOptions, UnreadableFile, UnusableReferences
from ...metalora_core.photos.images import Photo, load_photo
from ...metalora_core.photos.pictures import pixels_sha256
from .folders import input_file
from .list_inputs import caption_lines, photo_list

NOT_USED = "The connected photos are not used, because photos were added to the node."


@dataclass(frozen=True)
class ChosenPhotos:
    """Photos and their caption lines, see `build_captions`; and a note on photos that are left aside."""

    photos: tuple[Photo, ...]
    captions: tuple[str, ...]
    note: str = ""
    dropped: bool = False


def dropped_names(texts: Sequence[object] | None) -> list[tuple[str, str]]:
    """Name and own caption of each photo in the node's widget: one per line, with a tab between the two."""
    lines = [line.partition("\t") for text in texts or () for line in str(text).splitlines()]
    return [(name.strip(), caption.strip()) for name, _, caption in lines if name.strip()]


def chosen_photos(
    dropped: Sequence[object] | None, images: Sequence[Tensor] | None, caption: Sequence[str]
) -> ChosenPhotos:
    """Read the photos that were dropped on the node, each at its own size; if there are none, take the connected ones.

    Args:
        dropped: The list input of the widget with the dropped photos.
        images: The list input.
        caption: The list input with captions for all photos or for each. A dropped photo's own caption goes first.

    Raises:
        UnusableReferences: If there is no photo, or one cannot be read.
    """
    named = dropped_names(dropped)
    if not named:
        return _connected(images, caption)
    loaded = [load_photo(input_file(name)) for name, _ in named]
    # The hash of pixels is the one that Record Consent knows, which gets them as pictures.
    photos = tuple(replace(photo, sha256=pixels_sha256(photo.pixels)) for photo in loaded)
    shared = caption_lines(caption, len(photos)) or ("",)
    if any(own for _, own in named) and len(shared) in (1, len(photos)):
        lines = shared * len(photos) if len(shared) == 1 else shared
        shared = tuple(own or line for (_, own), line in zip(named, lines, strict=True))
    return ChosenPhotos(photos, shared, NOT_USED if images else "", dropped=True)


def _connected(images: Sequence[Tensor] | None, caption: Sequence[str]) -> ChosenPhotos:
    pictures = photo_list(images)
    if not pictures:
        raise UnusableReferences(
            "Prepare Reference Photos has no photos. Drop one to eight photos of one subject on the node, or connect "
            "images."
        )
    photos = [Photo(f"photo {n}", pixels, pixels_sha256(pixels)) for n, pixels in enumerate(pictures, start=1)]
    return ChosenPhotos(tuple(photos), caption_lines(caption, len(photos)))


def missing_photos(dropped: Sequence[object] | None) -> str:
    """Why dropped photos cannot be read, all of them at once, or an empty text; nothing is opened."""
    findings: list[str] = []
    for name, _ in dropped_names(dropped):
        try:
            input_file(name)
        except (InvalidOptions, UnreadableFile) as reason:
            findings.append(str(reason))
    return " ".join(findings)


def photos_state(dropped: Sequence[object] | None) -> str:
    """Changes whenever one of the dropped photos changes."""
    if missing_photos(dropped):
        return "missing"
    states = [(name, input_file(name).stat()) for name, _ in dropped_names(dropped)]
    return " ".join(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)
