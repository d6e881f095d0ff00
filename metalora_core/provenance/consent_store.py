"""Consent records on disk, one JSON file each, beside the identities they cover, and a journal of what became of them.

A record's file never changes. That it was recorded, edited or revoked are entries of the journal, which only grows; an
edit names the record that holds from then on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from pydantic import ValidationError

from ..checks import plain_line
from ..errors import ConsentRefused, InvalidOptions, UnreadableFile
from ..files.atomic import atomic_write
from ..files.bounded import open_regular
from .audit_entry import AuditEntry, SignedEntry
from .audit_log import GAP, AuditLog
from .consent import ConsentRecord, day, explained
from .installation import Installation

SUFFIX = ".consent.json"
JOURNAL = "consents.jsonl"
RECORDED, EDITED, REVOKED = "consent recorded", "consent edited", "consent revoked"

FILE_BYTES_AT_MOST = 4 * 1024 * 1024
"""Largest record that is read; a thousand photos with long notes stay below it."""

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Standing:
    """What the journal says about a record.

    Attributes:
        record_id: Of the record that holds now: its own, or the one of the last edit.
        entries: What became of it, oldest first; none for records of releases without a journal.
        refused: Why it no longer holds; empty if it does.
    """

    record_id: str
    entries: tuple[AuditEntry, ...] = ()
    refused: str = ""


class ConsentStore:
    """The records of one folder. A file is named by the record's id alone, so no text of a user reaches a path.

    Args:
        folder: Usually the folder of the identities; made when the first record is saved.
        installation: Signs the journal's entries; None to read only, without verifying them.
    """

    def __init__(self, folder: Path | str, installation: Installation | None = None) -> None:
        self.folder = Path(folder)
        self.installation = installation
        self.journal = AuditLog(self.folder / JOURNAL, installation)

    def path_of(self, consent_id: str) -> Path:
        """Path of a record.

        Raises:
            ConsentRefused: If the id is not valid; only 64 hexadecimal digits can become a file name.
        """
        if not _ID.fullmatch(consent_id):
            raise ConsentRefused(
                f"The consent id {plain_line(consent_id, 80)!r} is not valid; expected 64 hexadecimal digits. Record "
                "the consent again."
            )
        return self.folder / f"{consent_id}{SUFFIX}"

    def save(self, record: ConsentRecord) -> Path:
        """Write a record, whole or not at all; an equal record already there is left alone.

        Raises:
            ConsentRefused: If it was revoked.
            UnwritableFile: If the folder is unwritable or full.
        """
        try:
            standing = self.standing(record.id)
        except UnreadableFile as damage:  # of the journal: what is recorded from now on holds
            standing = Standing(record.id, refused=str(damage))
        if standing.entries and standing.entries[-1].event == REVOKED:
            raise ConsentRefused(
                f"{standing.refused} If it was given again, record it with a valid_from on or after the day it was "
                "given again."
            )
        path = self.path_of(record.id)
        known = bool(standing.entries) and not standing.refused and path.is_file()
        atomic_write(path, [record.to_json()])
        if not known and self.installation is not None:
            self._note(RECORDED, record.id)
        return path

    def edit(self, consent_id: str, new: ConsentRecord) -> Path:
        """Let a record hold with other terms from now on; what was learned under it stays tied to it.

        Raises:
            InvalidOptions: If the new terms are about another subject, or the record does not hold any more.
        """
        old = self.in_force(consent_id)
        if (old.subject, old.kind) != (new.subject, new.kind):
            raise InvalidOptions(
                f"The record is about {old.subject} ({old.kind.value}), the new terms are about {new.subject} "
                f"({new.kind.value}). Make a record of its own for another subject."
            )
        atomic_write(self.path_of(new.id), [new.to_json()])
        self._note(EDITED, consent_id, holds_now=new.id)
        return self.path_of(new.id)

    def revoke(self, consent_id: str, reason: str = "") -> None:
        """End a record for good; the file stays, so that it can be shown what was permitted until now.

        Raises:
            ConsentRefused: If there is no such record here.
        """
        self.load(consent_id)
        self._note(REVOKED, consent_id, reason=reason)

    def _note(self, event: str, consent_id: str, **details: str) -> None:
        self.journal.append(event, {"consent": consent_id, **details}, datetime.now(timezone.utc))

    def in_force(self, consent_id: str) -> ConsentRecord:
        """The terms that hold now for what names a record.

        Raises:
            ConsentRefused: If the record was revoked or is not here, or the journal does not vouch for it.
            UnreadableFile: If its file or the journal was changed.
        """
        return self.terms(self.standing(consent_id), consent_id)

    def terms(self, standing: Standing, consent_id: str) -> ConsentRecord:
        """As `in_force`, for who has read the journal before."""
        if standing.refused:
            raise ConsentRefused(standing.refused)
        self.load(consent_id)
        return self.load(standing.record_id)

    def standing(self, consent_id: str) -> Standing:
        """What the journal says about a record.

        Raises:
            UnreadableFile: If the journal was changed.
        """
        return self.standings().get(consent_id, self.unmentioned(consent_id))

    def standings(self) -> dict[str, Standing]:
        """What the journal says about every record in it.

        Raises:
            UnreadableFile: If the journal was changed.
        """
        verdict = self.journal.verify()
        if not verdict.intact:
            raise UnreadableFile(
                f"{self.journal.path} was changed. {verdict.problem} Restore the file, or delete it and record "
                "the consents again: without it, what was revoked is not known."
            )
        found: dict[str, Standing] = {}
        for entry in self.journal.entries():
            if entry.event == GAP and _lost(entry):
                found = {key: replace(one, refused=one.refused or _unvouched(key, entry)) for key, one in found.items()}
            elif isinstance(key := entry.details.get("consent"), str):
                found[key] = self._after(found.get(key, Standing(key)), key, entry)
        return found

    def _after(self, before: Standing, key: str, entry: AuditEntry) -> Standing:
        entries = (*before.entries, entry)
        if entry.event == REVOKED:
            why = f" Reason: {entry.details['reason']}." if entry.details.get("reason") else ""
            return Standing(
                before.record_id, entries, f"The consent {key[:12]}… was revoked on {day(entry.when)}.{why}"
            )
        if entry.event == EDITED:
            now = str(entry.details.get("holds_now"))
            return Standing(now, entries, self._strange(key, entry) or before.refused)
        return Standing(before.record_id, entries)

    def _strange(self, consent_id: str, entry: AuditEntry) -> str:
        if self.installation is None or not isinstance(entry, SignedEntry) or entry.key == self.installation.name:
            return ""
        return (
            f"The consent {consent_id[:12]}… was edited on another installation (key {entry.key}), which this one "
            "cannot verify. Record the consent again here."
        )

    def unmentioned(self, consent_id: str) -> Standing:
        """What holds for a record without an entry: it is older than the journal, or its entries were lost."""
        lost = [entry for entry in self.journal.entries() if entry.event == GAP and _lost(entry)]
        return Standing(consent_id, (), _unvouched(consent_id, lost[-1]) if lost else "")

    def load(self, consent_id: str) -> ConsentRecord:
        """Read the record that an identity names.

        Raises:
            ConsentRefused: If there is no such record here.
            UnreadableFile: If its file is damaged, was changed, or holds another record.
        """
        path = self.path_of(consent_id)
        if not path.is_file():
            raise ConsentRefused(
                f"Consent record {consent_id[:12]}… was not found in {self.folder}. Copy its file ({path.name}) there, "
                "or record the consent again."
            )
        record = read_record(path)
        if record.id != consent_id:
            raise UnreadableFile(
                f"{path.name} contains the consent record {record.id[:12]}…, which does not match its name. Restore "
                "the file."
            )
        return record

    def list(self) -> tuple[ConsentRecord, ...]:
        """All readable records by subject; other files are skipped."""
        records: list[ConsentRecord] = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                records.append(read_record(path))
            except UnreadableFile:
                continue
        return tuple(sorted(records, key=lambda record: (record.subject, record.id)))


def read_record(path: Path | str) -> ConsentRecord:
    """Read and validate a consent file.

    Raises:
        UnreadableFile: If it is missing, too large, not a valid record, or does not match its own id.
    """
    path = Path(path)
    with open_regular(path) as file:
        data = file.read(FILE_BYTES_AT_MOST + 1)
    if len(data) > FILE_BYTES_AT_MOST:
        raise UnreadableFile(f"{path.name} has more than {FILE_BYTES_AT_MOST} bytes, so it is not a consent record.")
    try:
        return ConsentRecord.model_validate_json(data)
    except ValidationError as error:
        raise UnreadableFile(
            f"{path.name} is not a valid consent record: {explained(error)}. Restore the file, or record the consent "
            "again."
        ) from error


def _lost(gap: AuditEntry) -> bool:
    """Whether a gap of the journal may hide a revocation."""
    return bool({"missing_entries", "changed_log_kept_as", "head"} & set(gap.details))


def _unvouched(consent_id: str, gap: AuditEntry) -> str:
    return (
        f"Entries of {JOURNAL} were lost before {day(gap.when)}, so it is not known whether the consent "
        f"{consent_id[:12]}… was revoked. Record it again."
    )
