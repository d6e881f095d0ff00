"""The node that saves pictures which say, under a signature, how they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .schema import advanced, node_schema
from .sockets import IdentitySocket

if TYPE_CHECKING:
    from .bridge.learned import LearnedIdentity


class SaveImageWithCredentials(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "SaveImageWithCredentials",
            "Save Image with Credentials",
            description="Saves pictures with a signed C2PA manifest and XMP: made by a trained model, with which "
            "identities, under which permission. Needs pip install c2pa-python.",
            search_aliases=["save image", "c2pa", "content credentials", "sign", "provenance", "ai label", "meta lora"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save."),
                io.String.Input(
                    "filename_prefix",
                    default="ComfyUI",
                    tooltip="Start of the file names in ComfyUI's output folder, by the rules of Save Image; a slash "
                    "makes a subfolder.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that the sampler used. Every identity that Apply Identity put into it is named.",
                ),
                IdentitySocket.Input(
                    "identity", optional=True, tooltip="An identity that acted through Identity as Hook."
                ),
                advanced(
                    io.Combo.Input(
                        "file_format",
                        options=["png", "jpeg"],
                        default="png",
                        optional=True,
                        tooltip="png keeps every pixel and the workflow; jpeg is smaller and holds no workflow.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "identities",
                        options=["names and permissions", "hashes only"],
                        default="names and permissions",
                        optional=True,
                        tooltip="How the manifest names the identities. Choose hashes only to give away neither a name "
                        "nor the id of a permission.",
                    )
                ),
            ],
            outputs=[io.String.Output(display_name="report", tooltip="What was saved, and what the signature proves.")],
        )

    @classmethod
    def execute(
        cls,
        images: Any,
        filename_prefix: str,
        model: Any = None,
        identity: LearnedIdentity | None = None,
        file_format: str = "png",
        identities: str = "names and permissions",
    ) -> io.NodeOutput:
        from .bridge.credentials import identities_in, save_signed

        notes = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
        learned, names = identities_in(model, identity), identities != "hashes only"
        saved = save_signed(images, filename_prefix, file_format, learned, notes, names)
        return io.NodeOutput(saved.report, ui={"images": saved.pictures, "text": (saved.report,)})

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        from .bridge.credentials import cannot_sign

        return cannot_sign() or True

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        from .bridge.permissions import permissions_state

        return permissions_state()


NODES = [SaveImageWithCredentials]
