"""What a training step looks at: samples drawn by the step's number, noised latents, cached captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InvalidOptions
from ..model.host import Conditioning, Host, stack_conditioning
from ..model.objective import Objective, StratifiedTimesteps
from .meta_options import MetaTrainingOptions
from .schedule import step_generator

__all__ = ["Batch", "CaptionCache", "SubjectBatches", "SubjectDataset", "denoising_losses"]

_CAPTIONS_AT_ONCE = 32


class SubjectDataset(Protocol):
    """Many subjects of one domain with several captioned photos each."""

    @property
    def domain(self) -> str:
        """What the subjects are, e.g. "avatars"."""
        ...

    def __len__(self) -> int:
        """Subjects."""
        ...

    def latents_of(self, subject: int) -> Tensor:
        """A subject's photos as latents, (P, C, h, w); P may differ between subjects."""
        ...

    def captions_of(self, subject: int) -> list[str]:
        """One caption per photo."""
        ...


@dataclass(frozen=True)
class Batch:
    """Samples of one forward pass.

    Args:
        latents: (B, C, h, w); the photos of one subject stand side by side.
        noise: (B, C, h, w).
        t: Timesteps, (B,).
        captions: B texts.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    captions: list[str]


class CaptionCache:
    """Encodes each caption once.

    Args:
        host: Supplies the text encoder.
        storage: Where rows are kept; None for the host's device. Many captions of a large model belong on the CPU.
        limit: Captions kept; the cache is emptied when it is full.
    """

    def __init__(self, host: Host, storage: torch.device | None = None, limit: int = 20_000) -> None:
        self._host, self._storage, self._limit = host, storage or host.device, limit
        self._rows: dict[str, Conditioning] = {}

    def prepare(self, captions: Iterable[str]) -> None:
        """Encode ahead what fits, so that the text encoder and the model need not be in memory together."""
        wanted = list(dict.fromkeys(captions))
        for first in range(0, min(len(wanted), self._limit), _CAPTIONS_AT_ONCE):
            self._encode(wanted[first : min(first + _CAPTIONS_AT_ONCE, self._limit)])

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning with one row per caption, on the host's device."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self._rows]
        if len(self._rows) + len(missing) > self._limit:
            self._rows.clear()
            missing = list(dict.fromkeys(captions))
        if missing:
            self._encode(missing)
        stacked = stack_conditioning([self._rows[caption] for caption in captions])
        return {key: value.to(self._host.device, non_blocking=True) for key, value in stacked.items()}

    @torch.no_grad()
    def _encode(self, captions: list[str]) -> None:
        encoded = self._host.encode_prompts(captions)
        for i, caption in enumerate(captions):
            rows = {key: value[i : i + 1].to(self._storage) for key, value in encoded.items()}
            self._rows[caption] = {key: value.clone() for key, value in rows.items()}


class SubjectBatches:
    """Draws the batches of a meta-training; everything depends on seed and step only.

    Args:
        subjects: The data set.
        options: Batch size, photos per subject, seed, caption dropout and the support/query split.
        objective: Its timesteps are stratified over all passes of a role.

    Raises:
        InvalidOptions: If there are fewer subjects than a batch holds.
    """

    def __init__(self, subjects: SubjectDataset, options: MetaTrainingOptions, objective: Objective) -> None:
        if not 1 <= options.subjects_per_batch <= len(subjects):
            raise InvalidOptions(
                f"A batch of {options.subjects_per_batch} subjects was asked for, the data set has {len(subjects)}. "
                "Lower subjects_per_batch or add subjects; at least one is needed."
            )
        self._subjects, self._size, self._photos = subjects, options.subjects_per_batch, options.photos_per_subject
        self._seed, self._dropout = options.seed, options.caption_dropout
        samples = self._size * self._photos
        self._timesteps = {
            "support": StratifiedTimesteps(objective, samples, options.seed + 1),
            "query": StratifiedTimesteps(objective, samples, options.seed),
        }
        self._split, self._support_photos = options.two_passes, options.support_photos
        self._episodes = options.inner_steps > 0

    def subjects_at(self, step: int) -> list[int]:
        """Distinct subjects of a step; every epoch is a new permutation."""
        batches = len(self._subjects) // self._size
        epoch, place = divmod(step, batches)
        order = torch.randperm(len(self._subjects), generator=step_generator(self._seed, "epoch", epoch))
        return order[place * self._size : (place + 1) * self._size].tolist()

    def draw(self, subjects: Sequence[int], step: int, role: str, episode: int) -> Batch:
        """Samples of these subjects.

        Args:
            subjects: From ``subjects_at``.
            step: Number of this pass among all passes of its role, which decides the timesteps.
            role: "support" or "query".
            episode: Step of the meta-training, which decides the photos that all support passes of it share.
        """
        generator = step_generator(self._seed, role, step)
        latents: list[Tensor] = []
        captions: list[str] = []
        for subject in subjects:
            photos, texts = self._subjects.latents_of(subject), self._subjects.captions_of(subject)
            chosen = self._choose(self._photos_for(role, subject, len(texts), episode), generator)
            latents.append(photos[chosen])
            captions += [texts[i] for i in chosen]
        if self._dropout:
            kept = (torch.rand(len(captions), generator=generator) >= self._dropout).tolist()
            captions = [caption if keep else "" for caption, keep in zip(captions, kept, strict=True)]
        stacked = torch.cat(latents)
        noise = torch.randn(stacked.shape, generator=generator)
        return Batch(stacked, noise, self._timesteps[role].at(step), captions)

    def _photos_for(self, role: str, subject: int, count: int, episode: int) -> list[int]:
        """A subject's photos that a pass of this role may show."""
        if not self._split or count == 1:
            return list(range(count))
        if not self._support_photos:
            return list(range(count // 2)) if role == "support" else list(range(count // 2, count))
        # A slot that stays in the bank must never learn from a photo that shared factors are judged by.
        episode = episode if self._episodes else 0
        order = torch.randperm(count, generator=step_generator(self._seed, f"episode of subject {subject}", episode))
        cut = min(self._support_photos, count - 1)
        return (order[:cut] if role == "support" else order[cut:]).tolist()

    def _choose(self, photos: Sequence[int], generator: torch.Generator) -> list[int]:
        order = [photos[i] for i in torch.randperm(len(photos), generator=generator).tolist()]
        # A subject with fewer photos than asked for shows some of them twice, at another noise level.
        return (order * -(-self._photos // len(order)))[: self._photos]


def denoising_losses(host: Host, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """Weighted squared error of the prediction, one number per sample.

    Args:
        host: The model with its chains injected.
        latents: (B, C, h, w) on any device.
        noise: (B, C, h, w).
        t: (B,), in the objective's unit.
        conditioning: B rows.

    Returns:
        (B,), float32.
    """
    objective, device = host.objective, host.device
    latents, noise, t = (x.to(device, non_blocking=True) for x in (latents, noise, t))
    noisy = objective.make_noisy(latents, noise, t).to(host.dtype)
    error = host.predict(noisy, t, conditioning).float() - objective.target(latents, noise, t)
    return error.square().flatten(1).mean(1) * objective.weight(t)
