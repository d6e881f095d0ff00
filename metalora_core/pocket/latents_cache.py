"""Latents of all training photos, computed once and kept beside the photos."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files.atomic import atomic_write
from .autoencoder import encode
from .dataset import PhotoPlan, rendered_photos, to_pictures

_CHUNK = 24


@torch.no_grad()
def encoded_photos(plan: PhotoPlan, folder: Path, autoencoder: Any) -> Tensor:
    """Latents of a plan's photos, (subjects · photos, 16, 16, 16) in half precision.

    Args:
        plan: Which photos.
        folder: Where photos and latents are kept; latents of another encoder are never mistaken for these.
        autoencoder: The pocket autoencoder.
    """
    weights = [value for name, value in sorted(autoencoder.state_dict().items()) if name.startswith("encoder.")]
    name = hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights)).hexdigest()[:8]
    path = folder / f"{plan.file_name.removesuffix('.npy')}-latents-{name}.npy"
    if not path.exists():
        photos = rendered_photos(plan, folder)
        rows = [encode(autoencoder, to_pictures(photos[i : i + _CHUNK])).half() for i in range(0, len(photos), _CHUNK)]
        latents = torch.cat(rows)
        data = io.BytesIO()
        np.save(data, latents.numpy())
        atomic_write(path, [data.getvalue()])
    return torch.from_numpy(np.load(path))


class PhotoSubjects:
    """Training subjects as the meta-training sees them: latents and captions, subject by subject.

    Every subject has a trigger of its own, as it will have in an adaptation, so that the prior suits any trigger.
    """

    def __init__(self, plan: PhotoPlan, latents: Tensor) -> None:
        self._plan, self._latents = plan, latents
        who = [subject for subject in plan.drawn_subjects() for _ in range(plan.photos)]
        self._captions = [
            scene.caption(plan.domain, subject.class_word, f"subject{subject.seed}")
            for scene, subject in zip(plan.scenes(), who, strict=True)
        ]

    @property
    def domain(self) -> str:
        """The plan's domain."""
        return self._plan.domain

    def __len__(self) -> int:
        return self._plan.subjects

    def latents_of(self, subject: int) -> Tensor:
        """A subject's photos, (photos, 16, 16, 16), float32."""
        first = subject * self._plan.photos
        return self._latents[first : first + self._plan.photos].float()

    def captions_of(self, subject: int) -> list[str]:
        """One caption a photo."""
        first = subject * self._plan.photos
        return self._captions[first : first + self._plan.photos]
