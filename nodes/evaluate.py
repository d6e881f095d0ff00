"""The node that scores how closely a picture resembles its subject."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from comfy_api.latest import io, ui

from .schema import advanced, node_schema

EMBEDDERS = ("clip vision", "pocket avatars", "pocket products")


class EvaluateIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "EvaluateIdentity",
            "Evaluate Identity",
            description="Scores how closely pictures resemble the subject. It compares with photos that were not "
            "trained on, so that a copied pose does not count as likeness.",
            search_aliases=["score", "similarity", "compare faces", "quality", "likeness", "meta lora"],
            is_input_list=True,
            inputs=[
                io.Image.Input("generated", tooltip="Pictures made with the identity."),
                io.Image.Input("held_out", tooltip="Photos of the same subject that were not among the references."),
                io.Combo.Input(
                    "embedder",
                    options=list(EMBEDDERS),
                    default="clip vision",
                    tooltip="The scorer: a CLIP vision model that you connect, or the pocket model's own.",
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="Needed for clip vision, from Load CLIP Vision."
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="The trained photos. If connected, the node also measures how much pictures copy them.",
                ),
                advanced(io.Int.Input("columns", default=4, min=1, max=16, tooltip="Pictures per row of the grid.")),
            ],
            outputs=[
                io.Float.Output(
                    display_name="likeness",
                    tooltip="Mean identity similarity to the held-out photos; 1 is the same, 0 unrelated.",
                ),
                io.String.Output(display_name="report", tooltip="The score of every picture, one per line."),
                io.Image.Output(display_name="grid", tooltip="The pictures with their scores, best first."),
            ],
        )

    @classmethod
    def execute(
        cls, generated: list[Any], held_out: list[Any], reference: list[Any] | None = None, **lists: list[Any]
    ) -> io.NodeOutput:
        from .bridge.consent import check_photos
        from .bridge.embedders import embedder_of
        from .bridge.image_tensors import to_image
        from .bridge.list_inputs import one_each, photo_list
        from .bridge.scores import report, score, score_grid

        chosen = {"clip_vision": None, "columns": 4} | one_each(lists)
        embed = embedder_of(chosen["embedder"], chosen["clip_vision"])
        pictures, photos, learned = map(photo_list, (generated, held_out, reference))
        check_photos([*photos, *learned])
        found = score(embed, pictures, photos, learned)
        grid, text = to_image(score_grid(pictures, found, chosen["columns"])[None]), report(found)
        shown = {**ui.PreviewImage(grid, cls=cls).as_dict(), "text": (text,)}
        return io.NodeOutput(fmean(found.similarity), text, grid, ui=shown)

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        from .bridge.permissions import permissions_state

        return permissions_state()


NODES = [EvaluateIdentity]
