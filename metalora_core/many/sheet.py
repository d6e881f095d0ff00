"""The contact sheet of many learned subjects: a photo of each beside a picture that was drawn of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..applying import apply_identity
from ..files.identity import load_identity, own_prior
from ..files.prior import Prior
from ..model.generation import Request, generate_pictures
from ..model.host import Host
from ..photos.captions import subject_words
from ..photos.folder_files import photo_files
from ..photos.images import fit, load_photo
from ..photos.pictures import grid, to_pil

__all__ = ["SHOWN_AT_MOST", "SheetSubject", "results_sheet"]

SHOWN_AT_MOST = 32
_ACROSS = 4
_STEPS = 8


@dataclass(frozen=True)
class SheetSubject:
    """A subject to show.

    Args:
        name: Stands below its pictures.
        photos: Folder of its photos.
        identity: Its file.
        prior: What it was learned from; None if its file holds its own.
    """

    name: str
    photos: Path
    identity: Path
    prior: Prior | None


def results_sheet(
    host: Host,
    subjects: Sequence[SheetSubject],
    size_px: int,
    guidance: float,
    on_picture: Callable[[int, int], None] | None = None,
) -> Image.Image:
    """Show the first 32 subjects, each as its first photo and one drawn picture of eight sampling steps.

    Args:
        host: The base model.
        subjects: Those that were learned.
        size_px: Side of each picture.
        guidance: Classifier-free guidance; 1 is none.
        on_picture: Called with the subjects drawn and those to draw; it may raise.

    Raises:
        UnreadableFile: If an identity is not readable.
    """
    shown, rows = subjects[:SHOWN_AT_MOST], list[Sequence[Image.Image | str]]()
    drawn: list[tuple[Image.Image, str]] = []
    for number, one in enumerate(shown, start=1):
        drawn.append((_pair(host, one, size_px, guidance), one.name))
        if on_picture is not None:
            on_picture(number, len(shown))
    for start in range(0, len(drawn), _ACROSS):
        part = drawn[start : start + _ACROSS]
        rows += [[picture for picture, _ in part], [name for _, name in part]]
    if len(subjects) > len(shown):
        rows.append([f"{len(subjects) - len(shown)} more are in the manifest."])
    return grid(rows)


def _pair(host: Host, one: SheetSubject, size_px: int, guidance: float) -> Image.Image:
    identity = load_identity(one.identity)
    prior = own_prior(identity) or one.prior
    if prior is None:
        raise ValueError(f"{one.name} lacks its prior")
    words = subject_words(identity.metadata.trigger, identity.metadata.class_word)
    request = Request((f"photo of a {words}",), size_px, _STEPS, guidance)
    with apply_identity(host, identity, prior):
        picture = generate_pictures(host, request)[0]
    pair = Image.new("RGB", (2 * size_px, size_px))
    pair.paste(to_pil(fit(load_photo(photo_files(one.photos).files[0]), size_px)), (0, 0))
    pair.paste(to_pil(picture), (size_px, 0))
    return pair
