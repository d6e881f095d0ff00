"""What the training loops see of a diffusion model, whoever loaded it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

from .objective import Objective
from .targets import Target

__all__ = ["Conditioning", "Host", "repeat_conditioning", "stack_conditioning"]

Conditioning = dict[str, Tensor]
"""Encoded prompts; every entry has the batch as its first axis."""


class Host(Protocol):
    """A diffusion model as both training loops and the sampler use it.

    Attributes:
        compiled: Passes with gradients are compiled.
        checkpointing: Blocks are computed again in the backward pass, which saves their activations.
        swapped: The blocks' weights are in main memory, and on the card only while they compute.
    """

    # What a training may change between two attempts; `training` uses it from its next entry on.
    compiled: bool
    checkpointing: bool
    swapped: bool

    @property
    def can_checkpoint(self) -> bool:
        """Whether ``checkpointing`` saves anything."""
        ...

    @property
    def can_swap(self) -> bool:
        """Whether ``swapped`` saves anything."""
        ...

    @property
    def family(self) -> str:
        """Architecture, under the name that its row in `families` has."""
        ...

    @property
    def model(self) -> nn.Module:
        """The network that parts' module paths are relative to."""
        ...

    @property
    def objective(self) -> Objective:
        """How the model was trained; fixes the meaning of timesteps and of its prediction."""
        ...

    @property
    def device(self) -> torch.device:
        """Where latents and factors have to be."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype of activations."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        ...

    @property
    def downscale(self) -> int:
        """Picture pixels per latent pixel."""
        ...

    def targets(self) -> tuple[Target, ...]:
        """Every layer that can be adapted, under ComfyUI's names."""
        ...

    def weights_digest(self) -> str:
        """Which weights the model has; the same whenever the same model is loaded in the same dtype."""
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in 0..1 to latents (B, C, h, w) as the model sees them."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to pictures (B, 3, H, W) in 0..1."""
        ...

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """Prompts to conditioning with one row each."""
        ...

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The model's prediction for noisy latents (B, C, h, w) at timesteps (B,) in the objective's unit."""
        ...

    def passes(self, conditioning: Conditioning) -> list[list[int]]:
        """Rows of a batch that may go through the model in one pass when each has a chain of its own.

        One pass for all rows, unless captions or a layer that does not keep a sample in its row forbid it.
        """
        ...

    def training(self) -> AbstractContextManager[object]:
        """Whatever exact gradients need; base parameters are frozen inside and get their flags back afterwards."""
        ...


def stack_conditioning(rows: list[Conditioning]) -> Conditioning:
    """Concatenate conditionings along the batch."""
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def repeat_conditioning(conditioning: Conditioning, count: int) -> Conditioning:
    """Repeat a one-row conditioning ``count`` times."""
    return {key: value.expand(count, *value.shape[1:]) for key, value in conditioning.items()}
