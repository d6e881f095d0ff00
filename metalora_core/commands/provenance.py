"""``provenance``: what a picture, a LoRA or an identity file was made from, for whoever receives it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options

provenance_app = typer.Typer(help="Show what a picture, a LoRA or an identity was made from.", no_args_is_help=True)

# What an identity's record says of its origin, and ModelSpec of a LoRA's.
_ORIGIN = ("trigger", "class_word", "prior_name", "prior_sha256", "base_fingerprint", "family", "consent_id", "steps")


@provenance_app.callback()
def _group() -> None:  # without it, Typer would leave out the word "show"
    pass


@provenance_app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A picture, or a safetensors file.")], json: options.Json = False
) -> None:
    """Show what a file says about its origin: model, identity, and the id of the permission.

    Nothing of it is signed, except an identity's own record, which only the installation that learned it can verify.
    """
    from .terminal import answer

    fields = _of_model(file) if file.suffix.lower() == ".safetensors" else _of_picture(file)
    told = {key: value for key, value in fields.items() if value not in ("", None)}
    lines = [f"{key.replace('_', ' '):<18} {value}" for key, value in told.items()]
    answer(told, "\n".join([f"{file}:", *(f"  {line}" for line in lines)]), json)


def _of_picture(file: Path) -> Mapping[str, Any]:
    from ..provenance.xmp import AI_MADE, read_xmp

    made = read_xmp(file)
    if made is None:
        return {"origin": "The picture says nothing about its origin; its XMP may have been removed."}
    source = "made by a trained model (AI)" if made.source == AI_MADE else made.source
    ids = {"identity": made.identity, "consent": made.consent, "prior": made.prior}
    return {"origin": source, "tool": made.tool, **ids}


def _of_model(file: Path) -> Mapping[str, Any]:
    from ..files.export import CONSENT_KEY
    from ..files.identity import layers_sha256, load_identity
    from ..files.inspection import describe_file

    found = describe_file(file)
    if found.made.get("format") == "metalora.identity":
        own = {key: found.made.get(key) for key in _ORIGIN}
        photos = len(found.made.get("photo_hashes") or ())
        return {"origin": found.kind, "identity": layers_sha256(load_identity(file)), **own, "photos": photos}
    spec = {
        key.partition(".")[2]: value
        for key, value in found.made.items()
        if key.startswith("modelspec.") and not key.endswith("thumbnail")
    }
    return {"origin": found.kind, **spec, "consent": found.made.get(CONSENT_KEY)}
