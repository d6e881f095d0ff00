"""A learned identity as ComfyUI's LORA_MODEL: an ordinary LoRA in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...metalora_core.chain import ChainFactors
from .host.targets import PREFIX


def lora_tensors(factors: Mapping[str, ChainFactors]) -> dict[str, Tensor]:
    """Fold every chain; alpha carries the scale, since a loader multiplies by alpha / rank."""
    tensors: dict[str, Tensor] = {}
    for name, chain in factors.items():
        down, up = chain.fold()
        tensors[f"{PREFIX}{name}.lora_down.weight"] = down.contiguous()
        tensors[f"{PREFIX}{name}.lora_up.weight"] = up.contiguous()
        tensors[f"{PREFIX}{name}.alpha"] = torch.tensor(chain.scale * down.shape[0])
    return tensors
