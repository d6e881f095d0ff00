"""Nodes that put a learned identity to use: in the whole model, or in a region of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io, ui

from .schema import advanced, node_schema, percent
from .sockets import IdentitySocket

if TYPE_CHECKING:
    from .bridge.learned import LearnedIdentity

STRENGTH = (
    "How strongly the identity shows. 1 is as learned; raise it to 1.2 when the likeness is faint, lower it to 0.7 "
    "when the prompt is not followed; 0 turns it off."
)
START = (
    "When the identity starts to act, as a fraction of sampling. Raise it to let the prompt settle the composition "
    "first."
)
END = "When the identity stops acting, as a fraction of sampling. Lower it to leave the last details to the base model."


class ApplyIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "ApplyIdentity",
            "Apply Identity",
            description="Puts a learned person or product into the model. Write its trigger and class word in the "
            "prompt.",
            search_aliases=["lora", "apply lora", "meta lora", "use identity", "face", "character", "personalize"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the identity was learned on. It is not changed."),
                IdentitySocket.Input("identity", tooltip="From Adapt Identity or Load Identity."),
                io.Float.Input("strength", default=1.0, min=-4.0, max=4.0, step=0.05, tooltip=STRENGTH),
                percent("start_percent", 0.0, START),
                percent("end_percent", 1.0, END),
                advanced(
                    io.Combo.Input(
                        "method",
                        options=["auto", "patch", "bypass"],
                        default="auto",
                        tooltip="patch changes the weights: no cost while sampling. bypass computes beside the "
                        "weights: for 8-bit and GGUF models, where a small change would be rounded away. auto chooses.",
                    )
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the identity in it."),
                io.String.Output(
                    display_name="applied",
                    tooltip="How many layers use the identity, and a line if the model is another finetune.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        identity: LearnedIdentity,
        strength: float,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        method: str = "auto",
    ) -> io.NodeOutput:
        from .bridge.consent import AskedAtStart, check_use
        from .bridge.fit import weights_note
        from .bridge.patching import Window, apply_identity, asked_at_start, beside_note

        reminder = check_use(identity)
        window = Window.checked(start_percent, end_percent)
        applied, coverage = apply_identity(model, identity.factors(), strength, window, method, identity.title)
        notes = [f"{coverage.text}{beside_note(model, applied)}", weights_note(model, identity), reminder]
        told = "\n".join(filter(None, notes))
        return io.NodeOutput(asked_at_start(model, applied, AskedAtStart(identity)), told, ui=ui.PreviewText(told))

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        from .bridge.permissions import permissions_state

        return permissions_state()


class IdentityHook(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "IdentityHook",
            "Identity as Hook",
            description="Applies an identity to one conditioning only, so that one picture can show several subjects, "
            "each in its own mask. Connect it to Cond Set Props or Cond Pair Set Props.",
            search_aliases=["regional lora", "lora hook", "mask", "two characters", "couple", "multiple subjects"],
            inputs=[
                IdentitySocket.Input("identity", tooltip="From Adapt Identity or Load Identity."),
                io.Float.Input("strength", default=1.0, min=-4.0, max=4.0, step=0.05, tooltip=STRENGTH),
                percent("start_percent", 0.0, START),
                percent("end_percent", 1.0, END),
                io.Hooks.Input("prev_hooks", optional=True, tooltip="Other hooks to combine with this one."),
            ],
            outputs=[io.Hooks.Output(display_name="hooks", tooltip="For the hooks input of a conditioning node.")],
        )

    @classmethod
    def execute(
        cls,
        identity: LearnedIdentity,
        strength: float,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        prev_hooks: Any = None,
    ) -> io.NodeOutput:
        from .bridge.consent import AskedAtStart, check_use
        from .bridge.patching import Window
        from .bridge.regional import combined_hooks, identity_hooks

        check_use(identity)
        window = Window.checked(start_percent, end_percent)
        hooks = identity_hooks(identity.factors(), strength, window, identity.title, AskedAtStart(identity).ask)
        return io.NodeOutput(combined_hooks(prev_hooks, hooks))

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        from .bridge.permissions import permissions_state

        return permissions_state()


NODES = [ApplyIdentity, IdentityHook]
