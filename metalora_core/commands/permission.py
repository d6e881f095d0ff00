"""What the commands know of permissions: the records near a file, and the question before each use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from .terminal import remark

if TYPE_CHECKING:
    from ..files.identity import Identity
    from ..files.prior import Prior
    from ..many.folder import Permitted
    from ..photos.subject_folders import SubjectFolder
    from ..provenance.audit_entry import Detail
    from ..provenance.consent import Purpose
    from ..provenance.permission import Permissions, Use, WithoutRecord


def permissions_near(path: Path, without_record: WithoutRecord = "require") -> Permissions:
    """The records beside a file or in a folder above it, with the signing key of the ComfyUI that it belongs to.

    Outside of a ComfyUI the key is kept in the user's own folder.
    """
    from ..provenance.consent_store import JOURNAL, SUFFIX
    from ..provenance.installation import Installation
    from ..provenance.permission import AUDIT_LOG, Permissions

    above = list(path.absolute().parents)[:3]
    holding = [
        one for one in above if (one / JOURNAL).exists() or (one / AUDIT_LOG).exists() or any(one.glob(f"*{SUFFIX}"))
    ]
    hosts = [one for one in path.absolute().parents if (one / "models").is_dir() and (one / "user").is_dir()]
    user = hosts[0] / "user" / "metalora" if hosts else Path.home() / ".metalora"
    return Permissions(holding[:1] or above[:1], Installation(user), without_record)


def noted(known: Permissions, event: str, **details: Detail) -> None:
    """Add an entry to the audit log beside the records."""
    known.log.append(event, details, datetime.now(timezone.utc))


def ask(use: Use, near: Path, rule: WithoutRecord) -> None:
    """Refuse what is not permitted now, and say what lacks a record.

    Raises:
        ConsentRefused: With every reason at once.
        UnreadableFile: If the record was changed.
    """
    if reminder := permissions_near(near, rule).ask(use, datetime.now(timezone.utc)):
        remark(reminder)


def saver_for_each(
    source: Path, rule: WithoutRecord, *, nobody: bool
) -> Callable[[str, str, Sequence[str]], Permitted]:
    """As `ask`, for the subjects of a folder one after the other: from a name, a class word and the photos'
    hashes to what saves the identity, tied to its record if it has one.

    A subject's records, beside or above the folder, are those with the name of its own folder, see
    `Permissions.ask_by_name`.
    """
    from ..files.identity import save_identity
    from ..many.folder import Permitted
    from ..provenance.consent import Purpose
    from ..provenance.permission import Use, tied

    known, told = permissions_near(source / "subjects", rule), list[str]()

    def ask_one(name: str, word: str, photos: Sequence[str]) -> Permitted:
        use = Use(Purpose.TRAINING, word, photos, nobody=nobody)
        record, reminder = known.ask_by_name(name, use, datetime.now(timezone.utc))
        if reminder and not told:
            told.append(reminder)
            remark(reminder)
        if record is None:
            return Permitted(None, save_identity)
        return Permitted(record, lambda path, one: save_identity(path, tied(one, record, known.installation)))

    return ask_one


def ask_identity(path: Path, identity: Identity, prior: Prior, purpose: Purpose, rule: WithoutRecord) -> None:
    """As `ask`, for a learned identity."""
    known = permissions_near(path, rule)
    if reminder := known.ask_identity(identity, prior, purpose, datetime.now(timezone.utc)):
        remark(reminder)


def ask_subjects(
    found: Iterable[SubjectFolder], source: Path, rule: WithoutRecord
) -> Callable[[Path, str | None], None]:
    """As `ask`, for the subjects of a meta-training; returns what notes the prior's file and hash down."""
    return ask_named([(subject.path.name, subject.class_word) for subject in found], source, rule)


def ask_named(
    named: Sequence[tuple[str, str]], source: Path, rule: WithoutRecord
) -> Callable[[Path, str | None], None]:
    """As `ask_subjects`, for subjects known by a name and a class word, from a folder."""
    from ..provenance.permission import PRIOR_TRAINED

    known = permissions_near(source / "subjects", rule)
    covered = known.ask_subjects(named, source.absolute().name, datetime.now(timezone.utc))
    if covered.reminder:
        remark(covered.reminder)

    def note(output: Path, sha256: str | None) -> None:
        for record in covered.records:
            noted(known, PRIOR_TRAINED, file=str(output.absolute()), prior=sha256, consent=record)

    return note
