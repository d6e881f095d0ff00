"""The scorers of Evaluate Identity: pictures to vectors for identity similarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...metalora_core.errors import InvalidOptions
from ...metalora_core.evaluation.subjects.embedders import pocket_embedder
from .image_tensors import to_image

if TYPE_CHECKING:
    from ...metalora_core.pocket.world.factors import Domain

Embed = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in 0..1 to vectors (B, features) of unit length."""

POCKET: dict[str, Domain] = {"pocket avatars": "avatars", "pocket products": "products"}
EMBEDDERS = ("clip vision", *POCKET)


def embedder_of(name: str, clip_vision: Any) -> Embed:
    """The chosen embedder.

    Raises:
        InvalidOptions: If it needs a model that is not connected.
    """
    if name in POCKET:
        return pocket_embedder(POCKET[name])
    if clip_vision is None:
        raise InvalidOptions(
            "Evaluate Identity: the embedder clip vision needs a CLIP_VISION model, and none is connected. Add Load "
            "CLIP Vision and connect it, or choose a pocket embedder for pictures of the pocket model."
        )

    def embed(pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            vectors = clip_vision.encode_image(to_image(pictures)).image_embeds
        return F.normalize(vectors.float().cpu(), dim=-1)

    return embed
