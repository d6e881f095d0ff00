"""Latents of all training photos, computed once and kept beside the photos."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...files.atomic import atomic_write
from ...photos.pictures import from_uint8
from ..autoencoder import encode
from .dataset import PhotoPlan, rendered_photos

_CHUNK = 250


@torch.no_grad()
def encoded_photos(plan: PhotoPlan, folder: Path, autoencoder: Any, *, mirrored: bool = False) -> Tensor:
    """Latents of a plan's photos, (subjects · photos, 16, 16, 16) in half precision.

    Args:
        plan: Which photos.
        folder: Where photos and latents are kept; latents of another encoder are never confused with these.
        autoencoder: The pocket autoencoder.
        mirrored: Of the photos' mirror images.
    """
    weights = [value for name, value in sorted(autoencoder.state_dict().items()) if name.startswith("encoder.")]
    name = hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights)).hexdigest()[:8]
    form = "mirrored-latents" if mirrored else "latents"
    path = folder / f"{plan.file_name.removesuffix('.npy')}-{form}-{name}.npy"
    if not path.exists():
        photos = rendered_photos(plan, folder)
        weight, bias = patch_map(autoencoder)
        chunks = (from_uint8(photos[i : i + _CHUNK]) for i in range(0, len(photos), _CHUNK))
        turned = (some.flip(-1) if mirrored else some for some in chunks)
        latents = torch.cat([F.conv2d(some, weight, bias, stride=8).half() for some in turned])
        data = io.BytesIO()
        np.save(data, latents.numpy())
        atomic_write(path, [data.getvalue()])
    return torch.from_numpy(np.load(path))


@torch.no_grad()
def patch_map(autoencoder: Any) -> tuple[Tensor, Tensor]:
    """The pocket encoder as what it computes: one affine map of 8 × 8 patches, a hundredth of the work.

    Returns:
        Weight (16, 3, 8, 8) and bias (16,) of a convolution of stride 8 on pictures in [0, 1].
    """
    bias = encode(autoencoder, torch.zeros(1, 3, 8, 8)).flatten()
    responses = encode(autoencoder, torch.eye(192).view(192, 3, 8, 8)).flatten(1) - bias
    return responses.T.reshape(-1, 3, 8, 8).contiguous(), bias


class PhotoSubjects:
    """Training subjects as the meta-training sees them: latents and captions, subject by subject.

    Every subject has a trigger of its own, as it will have in an adaptation, so that the prior suits any trigger.

    Args:
        plan: Which photos.
        latents: Of all of them.
        subjects: Only the first so many subjects; 0 for all.
    """

    def __init__(self, plan: PhotoPlan, latents: Tensor, subjects: int = 0) -> None:
        self._plan, self._latents, self._subjects = plan, latents, subjects or plan.subjects
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
        return self._subjects

    def latents_of(self, subject: int) -> Tensor:
        """A subject's photos, (photos, 16, 16, 16), float32."""
        first = subject * self._plan.photos
        return self._latents[first : first + self._plan.photos].float()

    def captions_of(self, subject: int) -> list[str]:
        """One caption a photo."""
        first = subject * self._plan.photos
        return self._captions[first : first + self._plan.photos]
