"""Whether something may be learned, drawn or given away now: the one question that every node and command asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from ..checks import plain_line
from ..errors import ConsentRefused, UnreadableFile
from ..files.identity import Identity, Seal, content_sha256, layers_sha256
from ..files.prior import Prior
from .audit_entry import AuditEntry, Detail
from .audit_log import AuditLog
from .consent import LABEL_LIMIT, ConsentRecord, PhotoPermission, Purpose, SubjectKind
from .consent_check import check_consent
from .consent_store import SUFFIX, ConsentStore, read_record
from .installation import Installation
from .people import is_person

AUDIT_LOG = "audit.jsonl"
"""The audit log beside the identities."""

WithoutRecord = Literal["require", "remind"]
"""What happens to people without a record: refused, or used with a reminder."""

PRIOR_TRAINED = "prior trained"
"""Event of the log: one entry for each record that covers a subject of the prior, or one without a record."""

IDENTITY_LEARNED, IDENTITY_APPLIED = "identity learned", "identity applied"
IDENTITY_EXPORTED, IDENTITY_TIED = "identity exported as LoRA", "identity tied to a record"
PICTURES_SIGNED, SIGNED_WITH = "pictures signed", "picture signed"
"""Events of a run that signed pictures: the first of them, and each identity that they were made with."""
REFUSED = "refused"

_LIKENESS_PX = 640
REMINDER = "No consent record: connect Record Consent to Prepare Reference Photos to keep who permits what."


def shows_nobody(inputs: Iterable[int]) -> bool:
    """Whether layers belong to a model as small as the pocket model, which draws invented figures and no likeness.

    Args:
        inputs: Input features of the layers; the smallest Stable Diffusion has layers of 1,280, FLUX of 3,072.
    """
    return max(inputs, default=0) <= _LIKENESS_PX


@dataclass(frozen=True)
class Use:
    """What is about to be done with a subject.

    Args:
        purpose: Training, generation, sharing and so on.
        class_word: What the subject is.
        photos: SHA-256 of the photos in use, or of those that an identity was learned from.
        consent_id: Of the record that it is tied to, or None.
        nobody: The model is too small to show anybody, see `shows_nobody`.
        subject: Who or what is in the photos, if these are looked at now; a record of all photos of a subject covers
            them only if it is the same. None for an identity, which was learned from such photos.
    """

    purpose: Purpose
    class_word: str
    photos: Sequence[str] = ()
    consent_id: str | None = None
    nobody: bool = False
    subject: str | None = None


@dataclass(frozen=True)
class Covered:
    """Which records cover the subjects of a meta-training.

    Args:
        records: Their ids.
        reminder: Of people without a record, if these are not refused; else empty.
    """

    records: tuple[str, ...] = ()
    reminder: str = ""


def use_of(identity: Identity, prior: Prior, purpose: Purpose) -> Use:
    """The use of a learned identity."""
    record = identity.metadata
    nobody = shows_nobody(prior.layers[name].meta_down.shape[1] for name in identity.layers if name in prior.layers)
    return Use(purpose, record.class_word, record.photo_hashes, record.consent_id, nobody)


def identity_details(identity: Identity, place: str) -> dict[str, Detail]:
    """What an entry of the audit log says about an identity: subject, number of photos, permission, where it went."""
    own = identity.metadata
    return {
        "file": place,
        "subject": f"{own.trigger} {own.class_word}".strip(),
        "photos": len(own.photo_hashes),
        "steps": own.steps,
        "prior": own.prior_sha256,
        "consent": own.consent_id,
        "layers": layers_sha256(identity),
    }


def prior_details(
    place: str, sha256: str | None, records: Sequence[str], effort: Mapping[str, Detail]
) -> Iterator[dict[str, Detail]]:
    """What the entries of the audit log say about a prior: one for each record that covers a subject, or one without.

    Args:
        place: Where it went.
        sha256: Its hash.
        records: Ids of the records.
        effort: What the training took; the first entry alone says it, so that it is counted once.
    """
    for number, record in enumerate(records or [None]):
        yield {"file": place, "prior": sha256, "consent": record, **({} if number else effort)}


def tied(identity: Identity, consent_id: str, own: Installation) -> Identity:
    """An identity that names the record it was learned under, inside what is hashed and signed.

    Raises:
        ConsentRefused: If it names another record already.
    """
    before = identity.metadata.consent_id
    if before not in (None, consent_id):
        raise ConsentRefused(
            f"The identity was learned under the consent record {str(before)[:12]}… and stays tied to it; the record "
            f"{consent_id[:12]}… is another one. If the permission was renewed, change the first record's terms "
            f"(python -m metalora_core consent edit {before}.consent.json), then use that one; otherwise learn the "
            "identity again."
        )
    plain = identity.metadata.model_copy(update={"consent_id": consent_id, "seal": None})
    sha256 = content_sha256(replace(identity, metadata=plain))
    seal = Seal(sha256=sha256, key=own.name, signature=own.sign(sha256))
    return replace(identity, metadata=plain.model_copy(update={"seal": seal}))


@dataclass(frozen=True)
class Permissions:
    """The records that an installation knows, and its rule for people without one.

    Args:
        folders: Of the records, the one with the audit log first.
        installation: Whose signatures count.
        without_record: For people; everything else is only reminded of.
    """

    folders: Sequence[Path]
    installation: Installation
    without_record: WithoutRecord = "require"

    @property
    def log(self) -> AuditLog:
        """The audit log."""
        return AuditLog(self.folders[0] / AUDIT_LOG, self.installation)

    @property
    def stores(self) -> list[ConsentStore]:
        """The folders' records, the one for new records first."""
        return [ConsentStore(folder, self.installation) for folder in self.folders]

    def in_force(self, consent_id: str) -> ConsentRecord:
        """The terms that hold now under a record's id.

        Raises:
            ConsentRefused: If it is not here, or was revoked.
            UnreadableFile: If its file or the journal was changed.
        """
        stores = self.stores
        return next((store for store in stores if store.path_of(consent_id).is_file()), stores[0]).in_force(consent_id)

    def ask(self, use: Use, now: datetime) -> str:
        """Refuse a use that is not permitted now.

        Returns:
            A reminder for what needs no record but has none; else empty.

        Raises:
            ConsentRefused: With every reason at once.
            UnreadableFile: If the record's file or the journal was changed.
        """
        if use.consent_id is None:
            if is_person(use.class_word) and not use.nobody and self.without_record == "require":
                check_consent(None, use.photos, use.purpose, now)
            return "" if use.nobody else REMINDER
        record = self.in_force(use.consent_id)
        check_consent(record, use.photos, use.purpose, now)
        if use.subject is not None and record.photo_scope == "any" and not _same(use.subject, record.subject):
            raise ConsentRefused(
                f"The record of {record.granted_by} covers all photos of {record.subject}, but the photos are "
                f"{f'said to show {use.subject!r}' if use.subject else 'not said to show anybody'}. Write the "
                "name into subject of Prepare Reference Photos (adapt --subject), or record which photos it covers."
            )
        if is_person(use.class_word) and record.kind is SubjectKind.PRODUCT:
            raise ConsentRefused(
                f"The record of {record.granted_by} is about the product {record.subject}, but this is a "
                f"{use.class_word}. Record the person's consent."
            )
        return ""

    def ask_subjects(self, subjects: Sequence[tuple[str, str]], source: str, now: datetime) -> Covered:
        """Refuse to meta-train on people whom no record covers.

        A record covers a subject if it permits training with any photo, and its own subject has the name of the
        subject's folder, or of the folder of all subjects.

        Args:
            subjects: Name of each folder and what is in it.
            source: Name of the folder of all.
            now: The present moment, with time zone.

        Raises:
            ConsentRefused: With how many people no record covers, and the first of them.
        """
        covering = {record_id: record.subject.casefold() for record_id, record in self._covering(now)}
        named = set(covering.values())
        people = [name for name, word in subjects if is_person(word)]
        missing = [] if source.casefold() in named else [name for name in people if name.casefold() not in named]
        if missing and self.without_record == "require":
            raise ConsentRefused(
                f"{len(missing)} of {len(subjects)} subjects are people whom no consent record covers, first "
                f"{missing[0]!r}. Record a consent for training with all photos, with the name of the folder as its "
                f"subject: one for each person, or one for all, with the subject {source!r}."
            )
        used = {source.casefold(), *(name.casefold() for name, _ in subjects)}
        ids = sorted(record_id for record_id, name in covering.items() if name in used)
        return Covered(tuple(ids), REMINDER if missing else "")

    def ask_by_name(self, name: str, use: Use, now: datetime) -> tuple[str | None, str]:
        """As `ask`, for the subject of a folder: under the last of the records of the folder's name that permits it.

        Args:
            name: Of the folder.
            use: What is about to be done; its record and its subject are filled in.
            now: The present moment, with time zone.

        Returns:
            The record's id, or None if none is needed; and a reminder as of `ask`.

        Raises:
            ConsentRefused: If the subject is a person without such a record, or none of them permits this.
        """
        records = [record for store in self.stores for record in store.list()]
        own = [record.id for record in records if record.subject.casefold() == name.casefold()]
        if not own and is_person(use.class_word) and not use.nobody and self.without_record == "require":
            raise ConsentRefused(
                f"{name} is a person whom no consent record covers. Record one for training with all photos, with "
                f"{name!r} as its subject, and put it into {self.folders[0]}."
            )
        refused: ConsentRefused | None = None
        for record_id in own[::-1] or [None]:
            try:
                return record_id, self.ask(replace(use, consent_id=record_id, subject=name), now)
            except ConsentRefused as error:
                refused = refused or error
        raise refused or ConsentRefused(f"No record of {name} permits this.")

    def ask_prior(self, sha256: str, now: datetime, purpose: Purpose = Purpose.TRAINING) -> None:
        """Refuse a prior that was trained here under a record that no longer holds, or does not permit the purpose.

        Raises:
            ConsentRefused: If one of its records was revoked, has expired, or is gone.
            UnreadableFile: If a record's file or the journal was changed.
        """
        for entry in self._entries():
            if entry.event == PRIOR_TRAINED and entry.details.get("prior") == sha256 and entry.details.get("consent"):
                check_consent(self.in_force(str(entry.details["consent"])), (), purpose, now)

    def require_intact_log(self) -> None:
        """Refuse if the audit log was changed, for what cannot be taken back: it would hide who is in a prior.

        Raises:
            UnreadableFile: With the first problem.
        """
        verdict = self.log.verify()
        if not verdict.intact:
            raise UnreadableFile(f"The audit log {self.log.path} does not say who is in what: {verdict.problem}")

    def _covering(self, now: datetime) -> Iterator[tuple[str, ConsentRecord]]:
        for record in (record for store in self.stores for record in store.list()):
            with suppress(ConsentRefused, UnreadableFile):
                holds = self.in_force(record.id)
                check_consent(holds, (), Purpose.TRAINING, now)
                if holds.photo_scope == "any":
                    yield record.id, holds

    def ask_identity(self, identity: Identity, prior: Prior, purpose: Purpose, now: datetime) -> str:
        """As `ask`, for a learned identity, after a check that it is still tied to the record it was learned under.

        Raises:
            ConsentRefused: If its record was removed or exchanged, or does not permit this.
            UnreadableFile: If the record's file or the journal was changed.
        """
        self._require_tied(identity)
        return self.ask(use_of(identity, prior, purpose), now)

    def _require_tied(self, identity: Identity) -> None:
        seal, own = identity.metadata.seal, self.installation
        if seal is not None and seal.key == own.name:
            if not own.signed(seal.sha256, seal.signature):
                raise ConsentRefused("The identity's signature is not this installation's: its record was exchanged.")
            return
        learned_under = self._logged().get(layers_sha256(identity))
        if learned_under not in (None, identity.metadata.consent_id):
            raise ConsentRefused(
                f"The identity was learned under the consent record {str(learned_under)[:12]}…, but its file names "
                f"{'another' if identity.metadata.consent_id else 'no'} record: it was changed. Restore the original "
                "file."
            )

    def _logged(self) -> Mapping[str, str]:
        """Record id by hash of the learned layers, from the audit log as far as it can be read."""
        found: dict[str, str] = {}
        for entry in self._entries():
            layers, consent = entry.details.get("layers"), entry.details.get("consent")
            if isinstance(layers, str) and isinstance(consent, str):
                found.setdefault(layers, consent)
        return found

    def _entries(self) -> Iterator[AuditEntry]:
        with suppress(UnreadableFile):  # the verification of the log reports it
            yield from self.log.entries()

    def ask_photos(self, photos: Sequence[str], now: datetime) -> None:
        """Refuse photos that records name, if none of these records holds now.

        Raises:
            ConsentRefused: With the last reason found.
        """
        records = [(record, _hashes(record.photos)) for store in self.stores for record in store.list()]
        for photo in photos:
            naming = [record for record, hashes in records if photo in hashes]
            reasons = [self._refusal(record, photo, now) for record in naming]
            if reasons and all(reasons):
                raise ConsentRefused(reasons[-1])

    def _refusal(self, record: ConsentRecord, photo: str, now: datetime) -> str:
        reason = ""
        for purpose in record.purposes:
            try:
                check_consent(self.in_force(record.id), [photo], purpose, now)
                return ""
            except (ConsentRefused, UnreadableFile) as error:
                reason = str(error)
        return reason

    def state(self, now: datetime) -> str:
        """Changes with the day, and whenever a record is edited, revoked, changed or removed; not when one is added."""
        told = [now.date().isoformat()]
        for store in self.stores:
            try:
                standings = store.standings()
            except UnreadableFile:
                told.append(f"{store.folder}: changed")
                continue
            gone = [key for key, one in standings.items() if one.refused or not store.path_of(key).is_file()]
            edited = [one.record_id for key, one in standings.items() if one.record_id != key]
            told += [*gone, *edited, *map(str, _unreadable(store.folder))]
        return " ".join(told)


def _same(one: str, other: str) -> bool:
    return plain_line(one, LABEL_LIMIT).casefold() == plain_line(other, LABEL_LIMIT).casefold()


def _hashes(photos: Iterable[PhotoPermission]) -> set[str]:
    return {photo.sha256 for photo in photos}


def _unreadable(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            read_record(path)
        except UnreadableFile:
            found.append(path)
    return found
