"""The identities that are kept here, each with the state of its permission, read from the files' headers alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checks import plain_line
from ..errors import ConsentRefused, UnreadableFile
from ..files.identity import IdentityMetadata
from ..files.metadata import THUMBNAIL_KEY
from .consent import ConsentRecord
from .consent_store import ConsentStore, Standing
from .permission import Permissions
from .subject_files import header_record, headers_below

NO_RECORD, IN_FORCE, EXPIRED, EARLY = "no record", "in force", "expired", "not yet valid"
REFUSED_RECORD, CHANGED = "revoked or missing", "changed"


@dataclass(frozen=True)
class SavedIdentity:
    """An identity file as a list shows it.

    Attributes:
        file: Path of the file.
        name: Of the file below its folder, as ComfyUI's lists have it.
        trigger: The rare word that calls the subject.
        class_word: What the subject is.
        subject: Who or what it is, by the consent record; empty without one.
        family: Base family, such as "flux".
        prior: Name of the prior that it needs; empty if it carries its own.
        written: When the file was written, ISO 8601, UTC.
        size_bytes: Of the file.
        consent: State of the permission, such as "in force".
        expires: When the permission ends, ISO 8601; empty for never, or without one.
        thumbnail: Whether the file carries a picture.
    """

    file: Path
    name: str
    trigger: str
    class_word: str
    subject: str
    family: str
    prior: str
    written: str
    size_bytes: int
    consent: str
    expires: str
    thumbnail: bool


class ConsentStates:
    """The state of many permissions: each record and each journal is read once.

    Args:
        known: The records beside the identities.
        now: The present moment, with time zone.
    """

    def __init__(self, known: Permissions, now: datetime) -> None:
        self.stores, self.now = known.stores, now
        self._found: dict[str, tuple[str, ConsentRecord | None]] = {}

    def of(self, named: object) -> tuple[str, ConsentRecord | None]:
        """The state in words, and the record with the terms that hold now, if it can be read.

        Args:
            named: The id that a file names, unchecked; empty for none.
        """
        if not named:
            return NO_RECORD, None
        consent_id = str(named)
        if consent_id not in self._found:
            self._found[consent_id] = self._read(consent_id)
        return self._found[consent_id]

    def _read(self, consent_id: str) -> tuple[str, ConsentRecord | None]:
        try:
            store = next(store for store in self.stores if store.path_of(consent_id).is_file())
            record = store.terms(self._standing(store, consent_id), consent_id)
        except (ConsentRefused, StopIteration):
            return REFUSED_RECORD, None
        except UnreadableFile:
            return CHANGED, None
        if record.expires is not None and self.now >= record.expires:
            return EXPIRED, record
        return IN_FORCE if self.now >= record.valid_from else EARLY, record

    def _standing(self, store: ConsentStore, consent_id: str) -> Standing:
        journal = self._journals[store.folder]
        if isinstance(journal, UnreadableFile):
            raise journal
        return journal.get(consent_id) or store.unmentioned(consent_id)

    @cached_property
    def _journals(self) -> dict[Path, dict[str, Standing] | UnreadableFile]:
        found: dict[Path, dict[str, Standing] | UnreadableFile] = {}
        for store in self.stores:
            try:
                found[store.folder] = store.standings()
            except UnreadableFile as damage:
                found[store.folder] = damage
        return found


def saved_identities(known: Permissions, now: datetime) -> list[SavedIdentity]:
    """The identities in the folders of the records and below; kept steps, unfinished and deleted ones are hidden.

    Args:
        known: The folders; of two files of one name, the one in the first folder is listed, as ComfyUI loads it.
        now: The present moment, with time zone.
    """
    states, found = ConsentStates(known, now), dict[str, SavedIdentity]()
    for one in _all(known.folders, states):
        found.setdefault(one.name, one)
    return list(found.values())


def _all(folders: Sequence[Path], states: ConsentStates) -> Iterator[SavedIdentity]:
    for folder in folders:
        for path, texts in headers_below(folder):
            fields = header_record(path, texts)
            if fields.get("format") != IdentityMetadata.FORMAT or path.name.startswith("."):
                continue
            try:
                size, written = (state := path.stat()).st_size, state.st_mtime
            except OSError:  # gone meanwhile
                continue
            consent, record = states.of(fields.get("consent_id"))
            yield SavedIdentity(
                path,
                str(path.relative_to(folder)),
                _text(fields, "trigger"),
                _text(fields, "class_word"),
                record.subject if record else "",
                _text(fields, "family"),
                prior="" if fields.get("own_prior") else _text(fields, "prior_name"),
                written=datetime.fromtimestamp(written, timezone.utc).isoformat(timespec="seconds"),
                size_bytes=size,
                consent=consent,
                expires=record.expires.isoformat() if record and record.expires else "",
                thumbnail=THUMBNAIL_KEY in texts,
            )


def _text(fields: dict[str, Any], key: str) -> str:
    return plain_line(str(fields.get(key) or ""), 120)
