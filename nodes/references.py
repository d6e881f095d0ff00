"""Nodes for the photos: how good they are, and who permits their use."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .schema import advanced, node_schema, with_photo_tiles
from .sockets import ConsentSocket, PriorSocket, ReferencesSocket

# Written out so that the start of ComfyUI need not load the record's class; a test compares them.
KINDS = ("person", "product", "character")
BASES = ("consent", "contract", "own work", "licence")
PURPOSES = ("training", "generation", "sharing", "publication", "commercial", "research")


class PrepareReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "PrepareReferences",
            "Prepare Reference Photos",
            description="Checks your photos the way a photographer would and says what to improve: focus, light, size, "
            "photos that are nearly the same, and whether the prior knows this kind of subject. Drop photos on "
            "it, or connect one photo, a batch, or a list from a dataset node.",
            search_aliases=[
                "photos",
                "lora from photos",
                "dataset",
                "training images",
                "caption",
                "quality check",
                "meta lora",
            ],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="One to eight photos of one subject. One is enough. Not used if photos were added to the "
                    "node itself.",
                ),
                io.String.Input(
                    "class_word",
                    default="person",
                    tooltip="What the subject is, in one everyday word: person, dog, mug, sneaker.",
                ),
                io.String.Input(
                    "trigger",
                    default="ohwx",
                    tooltip="A rare word to call this subject by in prompts, as in: photo of a ohwx person.",
                ),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What the photos show, one line per photo or one line for all. Name pose, light and "
                    "background: what you name is not learned as part of the subject. Empty: photo of a TRIGGER CLASS.",
                ),
                PriorSocket.Input(
                    "prior",
                    optional=True,
                    tooltip="If connected, the node points out photos outside the prior's domain.",
                ),
                ConsentSocket.Input(
                    "consent", optional=True, tooltip="From Record Consent. It is stored with the learned identity."
                ),
                advanced(
                    io.Combo.Input(
                        "unusable_photos",
                        options=["stop", "leave out"],
                        default="stop",
                        tooltip="What to do with a photo that cannot be used: stop and say why, or leave it out.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "subject",
                        default="",
                        optional=True,
                        tooltip="Name of who or what is in the photos, as in the record. Needed if the record covers "
                        "every photo of a subject.",
                    )
                ),
                with_photo_tiles(
                    io.String.Input(
                        "photos",
                        default="",
                        optional=True,
                        socketless=True,
                        tooltip="Drop one to eight photos of one subject here, paste them, or click to choose. Sizes "
                        "may differ. They are copied to ComfyUI's input folder.",
                    )
                ),
            ],
            outputs=[
                ReferencesSocket.Output(display_name="references", tooltip="For Adapt Identity."),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="All photos, each with a badge and its findings."
                ),
                io.String.Output(
                    display_name="findings", tooltip="Every finding and what to do about it, one per line."
                ),
            ],
        )

    @classmethod
    def execute(cls, images: list[Any] | None = None, **lists: list[Any]) -> io.NodeOutput:
        from .bridge.dropped_photos import chosen_photos
        from .bridge.list_inputs import one_each
        from .bridge.photos import Brief, prepare

        chosen = chosen_photos(lists.pop("photos", ()), images, lists.pop("caption"))
        prepared = prepare(Brief(chosen.photos, chosen.captions, **one_each(lists)))
        findings = f"{prepared.findings}\n{chosen.note}".rstrip()
        # Dropped photos have their findings on the node's own tiles.
        sheet = {} if chosen.dropped else ui.PreviewImage(prepared.sheet, cls=cls).as_dict()
        shown = {**sheet, "text": (findings,), "badges": prepared.badges if chosen.dropped else ()}
        return io.NodeOutput(prepared.references, prepared.sheet, findings, ui=shown)

    @classmethod
    def validate_inputs(cls, photos: list[str] | None = None) -> bool | str:
        from .bridge.dropped_photos import missing_photos

        return missing_photos(photos) or True

    @classmethod
    def fingerprint_inputs(cls, photos: list[str] | None = None, **_: Any) -> str:
        from .bridge.dropped_photos import photos_state
        from .bridge.permissions import permissions_state

        return f"{permissions_state()} {photos_state(photos)}"


class RecordConsent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "RecordConsent",
            "Record Consent",
            description="Records who permits what with which photos, until when. The record is stored beside the "
            "identities, tied to what is learned from the photos, and checked whenever the identity is used.",
            search_aliases=["permission", "licence", "rights", "release form", "governance", "meta lora"],
            is_input_list=True,
            inputs=[
                io.String.Input(
                    "subject",
                    default="",
                    placeholder="Name of the person or product",
                    tooltip="Who or what is depicted.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="person",
                    tooltip="What the subject is.",
                ),
                io.String.Input(
                    "granted_by",
                    default="",
                    placeholder="Who gives the permission",
                    tooltip="The person, a guardian, or the owner of the rights.",
                ),
                io.Combo.Input(
                    "basis",
                    options=list(BASES),
                    default="consent",
                    tooltip="Why the use is permitted.",
                ),
                io.String.Input(
                    "permitted_uses",
                    default="training, generation",
                    tooltip="What is permitted, separated by commas; everything else is refused: "
                    f"{', '.join(PURPOSES)}. Export Identity as LoRA needs sharing.",
                ),
                io.String.Input(
                    "expires",
                    default="",
                    placeholder="2027-12-31",
                    tooltip="Last day of the permission, as 2027-12-31 in UTC. Empty: no end.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The photos it covers: connect the same pictures as to Prepare Reference Photos. Not "
                    "connected: every photo of the subject that Prepare Reference Photos names.",
                ),
                advanced(
                    io.String.Input(
                        "valid_from",
                        default="",
                        optional=True,
                        placeholder="2026-01-01",
                        tooltip="First day of the permission, in UTC. Empty: today.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "licence",
                        default="",
                        optional=True,
                        tooltip="Licence or contract behind it, for people to read; not checked.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "evidence",
                        default="",
                        optional=True,
                        placeholder="signed_form.pdf",
                        tooltip="Where the permission can be seen: a file in ComfyUI's input folder, such as a signed "
                        "form, of which name and hash are kept, or words. Not checked.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "channels",
                        default="",
                        optional=True,
                        placeholder="website, print",
                        tooltip="Where pictures may appear, for people to read; not checked.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "registry_id",
                        default="",
                        optional=True,
                        tooltip="Id of the permission in a public consent registry; not looked up.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "recorded_by",
                        default="",
                        optional=True,
                        tooltip="Who enters this; the moment is kept with it.",
                    )
                ),
            ],
            outputs=[
                ConsentSocket.Output(display_name="consent", tooltip="For Prepare Reference Photos."),
                io.String.Output(display_name="summary", tooltip="The record in one line."),
            ],
        )

    @classmethod
    def execute(cls, images: list[Any] | None = None, **entries: list[Any]) -> io.NodeOutput:
        from .bridge.consent import ConsentForm, write_consent
        from .bridge.list_inputs import one_each, photo_list

        record, told = write_consent(ConsentForm(photos=tuple(photo_list(images)), **one_each(entries)))
        return io.NodeOutput(record, record.summary, ui=ui.PreviewText(told))


NODES = [PrepareReferences, RecordConsent]
