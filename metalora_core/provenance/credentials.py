"""Content Credentials: a signed C2PA manifest inside a picture that says how it was made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..checks import optional, plain_line
from ..errors import UnreadableFile
from ..files.bounded import open_regular
from ..files.identity import Identity, layers_sha256
from .certificate import FEATURE, Certificate
from .xmp import AI_MADE, MadeWith

MADE_WITH = "io.github.meta-lora.made-with"
"""Label of the manifest's own part that names the identities."""

TYPES = {"PNG": "image/png", "JPEG": "image/jpeg"}
"""Picture formats that are signed, by Pillow's names, and what they are called on the web."""

_IDENTITIES_AT_MOST = 100
# A picture may name an address on the web for its manifest; reading one must not call there.
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True)
class NamedIdentity:
    """An identity that a picture was made with.

    Attributes:
        identity: SHA-256 of its learned layers.
        name: As its file or its prompt words name it; empty where it is not said.
        consent: Id of the record that it was learned under; empty where there is none or it is not said.
        prior: SHA-256 of the prior; empty for an identity that holds its own.
    """

    identity: str
    name: str = ""
    consent: str = ""
    prior: str = ""


@dataclass(frozen=True)
class Credentials:
    """What a picture's manifest says.

    Attributes:
        state: "Trusted" if a known authority issued the certificate, "Valid" if the signature fits, else "Invalid".
        faults: What does not fit, as codes of C2PA.
        signer: Who signed, as the certificate says.
        source: IPTC's kind of source.
        tool: Program that made the claim.
        identities: With which the picture was made.
    """

    state: str
    faults: tuple[str, ...]
    signer: str
    source: str
    tool: str
    identities: tuple[NamedIdentity, ...]


def named(identity: Identity, *, names: bool = True) -> NamedIdentity:
    """How credentials name an identity.

    Args:
        identity: That a picture was made with.
        names: Whether to write its name and the id of its permission; without, only hashes.
    """
    own = identity.metadata
    words = f"{own.trigger} {own.class_word}".strip()
    said = {"name": own.name or words, "consent": own.consent_id or ""} if names else {}
    return NamedIdentity(layers_sha256(identity), prior="" if own.own_prior else own.prior_sha256, **said)


def made_with(identities: Sequence[NamedIdentity]) -> MadeWith:
    """The same for XMP, where the values of several identities stand beside each other."""
    columns = ([getattr(one, field) for one in identities] for field in ("identity", "consent", "prior"))
    return MadeWith(*(" ".join(dict.fromkeys(filter(None, column))) for column in columns))


def signed(
    picture: bytes, kind: str, title: str, identities: Sequence[NamedIdentity], certificate: Certificate, tool: str
) -> bytes:
    """A picture file with a signed manifest in it.

    Args:
        picture: The file without one.
        kind: Its format, one of `TYPES`.
        title: The file's name.
        identities: That it was made with.
        certificate: See `certificate_of`.
        tool: Program that ran the model.

    Raises:
        MissingDependency: If the library that signs is missing.
        UnreadableFile: If the library does not take the certificate.
    """
    c2pa = optional("c2pa", FEATURE)
    key = c2pa.C2paSignerInfo(
        certificate.algorithm.encode(), certificate.chain.encode(), certificate.key.encode(), None
    )
    output = io.BytesIO()
    try:
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Signer.from_info(key) as signer,
            c2pa.Builder(_manifest(kind, title, identities, tool), context) as builder,
        ):
            builder.sign(signer, TYPES[kind], io.BytesIO(picture), output)
    except c2pa.C2paError as error:
        raise UnreadableFile(
            f"The picture could not be signed for {certificate.holder} ({plain_line(str(error), 300)}). The "
            "certificate must be one for signing documents or e-mail, with those that issued it in the same file."
        ) from error
    return output.getvalue()


def _manifest(kind: str, title: str, identities: Sequence[NamedIdentity], tool: str) -> dict[str, Any]:
    action = {"action": "c2pa.created", "digitalSourceType": AI_MADE, "softwareAgent": {"name": tool}}
    parts: list[dict[str, Any]] = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]
    if identities:
        said = [{key: text for key, text in asdict(one).items() if text} for one in identities]
        parts.append({"label": MADE_WITH, "data": {"identities": said}})
    return {
        "claim_generator_info": [{"name": "Meta-LoRA", "version": __version__}],
        "title": title,
        "format": TYPES[kind],
        "assertions": parts,
    }


def read_credentials(path: Path) -> Credentials | None:
    """What the manifest inside a picture says, and whether its signature fits; None if there is none.

    Raises:
        MissingDependency: If the library that reads it is missing.
        UnreadableFile: If the picture or the manifest cannot be read.
    """
    c2pa = optional("c2pa", "Reading Content Credentials")
    try:
        with open_regular(path) as file, c2pa.Context.from_dict(_SETTINGS) as context:
            reader = c2pa.Reader.try_create(None, file, context=context)
            if reader is None:
                return None
            with reader:
                found: Any = json.loads(reader.json())
    except c2pa.C2paError.NotSupported:  # a format that cannot hold any
        return None
    except (c2pa.C2paError, ValueError) as error:
        raise UnreadableFile(
            f"{path.name} has Content Credentials that cannot be read ({plain_line(str(error), 300)})."
        ) from error
    try:
        return _credentials(found, found["manifests"][found["active_manifest"]])
    except (AttributeError, KeyError, TypeError) as error:
        raise UnreadableFile(f"{path.name} has Content Credentials of a form that is not known.") from error


def _credentials(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> Credentials:
    faults = tuple(plain_line(str(one.get("code", "")), 100) for one in found.get("validation_status", ()))
    parts = {part.get("label"): part.get("data", {}) for part in manifest.get("assertions", ())}
    actions = next((data.get("actions", ()) for label, data in parts.items() if "actions" in str(label)), ())
    signature, tools = manifest.get("signature_info", {}), manifest.get("claim_generator_info", ())
    identities = parts.get(MADE_WITH, {}).get("identities", ())[:_IDENTITIES_AT_MOST]
    names = NamedIdentity.__dataclass_fields__
    return Credentials(
        state=_text(found.get("validation_state", "")),
        faults=faults,
        signer=_text(", ".join(filter(None, (signature.get("common_name"), signature.get("issuer"))))),
        source=_text(next((one["digitalSourceType"] for one in actions if one.get("digitalSourceType")), "")),
        tool=_text(", ".join(str(one.get("name", "")) for one in tools)),
        identities=tuple(NamedIdentity(**{key: _text(one.get(key, "")) for key in names}) for one in identities),
    )


def _text(value: object) -> str:
    return plain_line(str(value), 300)
