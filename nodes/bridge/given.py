"""The pictures that Adapt Identity gives an edit or inpaint model beside the captions of its photos."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...metalora_core.errors import InvalidOptions
from ...metalora_core.photos.images import Photo, fit
from ...metalora_core.photos.pictures import pixels_sha256
from ...metalora_core.photos.training_set import GivenCaption
from .host.given import KNOWN, MASK, REFERENCE, Channels
from .host.targets import describe
from .image_tensors import from_image

GREY = 0.5


@dataclass(frozen=True)
class GivenPictures:
    """What the node's optional sockets bring.

    Args:
        references: What the model starts from, (3, H, W) each: one for all photos or one per photo; empty for none.
        masks: Where a photo is filled, (H, W) each, likewise.
    """

    references: tuple[Tensor, ...] = ()
    masks: tuple[Tensor, ...] = ()

    @classmethod
    def connected(cls, reference: Tensor | None, mask: Tensor | None) -> GivenPictures:
        """From an IMAGE and a MASK."""
        references = () if reference is None else tuple(from_image(reference))
        if mask is None:
            return cls(references)
        return cls(references, tuple(mask.detach().float().cpu().clamp(0, 1).reshape(-1, *mask.shape[-2:])))

    @property
    def any(self) -> bool:
        """Whether anything is connected."""
        return bool(self.references or self.masks)

    def check(self, model: Any, channels: Channels, photos: Sequence[Photo], side: int) -> None:
        """Raise InvalidOptions with all findings, as far as they show before a picture is encoded."""
        findings: list[str] = []
        for name, given in (("reference", self.references), ("mask", self.masks)):
            if len(given) not in (0, 1, len(photos)):
                findings.append(
                    f"{name} has {len(given)} pictures; connect one for all {len(photos)} photos or one each"
                )
        if self.masks and not channels.fills:
            findings.append(
                f"a mask is connected, but the model ({describe(model)}) is no inpaint model; disconnect the mask, or "
                "connect an inpaint model such as FLUX.1 Fill"
            )
        elif self.masks:
            empty = [photo.name for n, photo in enumerate(photos) if not self._mask(n, photo, side).any()]
            if empty:
                findings.append(
                    f"a mask is empty in the middle square of {', '.join(empty)}, which is what is learned; make white "
                    "there what the model is to fill"
                )
        if findings:
            raise InvalidOptions(f"Adapt Identity cannot use these inputs: {'; '.join(findings)}.")

    def captions(self, photos: Sequence[Photo], captions: Sequence[str], side: int, fills: bool) -> tuple[str, ...]:
        """Captions that bring their pictures, cut and scaled as the photos are.

        Args:
            photos: The references.
            captions: One per photo.
            side: Of the training pictures, px.
            fills: Whether the model is an inpaint model.
        """
        if not self.any:
            return tuple(captions)
        pictures = [self._of(number, photo, side, fills) for number, photo in enumerate(photos)]
        return tuple(GivenCaption(text, given) for text, given in zip(captions, pictures, strict=True))

    def _of(self, number: int, photo: Photo, side: int, fills: bool) -> Mapping[str, Tensor]:
        given: dict[str, Tensor] = {}
        if self.references:
            given[REFERENCE] = fit(self.references[number % len(self.references)], side)
        if fills:
            given[MASK] = self._mask(number, photo, side)
            # As core's InpaintModelConditioning: what is to be filled is grey in the picture that the model is shown.
            given[KNOWN] = (fit(photo, side) - GREY) * (1 - given[MASK]) + GREY
        return given

    def _mask(self, number: int, photo: Photo, side: int) -> Tensor:
        """The mask of a photo as it is trained with: stretched over the photo and cut as that is, of zeros and ones."""
        mask = self.masks[number % len(self.masks)] if self.masks else photo.pixels.new_ones(1, 1)
        whole = F.interpolate(mask[None, None], photo.pixels.shape[-2:], mode="bilinear")[0].expand(3, -1, -1)
        return (fit(whole, side)[:1] >= GREY).float()

    def digest(self) -> str:
        """Digest of every picture."""
        hashes = [pixels_sha256(picture) for picture in (*self.references, *(mask[None] for mask in self.masks))]
        text = "\n".join([str(len(self.references)), *hashes])
        return hashlib.sha256(text.encode()).hexdigest()


def missing_note(channels: Channels, given: GivenPictures) -> str:
    """What a user must know who connects nothing to a model that is made to be given pictures; else empty."""
    if channels.fills and not given.masks:
        return (
            "This is an inpaint model and no mask is connected: it learns to draw the photos whole, with everything "
            "masked. Connect a mask to learn to fill."
        )
    if channels.starts_from_picture and not given.references:
        return (
            "This model starts from a picture and none is connected to reference: it learns to start from a blank one."
        )
    return ""
