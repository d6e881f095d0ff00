"""A subject's photos with their captions, and their mirror images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import UnusableReferences


class GivenCaption(str):
    """A caption with the pictures that an edit or inpaint model is given beside it.

    Two are equal only if they are one object: photos with the same words may bring different pictures.

    Attributes:
        pictures: (C, H, W) in 0..1 by name; the host knows the names.
    """

    pictures: Mapping[str, Tensor]

    def __new__(cls, text: str, pictures: Mapping[str, Tensor]) -> GivenCaption:
        """Text and pictures."""
        caption = super().__new__(cls, text)
        caption.pictures = pictures
        return caption

    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__


@dataclass(frozen=True)
class TrainingSet:
    """Photos of one subject, ready to learn from.

    Args:
        images: Each (3, H, W) in 0..1; sizes may differ where the batch is 1.
        captions: One per photo, with the trigger in it; a `GivenCaption` each for a model that is given pictures.
        class_word: What the subject is, e.g. "person".
        trigger: The rare word that calls it, e.g. "ohwx".
        photo_hashes: SHA-256 of each photo file; may be empty.
        one_sided: Its mirror image is something else, such as a mug with its handle on the left; never mirrored.
    """

    images: tuple[Tensor, ...]
    captions: tuple[str, ...]
    class_word: str
    trigger: str
    photo_hashes: tuple[str, ...] = ()
    one_sided: bool = False

    def part(self, start: int, stop: int) -> TrainingSet:
        """Photos start to stop with their captions and hashes."""
        cut = slice(start, stop)
        return replace(self, images=self.images[cut], captions=self.captions[cut], photo_hashes=self.photo_hashes[cut])

    def check(self, downscale: int, batch: int) -> None:
        """Raise ``UnusableReferences`` with every finding at once.

        Args:
            downscale: Picture pixels per latent pixel.
            batch: Photos of one step, which have to be of one size.
        """
        findings: list[str] = []
        if not self.images:
            findings.append("there is no photo; give one to eight")
        if len(self.captions) != len(self.images):
            findings.append(f"there are {len(self.images)} photos but {len(self.captions)} captions; give one each")
        for number, image in enumerate(self.images, start=1):
            shape = tuple(image.shape)
            if len(shape) != 3 or shape[0] != 3 or not all(side and side % downscale == 0 for side in shape[1:]):
                findings.append(f"photo {number} has shape {shape}; (3, H, W) with sides divisible by {downscale}")
            elif not bool(image.isfinite().all()) or float(image.min()) < 0 or float(image.max()) > 1:
                findings.append(f"photo {number} has values outside 0..1")
        if batch > 1 and len({image.shape for image in self.images}) > 1:
            findings.append(
                f"the photos differ in size, which does not work with batches of {batch}; set batch_size to 1"
            )
        if findings:
            raise UnusableReferences("These photos are not usable: " + "; ".join(findings) + ".")


_ONE_SIDED_WORDS = frozenset({"mug", "cup", "jug", "pitcher", "teapot"})
"""Class words of things with a handle: mirrored, they are other things."""


def is_one_sided(class_word: str) -> bool:
    """Whether the mirror image of a thing of that name is something else."""
    return class_word.lower() in _ONE_SIDED_WORDS


def chosen_flip(choice: str, preset: bool, class_word: str) -> bool:
    """``AdaptationOptions.flip`` for a user's choice.

    Args:
        choice: "on", "off", or "auto": the preset's, and off for things with a handle.
        preset: What the preset says.
        class_word: What the photos show.
    """
    return choice == "on" or (choice == "auto" and preset and not is_one_sided(class_word))


_SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("左", "右"))


_OTHER_SIDE = {**dict(_SIDES), **{right: left for left, right in _SIDES}}


_SIDE = r"\b(?:left|right|Left|Right|LEFT|RIGHT)\b|[左右]"


def mirror_caption(caption: str, trigger: str = "") -> str:
    """Swap "left" and "right" (左 and 右), as in a mirrored photo, and mirror its pictures; other languages stay.

    Args:
        caption: Of the photo.
        trigger: Words that stay as they are.
    """
    kept = re.escape(trigger) if trigger else "(?!)"  # the latter never matches
    text = re.sub(f"({kept})|{_SIDE}", lambda found: found[1] or _OTHER_SIDE[found[0]], caption)
    if isinstance(caption, GivenCaption):
        return GivenCaption(text, {name: picture.flip(-1) for name, picture in caption.pictures.items()})
    return text


def with_mirrored(photos: TrainingSet) -> TrainingSet:
    """Every photo followed by its mirror image, left and right swapped in its caption.

    Args:
        photos: The photos; what is one-sided is given back as it is.

    Returns:
        Twice as many images, captions and hashes.
    """
    if photos.one_sided:
        return photos
    images = [view for image in photos.images for view in (image, image.flip(-1))]
    captions = [words for text in photos.captions for words in (text, mirror_caption(text, photos.trigger))]
    hashes = tuple(digest for digest in photos.photo_hashes for _ in range(2))
    return replace(photos, images=tuple(images), captions=tuple(captions), photo_hashes=hashes)
