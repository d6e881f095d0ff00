"""Node schemas that both the oldest and the newest supported ComfyUI accept."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

CATEGORY = "Meta-LoRA"
ADVANCED = {"advanced": True}
"""As ``extra_dict`` of an input: folded away by frontends that can, shown by older ones."""


def node_schema(node_id: str, display_name: str, **fields: Any) -> io.Schema:
    """A schema in the pack's category, without the fields that this ComfyUI does not know yet."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    fields = {"category": CATEGORY, "outputs": [], **fields}
    return io.Schema(
        node_id=f"MetaLoRA_{node_id}",
        display_name=display_name,
        **{name: value for name, value in fields.items() if name in known},
    )
