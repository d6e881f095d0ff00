"""Random numbers that are a function of the step, so that a resumed run needs no generator state."""

from __future__ import annotations

import hashlib

import torch


def step_generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator that depends on seed, purpose and step only.

    Noise drawn on the CPU is the same on every device, and a resumed run draws the same as an uninterrupted one.
    """
    digest = hashlib.sha256(f"{seed} {purpose} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
