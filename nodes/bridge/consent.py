"""Consent in the nodes: recorded once, stored beside the identities, checked at every use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from torch import Tensor

from ...metalora_core.checks import plain_line
from ...metalora_core.errors import ConsentRefused, InvalidOptions, UnreadableFile
from ...metalora_core.files.prior import Prior, prior_sha256
from ...metalora_core.photos.pictures import pixels_sha256
from ...metalora_core.provenance.consent import ConsentRecord, PhotoPermission, Purpose, evidence_of, record_consent
from ...metalora_core.provenance.consent_store import REVOKED, ConsentStore
from ...metalora_core.provenance.permission import IDENTITY_APPLIED, REFUSED, Covered, Permissions, Use
from .audit import note_down, note_identity
from .folders import input_file
from .learned import LearnedIdentity
from .permissions import permissions

Answer = TypeVar("Answer")

# Layers of an identity to the run that last noted it down.
_RUNS: dict[str, str] = {}


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
    evidence: str = ""
    channels: str = ""
    registry_id: str = ""
    recorded_by: str = ""
    photos: tuple[Tensor, ...] = ()


def write_consent(form: ConsentForm) -> tuple[ConsentRecord, str]:
    """Validate a form and store its record; returns it and its summary, with a warning if there is one.

    Raises:
        InvalidOptions: If an entry is missing or wrong.
        ConsentRefused: If it was recorded before and then revoked.
    """
    now = datetime.now(timezone.utc)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
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
        photos=[PhotoPermission(sha256=sha256) for sha256 in sorted({pixels_sha256(photo) for photo in form.photos})],
        licence=form.licence,
        evidence=_evidence(form.evidence),
        channels=form.channels,
        registry_id=form.registry_id,
        recorded_by=form.recorded_by,
        recorded_at=now if form.recorded_by.strip() else None,
    )
    store = permissions().stores[0]
    record = _recorded_before(store, record, any_day=not form.valid_from.strip())
    store.save(record)
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
    evidence = f"Evidence: {record.evidence}" if record.evidence else ""
    if record.evidence and record.evidence == form.evidence.strip():
        evidence += ", as words: ComfyUI's input folder has no such file, so no hash is recorded."
    return record, "\n".join(filter(None, [record.summary, evidence, warning]))


def _evidence(text: str) -> str:
    """The name and hash of a file in ComfyUI's input folder, or the words that were written in place of one."""
    try:
        return evidence_of(input_file(text))
    except (InvalidOptions, UnreadableFile, OSError, ValueError):  # the last two: too long or odd for a name
        return text


def _recorded_before(store: ConsentStore, record: ConsentRecord, *, any_day: bool) -> ConsentRecord:
    """The record with the same terms from an earlier run, so that a graph does not make a new one every time."""
    own: dict[str, Any] = {"id": record.id, "recorded_at": record.recorded_at}
    own |= {"valid_from": record.valid_from} if any_day else {}
    for earlier in store.list():
        if earlier.model_copy(update=own) == record:
            standing = store.standing(earlier.id)
            if not standing.refused or not any_day:
                return earlier
            if standing.entries and standing.entries[-1].event == REVOKED:
                raise ConsentRefused(
                    f"{standing.refused} If it was given again, enter the day in valid_from of Record Consent."
                )
    return record


def require_permission(use: Use) -> str:
    """Refuse what is not permitted now, and log the refusal.

    Returns:
        A reminder for what needs no record but has none; else empty.

    Raises:
        ConsentRefused: With every reason at once.
        UnreadableFile: If the record was changed.
    """
    return _logged(lambda known, now: known.ask(use, now), use.purpose, use.consent_id)


def require_permission_by_name(name: str, use: Use) -> tuple[str | None, str]:
    """As `Permissions.ask_by_name`, and a refusal is logged."""
    return _logged(lambda known, now: known.ask_by_name(name, use, now), use.purpose, None)


def check_use(learned: LearnedIdentity, purpose: Purpose = Purpose.GENERATION) -> str:
    """As `require_permission`, for a learned identity, which must still be tied to the record it was learned under."""
    identity, prior = learned.identity, learned.prior
    consent = identity.metadata.consent_id
    return _logged(lambda known, now: known.ask_identity(identity, prior, purpose, now), purpose, consent)


def sharing_refused(learned: LearnedIdentity) -> str:
    """Why an identity may not be given to nodes that write or apply it unasked; empty if it may, or has no record."""
    if learned.identity.metadata.consent_id is None:
        return ""
    try:
        permissions().ask_identity(learned.identity, learned.prior, Purpose.SHARING, datetime.now(timezone.utc))
    except (ConsentRefused, UnreadableFile) as refusal:
        return f"lora_model is given out only where sharing is permitted. {refusal}"
    return ""


def check_subjects(subjects: Sequence[tuple[str, str]], source: str) -> Covered:
    """As `Permissions.ask_subjects`, and a refusal is logged."""
    return _logged(lambda known, now: known.ask_subjects(subjects, source, now), Purpose.TRAINING, None)


def check_prior(prior: Prior) -> None:
    """Refuse a prior that was trained here under a record that no longer holds."""
    sha256 = prior_sha256(prior)
    _logged(lambda known, now: known.ask_prior(sha256, now), Purpose.TRAINING, None)


def check_photos(photos: Sequence[Tensor]) -> None:
    """Refuse photos that records name, if none of these records holds now."""
    hashes = [pixels_sha256(photo) for photo in photos]
    _logged(lambda known, now: known.ask_photos(hashes, now), Purpose.RESEARCH, None)


def _logged(ask: Callable[[Permissions, datetime], Answer], purpose: Purpose, consent: str | None) -> Answer:
    try:
        return ask(permissions(), datetime.now(timezone.utc))
    except (ConsentRefused, UnreadableFile) as refusal:
        note_down(REFUSED, use=purpose.value, consent=consent, reason=str(refusal))
        raise


class AskedAtStart:
    """Asks for permission whenever a sampler starts, since ComfyUI may keep the applied model for days."""

    def __init__(self, learned: LearnedIdentity) -> None:
        self.learned = learned

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Wrap a sampler's run."""
        self.ask()
        return executor(*args, **kwargs)

    def ask(self) -> None:
        """Raises ConsentRefused if the identity may not be drawn now; else notes it down once a run."""
        check_use(self.learned)
        run = _current_run()
        if not run or _RUNS.get(self.learned.layers_sha256) != run:
            note_identity(IDENTITY_APPLIED, self.learned.identity, "")
            _RUNS[self.learned.layers_sha256] = run


def _current_run() -> str:
    """ComfyUI's id of the run in progress; empty outside of one."""
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    return context.prompt_id if context else ""


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
