"""Exports from the node: what the file format needs beyond the identity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...metalora_core.errors import InvalidOptions
from ...metalora_core.files.export import export_lora, layer_shapes
from ...metalora_core.model.families import family_named
from ...metalora_core.model.targets import Target
from .learned import LearnedIdentity

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export_identity(path: Path, learned: LearnedIdentity, layout: Any, precision: str) -> None:
    """Write an ordinary LoRA file.

    Raises:
        InvalidOptions: If the layout is not available for this architecture here.
    """
    targets = _diffusers_targets(learned) if layout == "diffusers" else None
    export_lora(path, learned.identity, learned.prior, layout, targets, dtype=PRECISIONS[precision])


def _diffusers_targets(learned: LearnedIdentity) -> Sequence[Target]:
    """The diffusers modules behind an identity's layers, from their names alone."""
    from ...metalora_core.hosts.target_map import named_targets

    recorded = learned.prior.metadata.family
    family = family_named(recorded)
    if family is None:
        raise InvalidOptions(
            f"Export Identity as LoRA: the names that diffusers gives the layers of a {recorded} model are not known "
            "here. Choose comfyui or kohya."
        )
    return named_targets(family, layer_shapes(learned.identity, learned.prior))
