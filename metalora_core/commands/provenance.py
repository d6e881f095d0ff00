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

    XMP and ModelSpec are not signed. Content Credentials are, and c2pa-python verifies them; an identity's own record
    can be verified by the installation that learned it alone.
    """
    from .terminal import answer

    fields = _of_model(file) if file.suffix.lower() == ".safetensors" else _of_picture(file)
    told = {key: value for key, value in fields.items() if value not in ("", None)}
    lines = [f"{key.replace('_', ' '):<18} {value}" for key, value in told.items()]
    answer(told, "\n".join([f"{file}:", *(f"  {line}" for line in lines)]), json)


def _of_picture(file: Path) -> Mapping[str, Any]:
    from ..provenance.xmp import AI_MADE, read_xmp

    made, credentials = read_xmp(file), _credentials(file)
    if made is None:
        told = "The picture says nothing about its origin in XMP, which may have been removed."
        return {"origin": told, **credentials}
    source = "made by a trained model (AI)" if made.source == AI_MADE else made.source
    ids = {"identity": made.identity, "consent": made.consent, "prior": made.prior}
    return {"origin": source, "tool": made.tool, **ids, **credentials}


def _credentials(file: Path) -> Mapping[str, Any]:
    """What a signed manifest says, or which package reads one."""
    from ..errors import MissingDependency, UnreadableFile
    from ..provenance.credentials import read_credentials

    try:
        found = read_credentials(file)
    except MissingDependency as missing:
        return {"credentials": f"not looked for. {missing}"}
    except UnreadableFile as error:  # what else the picture says still counts
        return {"credentials": str(error)}
    if found is None:
        return {"credentials": "none"}
    named = "; ".join(" ".join(filter(None, vars(one).values())) for one in found.identities)
    faults = f" ({', '.join(found.faults)})" if found.faults else ""
    return {
        "credentials": f"{found.state}{faults}",
        "signed_by": found.signer,
        "signed_source": found.source,
        "signed_identities": named,
    }


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
