"""The nodes that make a prior: what the subjects of a domain share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .bridge.folders import NOTHING, lora_folders, subject_sources
from .schema import advanced, base_model, existing_file, node_schema, training_seed
from .sockets import PriorSocket


def _base_model() -> list[io.Input]:
    return base_model("The base model to make a prior for. It is not changed.")


def _settings_of_the_run() -> list[io.Input]:
    checkpointing = io.Combo.Input(
        "checkpointing",
        options=["auto", "on", "off"],
        default="auto",
        tooltip="on uses less memory and takes about a third longer, with the same result.",
    )
    seed = training_seed("Seed of initial values and all random choices.")
    return [advanced(one) for one in (checkpointing, seed, existing_file())]


class MetaTrainPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "MetaTrainPrior",
            "Meta-Train Prior",
            description="Learns what many subjects of one kind share, once per kind of subject and base model. Later "
            "subjects then usually need fewer steps. You can cancel; queue again to resume.",
            search_aliases=["train", "meta learning", "prior", "meta lora", "stage 1"],
            is_output_node=True,
            inputs=[
                *_base_model(),
                io.Combo.Input(
                    "subjects",
                    options=subject_sources(),
                    tooltip="A folder in ComfyUI's input folder that holds one folder of photos per subject, or the "
                    "rendered subjects of the pocket model. A hundred subjects are a start, a thousand are good.",
                ),
                io.String.Input("class_word", default="person", tooltip="What the subjects are, in one everyday word."),
                io.String.Input(
                    "filename",
                    default="my_prior",
                    tooltip="Name of the prior in models/metalora.",
                ),
                io.Int.Input(
                    "steps",
                    default=2000,
                    min=1,
                    max=1000000,
                    tooltip="Training steps. More subjects need more steps.",
                ),
                advanced(
                    io.Int.Input(
                        "subject_limit",
                        default=0,
                        min=0,
                        max=100000,
                        tooltip="Use at most this many subjects; 0 takes every folder, or 48 of the pocket model's "
                        "rendered subjects.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "r_meta",
                        default=64,
                        min=1,
                        max=1024,
                        tooltip="Rank of the shared projection. Raise it for a wider domain; the file grows with it.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "r_mid",
                        default=8,
                        min=1,
                        max=256,
                        tooltip="Rank of each identity. Raise it for subjects with much individual detail.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "subjects_per_batch",
                        default=8,
                        min=1,
                        max=256,
                        tooltip="Different subjects per step. Raise it if memory allows: the prior becomes more "
                        "general.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "resolution",
                        default=512,
                        min=64,
                        max=2048,
                        step=16,
                        tooltip="Side of the training pictures in pixels.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "warm_start",
                        options=["mean", "learned", "none"],
                        default="mean",
                        tooltip="Where adaptation starts: from the mean of the trained subjects, from a learned common "
                        "identity, or from zero as in the paper (none).",
                    )
                ),
                *_settings_of_the_run(),
            ],
            outputs=[
                PriorSocket.Output(display_name="prior", tooltip="For Adapt Identity."),
                io.LossMap.Output(display_name="loss_map", tooltip="For core's Plot Loss Graph."),
                io.String.Output(display_name="report", tooltip="Subjects, steps, losses and where the file is."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **settings: Any) -> io.NodeOutput:
        from .bridge.prior_training import PriorRequest, train_prior
        from .bridge.progress import report_with_course

        outcome = train_prior(model, clip, vae, PriorRequest(**settings))
        shown = report_with_course(outcome.report, outcome.losses)
        return io.NodeOutput(outcome.prior, {"loss": outcome.losses}, outcome.report, ui=shown)


class QuickPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "QuickPrior",
            "Quick Prior",
            description="Makes a prior from what you have: a folder of 20 or more subjects, a folder of 32 or more "
            "ordinary LoRA files of one kind, or both. At the end it shows what the prior is worth on subjects that it "
            "has not seen.",
            search_aliases=["prior", "lora", "meta learning", "meta lora", "stage 1", "train"],
            is_output_node=True,
            inputs=[
                *_base_model(),
                io.Combo.Input(
                    "subjects",
                    options=[NOTHING, *subject_sources()],
                    tooltip="A folder in ComfyUI's input folder that holds one folder of photos per subject, 20 or "
                    "more; the pocket model's rendered subjects; or none.",
                ),
                io.Combo.Input(
                    "loras",
                    options=lora_folders(),
                    tooltip="A folder in models/loras with ordinary LoRA files of such subjects for this model, by any "
                    "trainer. Alone they become the prior in seconds; with subjects they are its start.",
                ),
                io.String.Input("class_word", default="person", tooltip="What the subjects are, in one everyday word."),
                io.String.Input(
                    "license",
                    default="",
                    tooltip="Licence or permission under which you use the photos or LoRA files, for the prior's "
                    "record. Needed for LoRA files.",
                ),
                advanced(
                    io.String.Input("filename", default="quick_prior", tooltip="Name of the prior in models/metalora.")
                ),
                advanced(
                    io.Int.Input(
                        "steps", default=2000, min=1, max=1000000, tooltip="Training steps. LoRA files alone need none."
                    )
                ),
                advanced(
                    io.Int.Input(
                        "left_out",
                        default=2,
                        min=0,
                        max=16,
                        tooltip="Subjects or LoRA files to keep aside, to measure the prior with; 0 for none.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "subjects_per_batch", default=8, min=1, max=256, tooltip="Different subjects per step."
                    )
                ),
                advanced(
                    io.Int.Input(
                        "resolution",
                        default=512,
                        min=64,
                        max=2048,
                        step=16,
                        tooltip="Side of the training pictures in pixels.",
                    )
                ),
                *_settings_of_the_run(),
            ],
            outputs=[
                PriorSocket.Output(display_name="prior", tooltip="For Adapt Identity."),
                io.Image.Output(
                    display_name="picture",
                    tooltip="A row per left-out subject: its photo, another one, and what is drawn with this prior, "
                    "without one and by a plain LoRA.",
                ),
                io.String.Output(display_name="report", tooltip="What was used, what was not and why, and the result."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **settings: Any) -> io.NodeOutput:
        from .bridge.quick_prior import QuickRequest, make_quick_prior

        outcome = make_quick_prior(model, clip, vae, QuickRequest(**settings))
        return io.NodeOutput(outcome.prior, outcome.picture, outcome.report, ui=ui.PreviewText(outcome.report))


NODES = [MetaTrainPrior, QuickPrior]
