"""Consent in the nodes: recorded once, stored beside the identities, checked at every use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from torch import Tensor

from ...metalora_core.checks import plain_line
from ...metalora_core.errors import InvalidOptions
from ...metalora_core.provenance.consent import ConsentRecord, PhotoPermission, Purpose, record_consent
from ...metalora_core.provenance.consent_check import check_consent
from ...metalora_core.provenance.consent_store import ConsentStore
from .audit import note_down
from .folders import IDENTITIES, roots_of
from .image_tensors import photo_hash
from .learned import LearnedIdentity


@dataclass(frozen=True)
class ConsentForm:
    """The inputs of Record Consent."""

    subject: str
    kind: str
    granted_by: str
    basis: str
    permitted_uses: str
    expires: str = ""
    valid_from: str = ""
    licence: str = ""
    photos: tuple[Tensor, ...] = ()


def write_consent(form: ConsentForm) -> tuple[ConsentRecord, str]:
    """Validate a form and store its record; returns it and its summary, with a warning if there is one.

    Raises:
        InvalidOptions: If an entry is missing or wrong.
    """
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    record = record_consent(
        subject=form.subject,
        kind=form.kind,
        granted_by=form.granted_by,
        basis=form.basis,
        purposes=_purposes(form.permitted_uses),
        valid_from=_day(form.valid_from, "valid_from") or today,
        # The last day named is still included.
        expires=_after(_day(form.expires, "expires")),
        photo_scope="listed" if form.photos else "any",
        photos=[PhotoPermission(sha256=sha256) for sha256 in sorted({photo_hash(photo) for photo in form.photos})],
        licence=form.licence,
    )
    ConsentStore(roots_of(IDENTITIES)[0]).save(record)
    warning = note_down(
        "consent recorded",
        consent=record.id,
        subject=record.subject,
        granted_by=record.granted_by,
        basis=record.basis.value,
        purposes=", ".join(purpose.value for purpose in record.purposes),
        expires=None if record.expires is None else record.expires.isoformat(),
        photos=len(record.photos),
    )
    return record, f"{record.summary}\n{warning}".rstrip()


def require_consent(record: ConsentRecord | None, photo_hashes: Sequence[str], purpose: Purpose) -> None:
    """Refuse a use that a record does not cover now.

    Raises:
        ConsentRefused: With every reason at once.
    """
    check_consent(record, photo_hashes, purpose, datetime.now(timezone.utc))


def check_use(learned: LearnedIdentity, purpose: Purpose = Purpose.GENERATION) -> None:
    """Check the record that an identity is tied to; an identity that names none was made without one.

    Raises:
        ConsentRefused: If the record is gone, expired, or does not permit this.
        UnreadableFile: If the record was changed.
    """
    record_id = learned.identity.metadata.consent_id
    if record_id is not None:
        require_consent(_find(record_id), learned.identity.metadata.photo_hashes, purpose)


def _find(record_id: str) -> ConsentRecord:
    stores = [ConsentStore(root) for root in roots_of(IDENTITIES)]
    holding = next((store for store in stores if store.path_of(record_id).is_file()), stores[0])
    return holding.load(record_id)


def _purposes(text: str) -> list[str]:
    named = [word.strip().lower() for word in text.replace("\n", ",").replace(";", ",").split(",") if word.strip()]
    known = [purpose.value for purpose in Purpose]
    unknown = [word for word in named if word not in known]
    if unknown or not named:
        found = f"found {plain_line(unknown[0], 40)!r}" if unknown else "nothing is permitted"
        raise InvalidOptions(f"Record Consent, permitted_uses: {found}. Write some of: {', '.join(known)}.")
    return named


def _day(text: str, field: str) -> datetime | None:
    if not text.strip():
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InvalidOptions(
            f"Record Consent, {field}: {plain_line(text, 40)!r} is not a date. Write it as 2027-12-31, or leave it "
            "empty."
        ) from error
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _after(day: datetime | None) -> datetime | None:
    whole_day = day is not None and day.time() == datetime.min.time()
    return day + timedelta(days=1) if day is not None and whole_day else day
