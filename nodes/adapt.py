"""The node that learns a subject."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .schema import adapted_model, advanced, node_schema, prior_to_learn_with, training_seed
from .sockets import IdentitySocket, ReferencesSocket


class AdaptIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "AdaptIdentity",
            "Adapt Identity",
            description="Learns the person or product in the reference photos. A prior made for the model saves steps, "
            "but none is needed. It shows progress and pictures while it runs. You can cancel; queue again to resume. "
            "The result is saved to disk, so the same photos and settings are never trained twice.",
            search_aliases=[
                "train face",
                "train lora",
                "lora from photos",
                "learn face",
                "dreambooth",
                "fine-tune",
                "personalize",
                "meta lora",
            ],
            inputs=[
                *adapted_model(),
                ReferencesSocket.Input("references", tooltip="From Prepare Reference Photos."),
                prior_to_learn_with(),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=20000,
                    tooltip="Training steps; 0 takes the preset for this number of photos, and without a prior the "
                    "usual number of an ordinary LoRA. Raise it when the likeness is faint, lower it when pose or "
                    "background of the photos reappear.",
                ),
                training_seed("Seed of the training noise. The same seed gives the same identity, bit for bit."),
                advanced(
                    io.Int.Input(
                        "resolution",
                        default=0,
                        min=0,
                        max=2048,
                        step=16,
                        tooltip="Side of the training pictures in pixels; 0 takes the size the prior was trained at, "
                        "or the photos' own if that is smaller. Raise it for fine detail: time and memory grow with "
                        "its square.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "learning_rate",
                        default=1.0,
                        min=0.01,
                        max=20.0,
                        step=0.05,
                        tooltip="Factor on the learning rate: the preset's, or without a prior and a preset the one "
                        "that a few trial steps on the photos find. Lower it if the loss jumps.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "batch_size",
                        default=0,
                        min=0,
                        max=64,
                        tooltip="Pictures per step; 0 takes the preset. Raise it for steadier training if memory "
                        "allows.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "optimizer",
                        options=["adamw", "adam", "sgd", "prodigy", "schedulefree_adamw", "adamw8bit"],
                        default="adamw",
                        tooltip="The presets are made for adamw. prodigy, schedulefree_adamw and adamw8bit need an "
                        "extra package and say which.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "checkpointing",
                        options=["auto", "on", "off"],
                        default="auto",
                        tooltip="on uses less memory and takes about a third longer, with the same result; auto turns "
                        "it on when the card has less than 24 GB.",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "guidance",
                        default=1.0,
                        min=0.0,
                        max=30.0,
                        step=0.1,
                        tooltip="Guidance value for training guidance-distilled models (FLUX.1-dev). 1 keeps their "
                        "usual behaviour.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "preview_every",
                        default=0,
                        min=0,
                        max=10000,
                        tooltip="Steps between two sample pictures; 0 samples four in total. Each costs a few forward "
                        "passes.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "mirror",
                        options=["auto", "on", "off"],
                        default="auto",
                        optional=True,
                        tooltip="Also train on mirrored photos, so that less of the pose is copied. left and right are "
                        "swapped in the captions. Turn it off for writing, logos or anything else with a left and a "
                        "right. auto follows the preset: off for things with a handle, and for models that have no "
                        "preset.",
                    )
                ),
                advanced(
                    io.Image.Input(
                        "reference",
                        optional=True,
                        tooltip="For edit models (FLUX.1 Kontext, Qwen-Image-Edit, FLUX.2, InstructPix2Pix): the "
                        "picture that an edit starts from; it learns to turn it into the photo. One for all photos, or "
                        "one per photo in their order.",
                    )
                ),
                advanced(
                    io.Mask.Input(
                        "mask",
                        optional=True,
                        tooltip="For inpaint models (FLUX.1 Fill, SD and SDXL inpaint): white where the model learns "
                        "to fill the photo. One for all photos, or one per photo in their order. Not connected: "
                        "everything is filled.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "use_step",
                        default=0,
                        min=0,
                        max=20000,
                        optional=True,
                        tooltip="Step to use instead of the last; 0 is the last. A click on a picture sets it. Choose "
                        "an earlier one when pose or background of the photos reappear. Nothing is trained again.",
                    )
                ),
            ],
            outputs=[
                IdentitySocket.Output(display_name="identity", tooltip="For Apply Identity and Save Identity."),
                io.LoraModel.Output(
                    display_name="lora_model", tooltip="For core's Load LoRA Model and Save LoRA Weights."
                ),
                io.LossMap.Output(display_name="loss_map", tooltip="For core's Plot Loss Graph."),
                io.String.Output(display_name="report", tooltip="Steps, time, losses and where the file is."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **settings: Any) -> io.NodeOutput:
        from .bridge.adapting import Request, adapt_identity

        outcome = adapt_identity(model, clip, vae, Request(**settings))
        lora, losses = outcome.lora_model(), {"loss": outcome.losses}
        return io.NodeOutput(outcome.learned, lora, losses, outcome.report, ui=outcome.shown)

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        from .bridge.permissions import permissions_state

        return permissions_state()


NODES = [AdaptIdentity]
