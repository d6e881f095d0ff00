"""Consent records: who permits what, with which photos, until when."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ..checks import plain_line
from ..errors import InvalidOptions
from ..files.atomic import file_sha256

LABEL_LIMIT = 120
"""Most characters of a name or label."""

NOTE_LIMIT = 2000
"""Most characters of a territory, licence or note."""

PHOTOS_AT_MOST = 1000
"""Most photos of one record."""


SINCE_VERSION_2 = ("evidence", "channels", "registry_id", "recorded_by", "recorded_at")
"""Fields that records of version 1 do not have; a record that uses none of them is still written as version 1."""


class SubjectKind(str, Enum):
    """What is depicted."""

    PERSON = "person"
    PRODUCT = "product"
    CHARACTER = "character"


class Basis(str, Enum):
    """Why the use is permitted."""

    CONSENT = "consent"
    CONTRACT = "contract"
    OWN_WORK = "own work"
    LICENCE = "licence"


class Purpose(str, Enum):
    """What the subject may be used for."""

    TRAINING = "training"
    """Learn an identity from photos."""
    GENERATION = "generation"
    """Make pictures with the identity."""
    SHARING = "sharing"
    """Give the identity or an export of it to others."""
    PUBLICATION = "publication"
    """Show the pictures in public."""
    COMMERCIAL = "commercial"
    """Advertise or sell with the pictures."""
    RESEARCH = "research"
    """Study or measure with photos and pictures."""


def _plain(limit: int) -> AfterValidator:
    # Validated, not merely stored: text of a shared file ends up in log lines, on pages and in error messages.
    def clean(text: str) -> str:
        if len(text) > limit:
            raise ValueError(f"it has {len(text)} characters; at most {limit} are accepted")
        return plain_line(text, limit)

    return AfterValidator(clean)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc)


Label = Annotated[str, _plain(LABEL_LIMIT), Field(min_length=1)]
Note = Annotated[str, _plain(NOTE_LIMIT)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
Purposes = Annotated[tuple[Purpose, ...], Field(max_length=len(Purpose))]

_STRICT = ConfigDict(extra="forbid", frozen=True)


class PhotoPermission(BaseModel):
    """What may be done with one photo.

    Args:
        sha256: Of the photo, as its loader gives it.
        permission: "granted" or "refused"; a refusal outweighs everything else in the record.
        purposes: For this photo alone, within the record's; None for all of them.
        note: Photographer, source or condition.
    """

    model_config = _STRICT
    sha256: Sha256
    permission: Literal["granted", "refused"] = "granted"
    purposes: Purposes | None = None
    note: Note = ""


class ConsentRecord(BaseModel):
    """One validated permission. Make it with ``record_consent``.

    A record never changes: ``id`` is the SHA-256 of all its other fields, so an identity that names the id is tied to
    exactly this content, and an edited file no longer matches its own id. A renewed permission is a new record.

    Args:
        id: SHA-256 of the other fields as canonical JSON.
        subject: Who or what is depicted, in words.
        kind: Person, product or character.
        granted_by: Who permits it: the person, a guardian, the owner of the rights.
        basis: Consent, contract, own work or licence.
        purposes: What is permitted; nothing else is.
        valid_from: First moment, with time zone.
        expires: First moment at which it is no longer valid, or None for no end.
        photo_scope: "listed" permits the listed photos alone, "any" every photo of the subject but the refused ones.
        photos: Permissions photo by photo.
        territory: Where it holds; text for people, not checked.
        licence: Licence or contract behind it; text for people, not checked.
        evidence: Where the permission can be seen: the hash of a signed form, or a reference; not checked.
        channels: Where pictures may appear, such as "website, print"; text for people, not checked.
        registry_id: Id of the permission in a public consent registry; not looked up.
        recorded_by: Who entered the record.
        recorded_at: When.
    """

    model_config = _STRICT
    format: Literal["metalora.consent"] = "metalora.consent"
    format_version: Literal[1, 2] = 1
    id: Sha256
    subject: Label
    kind: SubjectKind
    granted_by: Label
    basis: Basis
    purposes: Annotated[tuple[Purpose, ...], Field(min_length=1, max_length=len(Purpose))]
    valid_from: Moment
    expires: Moment | None = None
    photo_scope: Literal["listed", "any"] = "listed"
    photos: Annotated[tuple[PhotoPermission, ...], Field(max_length=PHOTOS_AT_MOST)] = ()
    territory: Note = ""
    licence: Note = ""
    evidence: Note = ""
    channels: Note = ""
    registry_id: Note = ""
    recorded_by: Note = ""
    recorded_at: Moment | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ConsentRecord:
        if self.expires is not None and self.expires <= self.valid_from:
            raise ValueError(f"it expires on {day(self.expires)}, not after it begins on {day(self.valid_from)}")
        hashes = [photo.sha256 for photo in self.photos]
        if len(set(hashes)) != len(hashes):
            raise ValueError("a photo is listed twice")
        if self.format_version == 1 and any(getattr(self, name) for name in SINCE_VERSION_2):
            raise ValueError(f"a record of version 1 has no {', '.join(SINCE_VERSION_2)}")
        if self.id != content_sha256(self):
            raise ValueError("its content does not match its id: it was changed after it was recorded")
        return self

    @model_serializer(mode="wrap")
    def _as_recorded(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Without the fields that its version does not have, so that bytes and id stay as they were.
        newer = SINCE_VERSION_2 if self.format_version == 1 else ()
        return {name: value for name, value in handler(self).items() if name not in newer}

    def to_json(self) -> bytes:
        """The record as readable JSON, the same record always as the same bytes."""
        fields = self.model_dump(mode="json")
        return (json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @property
    def summary(self) -> str:
        """One line for people."""
        until = f"until {day(self.expires)}" if self.expires else "no end"
        uses = ", ".join(purpose.value for purpose in self.purposes)
        return f"{self.subject} ({self.kind.value}): {self.basis.value} of {self.granted_by} for {uses}, {until}"


def content_sha256(record: ConsentRecord) -> str:
    """SHA-256 of all fields of a record but its id, as canonical JSON."""
    fields = record.model_dump(mode="json", exclude={"id"})
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def record_consent(
    *,
    subject: str,
    kind: SubjectKind | str,
    granted_by: str,
    basis: Basis | str,
    purposes: Iterable[Purpose | str],
    valid_from: datetime,
    expires: datetime | None = None,
    photo_scope: Literal["listed", "any"] = "listed",
    photos: Sequence[PhotoPermission] = (),
    territory: str = "",
    licence: str = "",
    evidence: str = "",
    channels: str = "",
    registry_id: str = "",
    recorded_by: str = "",
    recorded_at: datetime | None = None,
) -> ConsentRecord:
    """Validate a permission and give it its id.

    The arguments are those of ``ConsentRecord``; duplicate purposes count once and their order does not matter.

    Raises:
        InvalidOptions: With all problems at once.
    """
    fields: dict[str, object] = {
        "subject": subject,
        "kind": kind,
        "granted_by": granted_by,
        "basis": basis,
        "purposes": tuple(sorted({str(getattr(purpose, "value", purpose)) for purpose in purposes})),
        "valid_from": valid_from,
        "expires": expires,
        "photo_scope": photo_scope,
        "photos": [photo.model_dump() for photo in sorted(photos, key=lambda photo: photo.sha256)],
        "territory": territory,
        "licence": licence,
        "evidence": evidence,
        "channels": channels,
        "registry_id": registry_id,
        "recorded_by": recorded_by,
        "recorded_at": recorded_at,
    }
    fields["format_version"] = 2 if any(fields[name] for name in SINCE_VERSION_2) else 1
    try:
        # Once without an id, so that the hash is taken of the cleaned fields and not of the raw ones.
        draft = _Draft.model_validate(fields)
        return ConsentRecord.model_validate(draft.model_dump() | {"id": content_sha256(draft)})
    except ValidationError as error:
        raise InvalidOptions(f"The consent cannot be recorded: {explained(error)}. Correct these entries.") from error


def evidence_of(file: Path) -> str:
    """How a record names a signed form: by its name and hash, so that it can be told from a changed one."""
    return f"{file.name}, SHA-256 {file_sha256(file)}"


class _Draft(ConsentRecord):
    """A record without its id."""

    id: Sha256 = "0" * 64

    @model_validator(mode="after")
    def _consistent(self) -> _Draft:
        return self


def day(moment: datetime) -> str:
    """A moment in words, for messages."""
    return _utc(moment).strftime("%Y-%m-%d %H:%M UTC")


def explained(error: ValidationError) -> str:
    """The findings of a validation in one bounded line."""
    findings = [f"{'.'.join(str(part) for part in item['loc']) or 'record'}: {item['msg']}" for item in error.errors()]
    return plain_line("; ".join(findings[:8]), 800)
