"""Node schemas that both the oldest and the newest supported ComfyUI accept."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from comfy_api.latest import io

CATEGORY = "Meta-LoRA"
AnyInput = TypeVar("AnyInput", bound=io.Input)


def node_schema(node_id: str, display_name: str, **fields: Any) -> io.Schema:
    """A schema in the pack's category, without the fields that this ComfyUI does not know yet."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    fields = {"category": CATEGORY, "outputs": [], **fields}
    return io.Schema(
        node_id=f"MetaLoRA_{node_id}",
        display_name=display_name,
        **{name: value for name, value in fields.items() if name in known},
    )


def advanced(widget: AnyInput) -> AnyInput:
    """Hide an input under advanced settings where the frontend can; older ones show it."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def existing_file() -> io.Combo.Input:
    """What to do with an older file of the name; the last input, so that saved workflows stay as they are."""
    return io.Combo.Input(
        "existing",
        options=["new name", "replace"],
        default="new name",
        optional=True,
        tooltip="If another result has this name: new name adds a number and keeps both, replace writes over it.",
    )


def with_photo_tiles(widget: io.String.Input) -> io.String.Input:
    """Have the pack's own page code draw a text input, as tiles that take dropped photos."""
    widget.widget_type = "METALORA_PHOTOS"
    return widget


def percent(name: str, default: float, tooltip: str) -> io.Float.Input:
    """An advanced input for a point in sampling: 0 is the noisy start, 1 the finished picture."""
    return advanced(io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip))
