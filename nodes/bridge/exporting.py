"""Exports from the node: what the file format needs to know beyond the identity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...metalora_core.errors import InvalidOptions
from ...metalora_core.files.export import export_lora
from ...metalora_core.files.prior import Prior
from ...metalora_core.model.targets import Target
from .learned import LearnedIdentity

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export_identity(path: Path, learned: LearnedIdentity, layout: Any, precision: str) -> None:
    """Write an ordinary LoRA file.

    Raises:
        InvalidOptions: If the layout is not available for this architecture here.
    """
    targets = _diffusers_targets(learned.prior) if layout == "diffusers" else None
    export_lora(path, learned.identity, learned.prior, layout, targets, dtype=PRECISIONS[precision])


def _diffusers_targets(prior: Prior) -> Sequence[Target]:
    """The diffusers modules behind a prior's layers, from a model of its size without any weights."""
    if prior.metadata.family != "flux":
        raise InvalidOptions(
            f"Export Identity as LoRA: the diffusers layout is made here for Flux only, this is a "
            f"{prior.metadata.family} identity. Choose comfyui or kohya, or run: python -m metalora_core export --help"
        )
    from diffusers import FluxTransformer2DModel

    from ...metalora_core.hosts.target_map import find_targets

    width = next(layer.meta_down.shape[1] for name, layer in prior.layers.items() if name.endswith(("qkv", "linear1")))
    with torch.device("meta"):
        model = FluxTransformer2DModel(
            num_layers=_count(prior, "double_blocks"),
            num_single_layers=_count(prior, "single_blocks"),
            num_attention_heads=width // 128,
        )
    return find_targets(model)


def _count(prior: Prior, blocks: str) -> int:
    found = [re.match(rf"{blocks}\.(\d+)\.", name) for name in prior.layers]
    return max((int(match[1]) + 1 for match in found if match), default=1)
