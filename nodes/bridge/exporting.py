"""Exports from the node: what the file format needs beyond the identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...metalora_core.files.export import export_lora
from .learned import LearnedIdentity

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export_identity(path: Path, learned: LearnedIdentity, layout: Any, precision: str) -> None:
    """Write an ordinary LoRA file.

    Raises:
        InvalidOptions: If the layout is not available for this architecture here.
    """
    from ...metalora_core.hosts.target_map import layout_targets

    targets = layout_targets(layout, learned.identity, learned.prior)
    export_lora(path, learned.identity, learned.prior, layout, targets, dtype=PRECISIONS[precision])
