"""Nodes that read and write the pack's files: priors, identities, and standard LoRA files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from .bridge.folders import (
    IDENTITIES,
    NEW_NAME,
    PRIORS,
    file_in,
    file_state,
    kept_note,
    listed,
    missing_file,
    new_file,
    shown,
    write_result,
)
from .schema import advanced, existing_file, node_schema
from .sockets import IdentitySocket, PriorSocket

if TYPE_CHECKING:
    from ..metalora_core.files.prior import Prior
    from .bridge.learned import LearnedIdentity


class LoadPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LoadPrior",
            "Load Meta-LoRA Prior",
            description="Loads what was meta-trained for a kind of subject, such as people, on one base model. With "
            "it, a new subject usually needs fewer steps.",
            search_aliases=["meta lora", "prior", "meta down", "load meta"],
            inputs=[
                io.Combo.Input(
                    "prior_name",
                    options=listed(PRIORS),
                    tooltip="A file in models/metalora, made for the base model that you connect.",
                )
            ],
            outputs=[
                PriorSocket.Output(display_name="prior", tooltip="For Adapt Identity and Prepare Reference Photos.")
            ],
        )

    @classmethod
    @torch.inference_mode(False)
    def execute(cls, prior_name: str) -> io.NodeOutput:
        from ..metalora_core.files.prior import load_prior
        from .bridge.consent import check_prior

        prior = load_prior(file_in(PRIORS, prior_name))
        check_prior(prior)
        return io.NodeOutput(prior)

    @classmethod
    def validate_inputs(cls, prior_name: str) -> bool | str:
        return missing_file(PRIORS, prior_name) or True

    @classmethod
    def fingerprint_inputs(cls, prior_name: str) -> str:
        from .bridge.permissions import permissions_state

        return f"{file_state(PRIORS, prior_name)} {permissions_state()}"


class LoadIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LoadIdentity",
            "Load Identity",
            description="Loads a learned person or product. Its prior is found in models/metalora by its hash.",
            search_aliases=["meta lora", "load lora", "character", "face", "subject"],
            inputs=[
                io.Combo.Input(
                    "identity_name",
                    options=listed(IDENTITIES),
                    tooltip="A file in models/metalora_identities. Results of Adapt Identity are in the subfolder "
                    "adapted.",
                ),
                PriorSocket.Input(
                    "prior", optional=True, tooltip="Only needed when the identity's prior is not in models/metalora."
                ),
            ],
            outputs=[
                IdentitySocket.Output(display_name="identity", tooltip="For Apply Identity and Identity as Hook."),
                io.String.Output(display_name="trigger", tooltip="The words that call the subject in a prompt."),
            ],
        )

    @classmethod
    @torch.inference_mode(False)
    def execute(cls, identity_name: str, prior: Prior | None = None) -> io.NodeOutput:
        from ..metalora_core.files.identity import load_identity
        from ..metalora_core.files.metadata import thumbnail_in
        from .bridge.consent import check_use
        from .bridge.installed_priors import prior_of
        from .bridge.learned import LearnedIdentity

        path = file_in(IDENTITIES, identity_name)
        identity = load_identity(path)
        learned = LearnedIdentity(identity, prior_of(identity, prior), thumbnail_in(path))
        check_use(learned)
        return io.NodeOutput(learned, learned.words)

    @classmethod
    def validate_inputs(cls, identity_name: str) -> bool | str:
        return missing_file(IDENTITIES, identity_name) or True

    @classmethod
    def fingerprint_inputs(cls, identity_name: str, **_: Any) -> str:
        from .bridge.permissions import permissions_state

        return f"{file_state(IDENTITIES, identity_name)} {permissions_state()}"


class SaveIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "SaveIdentity",
            "Save Identity",
            description="Saves a learned identity under a name you choose, in models/metalora_identities. The file is "
            "small and needs the same prior.",
            search_aliases=["meta lora", "save lora", "character"],
            is_output_node=True,
            inputs=[
                IdentitySocket.Input("identity", tooltip="From Adapt Identity."),
                io.String.Input(
                    "filename",
                    default="my_identity",
                    tooltip="Name of the file; a slash makes a subfolder. Lists and messages show the identity by it.",
                ),
                existing_file(),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="Path of the file.")],
        )

    @classmethod
    def execute(cls, identity: LearnedIdentity, filename: str, existing: str = NEW_NAME) -> io.NodeOutput:
        from ..metalora_core.files.identity import save_identity
        from ..metalora_core.provenance.consent import Purpose
        from .bridge.audit import note_identity
        from .bridge.consent import check_use

        reminder = check_use(identity, Purpose.TRAINING)
        asked = new_file(IDENTITIES, filename)
        path = write_result(
            asked,
            existing,
            lambda path: save_identity(path, identity.identity.named(path.stem), identity.thumbnail),
        )
        warning = note_identity("identity saved", identity.identity, shown(IDENTITIES, path))
        return _saved(IDENTITIES, path, kept_note(asked, path), warning, reminder)

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        from .bridge.permissions import permissions_state

        return permissions_state()


class ExportLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "ExportLoRA",
            "Export Identity as LoRA",
            description="Writes the identity as an ordinary LoRA file into models/loras, for any LoRA loader. The "
            "prior is no longer needed.",
            search_aliases=["save lora", "convert", "meta lora", "kohya", "peft", "diffusers"],
            is_output_node=True,
            inputs=[
                IdentitySocket.Input("identity", tooltip="From Adapt Identity or Load Identity."),
                io.String.Input(
                    "filename",
                    default="my_identity",
                    tooltip="Name of the file in models/loras; a slash makes a subfolder. LoRA managers show it as the "
                    "title.",
                ),
                io.Combo.Input(
                    "layout",
                    options=["comfyui", "kohya", "diffusers"],
                    default="comfyui",
                    tooltip="Naming scheme inside the file. comfyui and kohya load in ComfyUI; diffusers is for "
                    "scripts that use diffusers or PEFT.",
                ),
                advanced(
                    io.Combo.Input(
                        "precision",
                        options=["float32", "bfloat16", "float16"],
                        default="float32",
                        tooltip="Number format in the file. The 16-bit formats halve its size; the difference is "
                        "rarely visible.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "strength",
                        default=1.0,
                        min=-4.0,
                        max=4.0,
                        step=0.05,
                        optional=True,
                        tooltip="Built into the file, for loaders that are used at 1. 1 is the identity as learned.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "author",
                        default="",
                        optional=True,
                        tooltip="Who made it, for the file's metadata; LoRA managers show it.",
                    )
                ),
                io.Image.Input(
                    "thumbnail",
                    optional=True,
                    tooltip="Preview picture for the file's metadata, as LoRA managers show it; made small.",
                ),
                existing_file(),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="Path of the file.")],
        )

    @classmethod
    def execute(
        cls, identity: LearnedIdentity, filename: str, layout: str, existing: str = NEW_NAME, **described: Any
    ) -> io.NodeOutput:
        from ..metalora_core.provenance.consent import Purpose
        from ..metalora_core.provenance.permission import IDENTITY_EXPORTED
        from .bridge.audit import note_identity
        from .bridge.consent import check_use
        from .bridge.exporting import FEW_BITS, export_identity

        check_use(identity, Purpose.SHARING)
        asked = new_file("loras", filename)
        path = write_result(asked, existing, lambda path: export_identity(path, identity, layout, **described))
        warning = note_identity(IDENTITY_EXPORTED, identity.identity, shown("loras", path))
        return _saved("loras", path, kept_note(asked, path), FEW_BITS, warning)

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        from .bridge.permissions import permissions_state

        return permissions_state()


def _saved(folder: str, path: Path, *notes: str) -> io.NodeOutput:
    told = filter(None, [f"Saved {shown(folder, path)}", *notes])
    return io.NodeOutput(str(path), ui=ui.PreviewText("\n".join(told)))


NODES = [LoadPrior, LoadIdentity, SaveIdentity, ExportLoRA]
