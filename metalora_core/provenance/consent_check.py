"""Whether a consent record covers a use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ..checks import plain_line
from ..errors import ConsentRefused, InvalidOptions
from .consent import ConsentRecord, Purpose, day


def check_consent(record: ConsentRecord | None, photo_hashes: Sequence[str], purpose: Purpose, now: datetime) -> None:
    """Refuse a use that a record does not cover.

    Args:
        record: The record; None is refused, so check only where consent is needed.
        photo_hashes: SHA-256 of the photos in use; for an identity, those in its metadata.
        purpose: Of the use.
        now: The present moment, with time zone.

    Raises:
        ConsentRefused: With every reason at once: missing, not yet valid, expired, out of scope, photo not covered.
    """
    if record is None:
        raise ConsentRefused(
            f"No consent record was found; {purpose.value} needs one. Connect Record Consent to Prepare Reference "
            "Photos, or put the record's file beside the identity. On the command line, give it with --consent FILE. "
            "Settings → Meta-LoRA → Consent, or --without-record remind, makes this a reminder."
        )
    if now.tzinfo is None:
        raise InvalidOptions("The moment of the check has no time zone; give one, such as UTC.")
    reasons = [*_moment_reasons(record, now), *_purpose_reasons(record, purpose)]
    reasons += _photo_reasons(record, photo_hashes, purpose)
    if reasons:
        raise ConsentRefused(
            f"The consent of {record.granted_by} for {record.subject} does not cover this. " + " ".join(reasons)
        )


def _moment_reasons(record: ConsentRecord, now: datetime) -> list[str]:
    if now < record.valid_from:
        return [f"It starts on {day(record.valid_from)}; now it is {day(now)}. Wait, or record an earlier start."]
    if record.expires is not None and now >= record.expires:
        return [f"It expired on {day(record.expires)}; now it is {day(now)}. {_renewed(record, '--expires DAY')}"]
    return []


def _renewed(record: ConsentRecord, change: str) -> str:
    # A new record would not reach what was learned under this one.
    return (
        f"Ask {record.granted_by} to renew it, then run: python -m metalora_core consent edit "
        f"{record.id}.consent.json {change}."
    )


def _purpose_reasons(record: ConsentRecord, purpose: Purpose) -> list[str]:
    if purpose in record.purposes:
        return []
    permitted = ", ".join(sorted(allowed.value for allowed in record.purposes))
    return [f"It permits {permitted}, but not {purpose.value}. {_renewed(record, '--permitted-uses USES')}"]


def _photo_reasons(record: ConsentRecord, photo_hashes: Sequence[str], purpose: Purpose) -> list[str]:
    permissions = {photo.sha256: photo for photo in record.photos}
    refused: list[str] = []
    unlisted: list[str] = []
    elsewhere: list[str] = []
    for number, sha256 in enumerate(photo_hashes, start=1):
        label = f"{number} ({plain_line(sha256, 12)})"
        permission = permissions.get(sha256)
        if permission is None:
            unlisted += [label] if record.photo_scope == "listed" else []
        elif permission.permission == "refused":
            refused.append(label)
        elif permission.purposes is not None and purpose not in permission.purposes:
            elsewhere.append(label)
    reasons: list[str] = []
    if refused:
        reasons.append(f"It refuses photo {_listed(refused)}. Leave it out.")
    if unlisted:
        reasons.append(f"It does not cover photo {_listed(unlisted)}. Leave it out, or record consent for it.")
    if elsewhere:
        reasons.append(
            f"It does not permit {purpose.value} with photo {_listed(elsewhere)}. Leave it out, or ask for permission."
        )
    return reasons


def _listed(labels: Sequence[str], at_most: int = 5) -> str:
    more = f" and {len(labels) - at_most} more" if len(labels) > at_most else ""
    return ", ".join(labels[:at_most]) + more
