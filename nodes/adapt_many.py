"""The node that learns a folder of subjects."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .bridge.folders import subject_sources
from .schema import adapted_model, advanced, node_schema, prior_to_learn_with, training_seed
from .sockets import IdentitySocket


class AdaptMany(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "AdaptMany",
            "Adapt Many",
            description="Learns every subject of a folder, one identity file each, several in one pass. "
            "A subject that fails stops no other; the report and the manifest say why. You can cancel; queue again to "
            "resume: what was learned from the same photos with the same settings is not learned again.",
            search_aliases=["batch train", "train many", "catalogue", "train folder", "bulk", "meta lora"],
            is_output_node=True,
            inputs=[
                *adapted_model(),
                io.Combo.Input(
                    "subjects",
                    options=subject_sources(),
                    tooltip="A folder in ComfyUI's input folder that holds one folder of photos per subject, or four "
                    "sample subjects of the pocket model.",
                ),
                io.String.Input(
                    "class_word",
                    default="person",
                    tooltip="What the subjects are, in one everyday word. A file class_word.txt in a subject's folder "
                    "says otherwise for that one.",
                ),
                io.String.Input("trigger", default="ohwx", tooltip="The rare word that calls each subject in prompts."),
                prior_to_learn_with(),
                advanced(
                    io.Int.Input(
                        "steps",
                        default=0,
                        min=0,
                        max=20000,
                        tooltip="Training steps of each subject; 0 takes the preset for its number of photos.",
                    )
                ),
                advanced(training_seed("Seed of the training noise. The same seed gives the same identities.")),
                advanced(
                    io.Int.Input(
                        "side_by_side",
                        default=4,
                        min=1,
                        max=64,
                        tooltip="Most subjects in one pass. Raise it while memory allows; those that do not fit are "
                        "learned in smaller groups. 1 learns each alone, and then a cancelled one resumes.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "resolution",
                        default=0,
                        min=0,
                        max=2048,
                        step=16,
                        tooltip="Side of the training pictures in pixels; 0 takes the size the prior was trained at, "
                        "and 512 without a prior.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "mirror",
                        options=["auto", "on", "off"],
                        default="auto",
                        tooltip="Also train on mirrored photos. Turn it off for writing, logos or anything else with a "
                        "left and a right. auto follows the preset, and is off for things with a handle.",
                    )
                ),
            ],
            outputs=[
                IdentitySocket.Output(
                    display_name="identities",
                    is_output_list=True,
                    tooltip="One per subject that was learned, by the name of its folder. Nodes behind it run once "
                    "for each.",
                ),
                io.String.Output(display_name="names", is_output_list=True, tooltip="The names of their folders."),
                io.String.Output(
                    display_name="report", tooltip="How many were learned, which failed and why, and where they are."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **settings: Any) -> io.NodeOutput:
        from .bridge.adapting_many import ManyRequest, adapt_many

        found = adapt_many(model, clip, vae, ManyRequest(**settings))
        return io.NodeOutput(found.learned, found.names, found.report, ui={"text": (found.report,)})

    @classmethod
    def fingerprint_inputs(cls, subjects: str = "", **_: Any) -> str:
        from .bridge.adapting_many import folder_state
        from .bridge.permissions import permissions_state

        return f"{permissions_state()} {folder_state(subjects)}"


NODES = [AdaptMany]
