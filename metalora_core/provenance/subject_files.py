"""All that is kept of a subject: found by its consent records, listed, copied out, or erased."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from ..checks import plain_line
from ..errors import InvalidOptions, UnreadableFile
from ..files.atomic import UnwritableFile, atomic_write
from ..files.export import CONSENT_KEY
from ..files.kept_steps import kept_steps
from ..files.metadata import raw_record
from ..files.sweep import UNFINISHED
from ..files.trash import named_before
from .audit_entry import AuditEntry
from .consent import ConsentRecord
from .consent_store import REVOKED
from .permission import PRIOR_TRAINED, Permissions

ERASED = "subject erased"
_UNFINISHED = f"{UNFINISHED}*"


@dataclass(frozen=True)
class KeptFile:
    """A file that was made under a consent record, or is one.

    Attributes:
        path: Where it is.
        kind: "record", "identity", "LoRA", "prior", "unfinished training", "photo" or "caption".
    """

    path: Path
    kind: str


@dataclass(frozen=True)
class Kept:
    """What is kept of a subject.

    Attributes:
        records: By id.
        files: On this disk.
        elsewhere: Files that the audit log names and that are no longer there, such as "loras/anna.safetensors".
        entries: Of the audit log.
        photo_hashes: SHA-256 of the photos that the records name or that the identities were learned from.
    """

    records: dict[str, ConsentRecord]
    files: tuple[KeptFile, ...]
    elsewhere: tuple[str, ...]
    entries: tuple[AuditEntry, ...]
    photo_hashes: frozenset[str] = frozenset()

    def with_photos(self, found: Iterable[tuple[Path, Sequence[Path]]]) -> Kept:
        """The same with photos, each with its captions."""
        photos = [[KeptFile(path, "photo"), *(KeptFile(text, "caption") for text in texts)] for path, texts in found]
        return replace(self, files=(*self.files, *chain.from_iterable(photos)))


@dataclass(frozen=True)
class Erased:
    """What was done.

    Attributes:
        files: That were deleted.
        elsewhere: Files that were moved or given away; delete them there.
        priors: Trained on this subject among others; they stay.
        entries_left: Entries of the audit log that name the subject and could not be erased, since an earlier release
            or another installation wrote them.
    """

    files: tuple[KeptFile, ...]
    elsewhere: tuple[str, ...]
    priors: tuple[str, ...]
    entries_left: int


def find_kept(known: Permissions, subject: str) -> Kept:
    """Find what is kept of a subject.

    Args:
        known: The records beside the identities.
        subject: As in the records, in upper or lower case.

    Raises:
        InvalidOptions: If no record is about this subject.
    """
    records = {one.id: one for store in known.stores for one in store.list() if _same(one.subject, subject)}
    if not records:
        there = sorted({one.subject for store in known.stores for one in store.list()})
        raise InvalidOptions(
            f"No consent record is about {plain_line(subject, 120)!r}. Records here are about: "
            f"{', '.join(there[:20]) or 'nobody'}."
        )
    return kept_under(known, records)


def kept_under(known: Permissions, records: dict[str, ConsentRecord]) -> Kept:
    """Find what was made under records; see `find_kept`."""
    names = {record.subject for record in records.values()}
    entries = [entry for entry in _readable(known) if _concerns(entry, set(records), names)]
    hashes = {photo.sha256 for record in records.values() for photo in record.photos}
    files: list[KeptFile] = []
    for store in known.stores:
        files += [KeptFile(path, "record") for path in map(store.path_of, records) if path.is_file()]
        for path, fields in identity_records(store.folder):
            if fields.get("consent_id") in records:
                files += [KeptFile(one, "identity") for one in (path, *kept_steps(named_before(path)).values())]
                hashes |= set(fields.get("photo_hashes") or ())
        # Whose they are is not written in them; what is lost of another subject is a training that did not end.
        files += [KeptFile(path, "unfinished training") for path in store.folder.rglob(_UNFINISHED)]
        loras = headers_below(store.folder.parent / "loras")
        files += [KeptFile(path, "LoRA") for path, metadata in loras if metadata.get(CONSENT_KEY) in records]
    places = {str(entry.details["file"]): entry.event for entry in entries if entry.details.get("file")}
    models = known.folders[0].parent
    files += [KeptFile(models / place, "prior") for place, event in places.items() if _is_prior(event, models / place)]
    found = {file.path.absolute() for file in files}
    left = set[str]()  # renamed or deleted here, so nothing was given away
    for entry in entries:
        left.add(str(entry.details.get("was", "")))
        left.discard(str(entry.details.get("file", "")))  # restored, or learned again
    gone = [place for place in places if (models / place).absolute() not in found and place not in left]
    return Kept(records, tuple(dict.fromkeys(files)), tuple(gone), tuple(entries), frozenset(hashes))


def export_subject(known: Permissions, kept: Kept, folder: Path) -> int:
    """Copy all files of a subject into a new folder, with the log's entries as entries.json; returns how many.

    Raises:
        InvalidOptions: If the folder has something in it.
        UnwritableFile: If it cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InvalidOptions(f"{folder} is not empty. Choose a new folder.")
    entries = [vars(entry) for entry in kept.entries]
    atomic_write(folder / "entries.json", [json.dumps(entries, indent=2, ensure_ascii=False).encode()])
    for number, file in enumerate(kept.files):
        try:
            place = folder / file.kind.replace(" ", "_")
            place.mkdir(exist_ok=True)
            target = place / file.path.name
            shutil.copy2(file.path, target if not target.exists() else place / f"{number}_{file.path.name}")
        except OSError as error:
            raise UnwritableFile(f"{file.path} could not be copied to {folder} ({error.strerror or error}).") from error
    return len(kept.files)


def erase_subject(known: Permissions, kept: Kept, now: datetime) -> Erased:
    """Delete all files of a subject but priors, and leave only hashes of the log's entries about it.

    The records are revoked first, so that copies elsewhere are refused even if a record's file comes back.

    Raises:
        UnreadableFile: If the log or the journal was changed; nothing is deleted then.
        UnwritableFile: If a file cannot be deleted; the same again deletes the rest.
    """
    ids, names = set(kept.records), {record.subject for record in kept.records.values()}
    left = 0
    for store in known.stores:
        left += store.journal.erase(lambda entry: bool(entry.details.get("reason")) and _concerns(entry, ids, names))
        for consent_id in ids:
            if store.path_of(consent_id).is_file() and not _revoked(store.standing(consent_id).entries):
                store.revoke(consent_id)
    left += known.log.erase(lambda entry: _concerns(entry, ids, names))
    gone = [file for file in kept.files if file.kind != "prior"]
    for file in gone:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise UnwritableFile(
                f"{file.path} could not be deleted ({error.strerror or error}). Close the programs that use it, and "
                "erase the subject again."
            ) from error
    whom = sorted(hashlib.sha256(name.casefold().encode()).hexdigest() for name in names)
    known.log.append(ERASED, {"subject_sha256": whom[0], "files": len(gone)}, now)
    priors = tuple(str(file.path) for file in kept.files if file.kind == "prior")
    return Erased(tuple(gone), kept.elsewhere, priors, left)


def _revoked(entries: Sequence[AuditEntry]) -> bool:
    return any(entry.event == REVOKED for entry in entries)


def _concerns(entry: AuditEntry, ids: set[str], names: Iterable[str]) -> bool:
    texts = [text.casefold() for text in entry.details.values() if isinstance(text, str)]
    # Whole words: erasing Ann leaves what is said of Joanna.
    words = [re.compile(rf"(?<!\w){re.escape(name.casefold())}(?!\w)") for name in names if name.strip()]
    return bool(ids & set(texts)) or any(word.search(text) for word in words for text in texts)


def _readable(known: Permissions) -> Iterator[AuditEntry]:
    with suppress(UnreadableFile):  # the verification of the log reports it
        yield from known.log.entries()


def _is_prior(event: str, path: Path) -> bool:
    return event == PRIOR_TRAINED and path.is_file()


def identity_records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every safetensors file of a folder and below, with the pack's own record in its header; empty if it has none."""
    for path, metadata in headers_below(folder):
        yield path, header_record(path, metadata)


def headers_below(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Every safetensors file of a folder and below, with the texts of its header."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                yield path, file.metadata() or {}
        except (OSError, SafetensorError):
            continue


def header_record(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The pack's own record in the texts of a header; empty if it has none."""
    with suppress(UnreadableFile):
        return raw_record(path.name, metadata) or {}
    return {}


def _same(one: str, other: str) -> bool:
    return one.casefold() == " ".join(other.split()).casefold()
