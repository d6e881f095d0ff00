"""The node that trains a prior: what the subjects of a domain have in common."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .bridge.folders import subject_sources
from .schema import advanced, node_schema
from .sockets import PriorSocket


class MetaTrainPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "MetaTrainPrior",
            "Meta-Train Prior",
            description="Learns from many subjects what they share, once per kind of subject and base model. Every "
            "later subject is then learned in a fraction of the steps. Cancel and queue again, and it goes on where "
            "it was.",
            search_aliases=["train", "meta learning", "prior", "meta lora", "stage 1"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The base model to make a prior for. It stays unchanged."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Combo.Input(
                    "subjects",
                    options=subject_sources(),
                    tooltip="A folder in ComfyUI's input folder that holds one folder of photos per subject, or the "
                    "drawn subjects of the pocket model. A hundred subjects are a start, a thousand are good.",
                ),
                io.String.Input("class_word", default="person", tooltip="What the subjects are, in one everyday word."),
                io.String.Input(
                    "filename",
                    default="my_prior",
                    tooltip="Name of the prior in models/metalora. An existing file is replaced.",
                ),
                io.Int.Input(
                    "steps",
                    default=2000,
                    min=1,
                    max=1000000,
                    tooltip="Training steps. Raise it with the number of subjects.",
                ),
                advanced(
                    io.Int.Input(
                        "subject_limit",
                        default=0,
                        min=0,
                        max=100000,
                        tooltip="Most subjects to use; 0 takes every folder, or 48 of the pocket model's drawn "
                        "subjects.",
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
                        tooltip="Different subjects a step. Raise it if memory allows: the prior becomes more general.",
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
                        tooltip="Where adaptation begins: at the mean of the trained subjects, at a learned common "
                        "identity, or at nothing as in the paper.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "checkpointing",
                        options=["auto", "on", "off"],
                        default="auto",
                        tooltip="on keeps less in memory and takes about a third longer, with the same result.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "seed",
                        default=0,
                        min=0,
                        max=0xFFFFFFFF,
                        control_after_generate=False,
                        tooltip="Of initial values and all draws.",
                    )
                ),
            ],
            outputs=[
                PriorSocket.Output(display_name="prior", tooltip="For Adapt Identity."),
                io.LossMap.Output(display_name="loss_map", tooltip="For core's Plot Loss Graph."),
                io.String.Output(display_name="report", tooltip="Subjects, steps, losses and where the file lies."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **settings: Any) -> io.NodeOutput:
        from .bridge.prior_training import PriorRequest, train_prior

        outcome = train_prior(model, clip, vae, PriorRequest(**settings))
        return io.NodeOutput(outcome.prior, {"loss": outcome.losses}, outcome.report, ui=ui.PreviewText(outcome.report))


NODES = [MetaTrainPrior]
