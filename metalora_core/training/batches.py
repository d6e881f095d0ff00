"""What a training step sees: noised latents with their prompts, and the loss on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.host import Conditioning, Host, stack_conditioning

__all__ = ["Batch", "CaptionCache", "denoising_losses"]

_CAPTIONS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one forward pass; some of its rows are a smaller batch.

    Args:
        latents: (B, C, h, w) on any device; the photos of one subject are side by side.
        noise: (B, C, h, w).
        t: Timesteps in the objective's unit, (B,).
        conditioning: B rows, on the host's device.
        weights: Of each sample's loss, (B,), on the host's device.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    conditioning: Conditioning
    weights: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice | list[int]) -> Batch:
        conditioning = {name: value[rows] for name, value in self.conditioning.items()}
        return Batch(self.latents[rows], self.noise[rows], self.t[rows], conditioning, self.weights[rows])

    @staticmethod
    def joined(batches: Sequence[Batch]) -> Batch:
        """All samples of several batches as one."""
        latents, noise, t, weights = (
            torch.cat(part) for part in zip(*((b.latents, b.noise, b.t, b.weights) for b in batches), strict=True)
        )
        return Batch(latents, noise, t, stack_conditioning([batch.conditioning for batch in batches]), weights)


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


def denoising_losses(host: Host, batch: Batch) -> Tensor:
    """Mean squared error of the prediction, one number per sample; weights are left to the caller.

    Args:
        host: The model with its chains injected.
        batch: The samples.

    Returns:
        (B,), float32.
    """
    objective, device = host.objective, host.device
    latents, noise, t = (x.to(device, non_blocking=True) for x in (batch.latents, batch.noise, batch.t))
    noisy = objective.make_noisy(latents, noise, t).to(host.dtype)
    error = host.predict(noisy, t, batch.conditioning).float() - objective.target(latents, noise, t)
    return error.square().flatten(1).mean(1)
