"""What a training step looks at: samples drawn by the step's number, noised latents, cached captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model.host import Conditioning, Host, stack_conditioning

__all__ = ["Batch", "CaptionCache", "denoising_losses"]

_CAPTIONS_AT_ONCE = 32


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


def denoising_losses(host: Host, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """Mean squared error of the prediction, one number per sample.

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
    return error.square().flatten(1).mean(1)
