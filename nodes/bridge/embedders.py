"""What turns a picture into a vector that says whose it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...metalora_core.errors import InvalidOptions
from .image_tensors import to_image

Embedder = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in 0..1 to vectors (B, features) of unit length."""

EMBEDDERS = {"clip vision": "", "pocket avatars": "avatars", "pocket products": "products"}


def embedder_of(name: str, clip_vision: Any) -> Embedder:
    """The chosen embedder.

    Raises:
        InvalidOptions: If it needs a model that is not connected.
    """
    if EMBEDDERS[name]:
        return _pocket_reader(EMBEDDERS[name])
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


def _pocket_reader(domain: Any) -> Embedder:
    from ...metalora_core.pocket.load import load_readers

    readers = load_readers()

    def embed(pictures: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            small = F.interpolate(pictures.clone(), size=(128, 128), mode="bilinear", antialias=True)
            read = readers.read_identity(small, domain)
        # Factors lie in 0..1; around their middle, opposite people point in opposite directions.
        return F.normalize(read - 0.5, dim=-1)

    return embed
