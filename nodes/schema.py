"""Node schemas that both the oldest and the newest supported ComfyUI accept."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from comfy_api.latest import io

from .sockets import PriorSocket

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


def base_model(tooltip: str) -> list[io.Input]:
    """The model that is learned with, and what belongs to it."""
    return [
        io.Model.Input("model", tooltip=tooltip),
        io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
        io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
    ]


def adapted_model() -> list[io.Input]:
    """The model that a subject is learned with."""
    return base_model("The base model; with a prior, the one it was made for. It is not changed.")


def prior_to_learn_with() -> io.Input:
    """The prior that a subject is learned with, if there is one."""
    return PriorSocket.Input(
        "prior",
        optional=True,
        tooltip="From Load Meta-LoRA Prior. If none exists for the model, leave it unconnected: learning then takes as "
        "many steps as an ordinary LoRA.",
    )


def training_seed(tooltip: str) -> io.Int.Input:
    """A seed that stays as it is from run to run."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False, tooltip=tooltip)


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
