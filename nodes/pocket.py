"""The node that makes the pack work on a fresh ComfyUI: a complete tiny model."""

from __future__ import annotations

from comfy_api.latest import io

from .schema import advanced, node_schema
from .sockets import PriorSocket


class LoadPocketModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LoadPocketModel",
            "Load Pocket Model",
            description="A complete small model that ships with the pack and runs on any computer in seconds. Try "
            "every node before you download anything. It generates rendered people and products at 128 × 128 pixels.",
            search_aliases=["demo", "tiny", "example", "test model", "meta lora", "pocket"],
            inputs=[
                io.Combo.Input(
                    "domain",
                    options=["avatars", "products"],
                    default="avatars",
                    tooltip="Kind of subject: avatars are faces (class word person); products are a mug, bottle, vase, "
                    "bowl or jar.",
                ),
                io.Int.Input(
                    "subject",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="Which sample subject the photos show. The model has never seen any of them.",
                ),
                io.Int.Input(
                    "photo_count",
                    default=1,
                    min=1,
                    max=8,
                    tooltip="How many sample photos; one is enough, four are better.",
                ),
                advanced(
                    io.Int.Input(
                        "held_out_count",
                        default=4,
                        min=1,
                        max=16,
                        tooltip="How many more photos of the same subject to output for Evaluate Identity.",
                    )
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="A tiny Flux; use 128 × 128 pixels."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder."),
                io.Vae.Output(display_name="vae", tooltip="Its VAE."),
                PriorSocket.Output(display_name="prior", tooltip="The prior of the chosen domain."),
                io.Image.Output(
                    display_name="photos", tooltip="Photos of the sample subject, for Prepare Reference Photos."
                ),
                io.Image.Output(
                    display_name="held_out", tooltip="Other photos of the same subject, for Evaluate Identity."
                ),
                io.String.Output(display_name="class_word", tooltip="What the sample subject is."),
            ],
        )

    @classmethod
    def execute(cls, domain: str, subject: int, photo_count: int, held_out_count: int = 4) -> io.NodeOutput:
        from .bridge.pocket_model import load_pocket, pocket_photos

        model, clip, vae, prior = load_pocket(domain)
        photos, held_out, class_word = pocket_photos(domain, subject, photo_count, held_out_count)
        return io.NodeOutput(model, clip, vae, prior, photos, held_out, class_word)


NODES = [LoadPocketModel]
