"""The identities as the page lists, renames, deletes and restores them, each change with its entry in the log."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from shutil import move
from typing import Any

from ...metalora_core.checks import plain_line
from ...metalora_core.errors import InvalidOptions, UnreadableFile
from ...metalora_core.files.atomic import UnwritableFile, explained
from ...metalora_core.files.bounded import read_metadata
from ...metalora_core.files.identity import load_identity, save_identity
from ...metalora_core.files.kept_steps import kept_step_beside, kept_steps
from ...metalora_core.files.metadata import thumbnail_in
from ...metalora_core.files.trash import bring_back, place_before, put_aside
from ...metalora_core.provenance.audit_entry import Detail
from ...metalora_core.provenance.saved_identities import saved_identities
from ...metalora_core.provenance.subject_files import header_record
from .audit import note_down
from .folders import IDENTITIES, NEW_NAME, file_in, listed, new_file, place_in, shown, unused_file
from .permissions import permissions

RENAMED, DELETED, RESTORED = "identity renamed", "identity deleted", "identity restored"


def library() -> list[dict[str, Any]]:
    """What the page shows of each identity, see `SavedIdentity`."""
    found = [asdict(one) for one in saved_identities(permissions(), datetime.now(timezone.utc))]
    for one in found:
        del one["file"]  # the page has no use for a path of the server
    return found


def thumbnail(name: str) -> bytes:
    """The JPEG in an identity's file; empty if it has none."""
    return thumbnail_in(_file(name))


def rename(name: str, new_name: str) -> str:
    """Give an identity another name, in the lists and in what messages call it; returns the name.

    Raises:
        InvalidOptions: If there is such a file, or no file can have that name.
        UnreadableFile: If the identity is gone or damaged.
        UnwritableFile: If the folder is read-only or full.
    """
    path, asked = _file(name), new_file(IDENTITIES, new_name)
    if asked.exists():
        raise InvalidOptions(f"{shown(IDENTITIES, asked)} is there already. Choose another name.")
    written = path.stat().st_mtime_ns
    save_identity(asked, load_identity(path).named(asked.stem), thumbnail_in(path))
    try:
        os.utime(asked, ns=(written, written))
        path.unlink()
    except OSError as error:
        asked.unlink(missing_ok=True)
        raise UnwritableFile(explained(path, error)) from error
    for step, kept in kept_steps(path).items():
        with suppress(OSError):  # it is swept later
            move(kept, kept_step_beside(asked, step))
    note_down(RENAMED, file=shown(IDENTITIES, asked), was=shown(IDENTITIES, path), **_who(asked))
    return _name(asked)


def delete(name: str) -> str:
    """Hide an identity until the sweep deletes it; returns what `restore` takes.

    Raises:
        UnreadableFile: If it is gone.
        UnwritableFile: If the folder is read-only.
    """
    path = _file(name)
    who = _who(path)
    aside = put_aside(path)
    note_down(DELETED, was=shown(IDENTITIES, path), **who)
    return _name(aside)


def restore(aside_name: str) -> str:
    """Bring a deleted identity back, beside another that has its name by now; returns its name.

    Raises:
        InvalidOptions: If the name leads outside the folder.
        UnreadableFile: If it was no deleted identity, or is gone.
        UnwritableFile: If the folder is read-only.
    """
    aside = place_in(IDENTITIES, aside_name)
    path = unused_file(place_before(aside), NEW_NAME)
    bring_back(aside, path)
    note_down(RESTORED, file=shown(IDENTITIES, path), **_who(path))
    return _name(path)


def _file(name: str) -> Path:
    """A file that the list shows: nothing hidden, and nothing outside."""
    if name not in listed(IDENTITIES):
        raise UnreadableFile(f"{plain_line(name, 120)!r} is not among the saved identities. Refresh the library.")
    return file_in(IDENTITIES, name)


def _name(path: Path) -> str:
    return str(Path(shown(IDENTITIES, path)).relative_to(IDENTITIES))


def _who(path: Path) -> dict[str, Detail]:
    fields = header_record(path, read_metadata(path))
    subject = f"{fields.get('trigger') or ''} {fields.get('class_word') or ''}".strip()
    consent = fields.get("consent_id")
    return {"subject": plain_line(subject, 120), "consent": str(consent) if consent else None}
