"""What edit and inpaint models are given beside a caption, through the entries that core's own nodes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....metalora_core.errors import IncompatibleBaseModel
from ....metalora_core.photos.training_set import GivenCaption
from .conditioning import Conds

REFERENCE, KNOWN, MASK = "reference", "known", "mask"
"""Names of pictures: what an edit starts from, a photo without what is to be filled, and where that is."""

Entries = Mapping[str, Any]


@dataclass(frozen=True)
class Channels:
    """What a model takes in channels beside the noisy latent.

    Args:
        picture: Whether it takes a picture there.
        mask: Whether it takes a mask there.
    """

    picture: bool = False
    mask: bool = False

    @classmethod
    @torch.inference_mode()
    def of(cls, base: Any, noise: Tensor) -> Channels:
        """Ask a model.

        Args:
            base: ComfyUI's BaseModel.
            noise: A latent as the model takes it.
        """

        def asked(latent: float, mask: float) -> Tensor | None:
            picture, area = torch.full_like(noise, latent), torch.full((1, 1, *noise.shape[-2:]), mask)
            given = {"concat_latent_image": picture, "concat_mask": area}
            return base.concat_cond(noise=noise, latent_image=noise, device=noise.device, **given)

        plain = asked(0.0, 1.0)
        return cls(_differ(plain, asked(1.0, 1.0)), _differ(plain, asked(0.0, 0.0)))

    @property
    def fills(self) -> bool:
        """Whether it is an inpaint model."""
        return self.picture and self.mask

    @property
    def starts_from_picture(self) -> bool:
        """Whether it takes the picture that it starts from as channels, as InstructPix2Pix does."""
        return self.picture and not self.mask


def blank(side: int) -> dict[str, Tensor]:
    """What an inpaint model is given where everything is to be filled: a grey picture and a mask of ones."""
    return {KNOWN: torch.full((3, side, side), 0.5), MASK: torch.ones(1, side, side)}


def entries_of(pictures: Mapping[str, Tensor], encode: Callable[[Tensor], Tensor], channels: Channels) -> Entries:
    """Pictures as core's conditioning carries them.

    Args:
        pictures: (C, H, W) by name.
        encode: A picture (3, H, W) to latents as the VAE gives them.
        channels: What the model takes.
    """
    entries: dict[str, Any] = {}
    if REFERENCE in pictures:
        latents = encode(pictures[REFERENCE])
        entries |= (
            {"concat_latent_image": latents} if channels.starts_from_picture else {"reference_latents": [latents]}
        )
    if channels.fills:
        entries |= {"concat_latent_image": encode(pictures[KNOWN]), "concat_mask": pictures[MASK][None]}
    return entries


def conds_with(make: Callable[[Entries], Conds], entries: Entries) -> Conds:
    """What the model makes of a caption and of what it is given.

    Args:
        make: From entries to the model's own conditioning.
        entries: As `entries_of` gives them.

    Raises:
        IncompatibleBaseModel: If the model has no place for a reference, or takes it in another form.
    """
    references = entries.get("reference_latents")
    if references is None:
        return make(entries)
    try:
        conds = make(entries)
    except (ArithmeticError, IndexError, ValueError) as error:
        raise IncompatibleBaseModel(
            f"The connected model takes a reference in another form than latents ({error}). Disconnect reference."
        ) from error
    without = {name: value for name, value in entries.items() if name != "reference_latents"}
    plain = make(without)
    if conds.keys() != plain.keys():
        return conds
    # A few models take what they start from under the name of a concatenated picture, beside the channels.
    conds = make({"concat_latent_image": references[0], **without})
    if conds.keys() == plain.keys():
        raise unused_reference()
    return conds


@torch.no_grad()
def require_heeded(host: Any, caption: str) -> None:
    """Refuse a model whose prediction a reference does not change.

    Args:
        host: The ComfyHost.
        caption: One of the run's.

    Raises:
        IncompatibleBaseModel: If so.
    """
    if not isinstance(caption, GivenCaption) or REFERENCE not in caption.pictures:
        return
    reference = caption.pictures[REFERENCE]
    other = torch.full_like(reference, float(reference.mean() < 0.5))
    captions = [caption, GivenCaption(caption, {**caption.pictures, REFERENCE: other})]
    side = max(1, host.resolution // host.downscale)
    noise = torch.randn(1, host.latent_channels, side, side, generator=torch.Generator().manual_seed(0))
    level = host.objective.timesteps_from_uniform(torch.tensor([0.5])).to(host.device)
    seen = [host.predict(noise.to(host.device, host.dtype), level, host.encode_prompts([text])) for text in captions]
    if torch.equal(*seen):
        raise unused_reference()


def unused_reference() -> IncompatibleBaseModel:
    """The error for a model that starts from no picture."""
    return IncompatibleBaseModel(
        "A picture is connected to reference, but the connected model makes no use of it. Disconnect it, or connect an "
        "edit model such as FLUX.1 Kontext, Qwen-Image-Edit or FLUX.2."
    )


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and not torch.equal(one, other)
