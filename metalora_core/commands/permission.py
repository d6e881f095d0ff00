"""What the commands know of permissions: the records near a file, and the question before each use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from .terminal import remark

if TYPE_CHECKING:
    from ..files.identity import Identity
    from ..files.prior import Prior
    from ..many.folder import Permitted
    from ..photos.subject_folders import SubjectFolder
    from ..provenance.audit_entry import Detail
    from ..provenance.consent import Purpose
    from ..provenance.effort import Effort
    from ..provenance.permission import Permissions, Use, WithoutRecord

Answer = TypeVar("Answer")
NotePrior: TypeAlias = "Callable[[Path, str | None, Effort], None]"


class Saver(Protocol):
    """Saves a learned identity under a path, and logs it with what learning it took; returns the file's SHA-256."""

    def __call__(self, path: Path, identity: Identity, effort: Effort | None = None, /) -> str: ...


def permissions_near(path: Path, without_record: WithoutRecord = "require") -> Permissions:
    """The records beside a file or in a folder above it, with the signing key of the ComfyUI that it belongs to.

    Outside of a ComfyUI the key is kept in the user's own folder.
    """
    from ..provenance.consent_store import JOURNAL, SUFFIX
    from ..provenance.installation import Installation
    from ..provenance.permission import AUDIT_LOG, Permissions

    hosts = [one for one in path.absolute().parents if (one / "models").is_dir() and (one / "user").is_dir()]
    ours = [host / "models" / "metalora_identities" for host in hosts[:1]]
    near = [*list(path.absolute().parents)[:3], *ours]
    holding = [
        one for one in near if (one / JOURNAL).exists() or (one / AUDIT_LOG).exists() or any(one.glob(f"*{SUFFIX}"))
    ]
    user = hosts[0] / "user" / "metalora" if hosts else Path.home() / ".metalora"
    return Permissions(holding[:1] or ours or near[:1], Installation(user), without_record)


def noted(known: Permissions, event: str, **details: Detail) -> None:
    """Add an entry to the audit log beside the records; a failure or a gap stops nothing and is said."""
    from ..errors import MetaLoRAError

    log = known.log
    try:
        log.append(event, details, datetime.now(timezone.utc))
    except MetaLoRAError as error:
        remark(f"{event!r} could not be added to the audit log. {error}")
    else:
        if log.gap:
            remark(f"The audit log has a gap; its entry {log.gap.number} describes it.")


def _logged(known: Permissions, purpose: Purpose, consent: str | None, question: Callable[[], Answer]) -> Answer:
    from ..errors import ConsentRefused, UnreadableFile
    from ..provenance.permission import REFUSED

    try:
        return question()
    except (ConsentRefused, UnreadableFile) as refusal:
        noted(known, REFUSED, use=purpose.value, consent=consent, reason=str(refusal))
        raise


def ask(use: Use, near: Path, rule: WithoutRecord) -> Saver:
    """Refuse what is not permitted now, and say what lacks a record; a refusal is logged.

    Returns:
        What saves an identity that was learned so.

    Raises:
        ConsentRefused: With every reason at once.
        UnreadableFile: If the record was changed.
    """
    known, now = permissions_near(near, rule), datetime.now(timezone.utc)
    if reminder := _logged(known, use.purpose, use.consent_id, lambda: known.ask(use, now)):
        remark(reminder)
    return saver(known, use.consent_id)


def saver_for_each(
    source: Path, rule: WithoutRecord, *, nobody: bool
) -> Callable[[str, str, Sequence[str]], Permitted]:
    """As `ask`, for the subjects of a folder one after the other: from a name, a class word and the photos'
    hashes to what saves the identity, tied to its record if it has one.

    A subject's records, beside or above the folder, are those with the name of its own folder, see
    `Permissions.ask_by_name`.
    """
    from ..many.folder import Permitted
    from ..provenance.consent import Purpose
    from ..provenance.permission import Use

    known, told = permissions_near(source / "subjects", rule), list[str]()

    def ask_one(name: str, word: str, photos: Sequence[str]) -> Permitted:
        use, now = Use(Purpose.TRAINING, word, photos, nobody=nobody), datetime.now(timezone.utc)
        record, reminder = _logged(known, use.purpose, None, lambda: known.ask_by_name(name, use, now))
        if reminder and not told:
            told.append(reminder)
            remark(reminder)
        return Permitted(record, saver(known, record))

    return ask_one


def saver(known: Permissions, record: str | None) -> Saver:
    """What saves a learned identity, tied to its record if it has one, and logs that and what learning it took."""
    from ..files.identity import save_identity
    from ..provenance.permission import IDENTITY_LEARNED, IDENTITY_TIED, tied

    def save(path: Path, identity: Identity, effort: Effort | None = None) -> str:
        own = identity if record is None else tied(identity, record, known.installation)
        sha256 = save_identity(path, own)
        # The folder of the photos has no log of its own where no record is.
        event = IDENTITY_TIED if effort == {} else IDENTITY_LEARNED  # learned by an earlier run, which logged it
        _note_identity(known if record else permissions_near(path), event, path, own, effort)
        return sha256

    return save


def ask_identity(
    path: Path, identity: Identity, prior: Prior, purpose: Purpose, rule: WithoutRecord
) -> Callable[[str, Path, Identity], None]:
    """As `ask`, for a learned identity; returns what logs an event, with the identity's file and itself."""
    known, now, consent = permissions_near(path, rule), datetime.now(timezone.utc), identity.metadata.consent_id
    question = partial(known.ask_identity, identity, prior, purpose, now)
    if reminder := _logged(known, purpose, consent, question):
        remark(reminder)
    return partial(_note_identity, known)


def _note_identity(
    known: Permissions, event: str, file: Path, identity: Identity, effort: Effort | None = None
) -> None:
    from ..provenance.permission import identity_details

    noted(known, event, **identity_details(identity, str(file.absolute())), **(effort or {}))


def ask_subjects(found: Iterable[SubjectFolder], source: Path, rule: WithoutRecord) -> NotePrior:
    """As `ask`, for the subjects of a meta-training; returns what notes the prior's file, hash and effort down."""
    return ask_named([(subject.path.name, subject.class_word) for subject in found], source, rule)


def ask_named(named: Sequence[tuple[str, str]], source: Path, rule: WithoutRecord) -> NotePrior:
    """As `ask_subjects`, for subjects known by a name and a class word, from a folder."""
    from ..provenance.consent import Purpose
    from ..provenance.permission import PRIOR_TRAINED, prior_details

    known, now = permissions_near(source / "subjects", rule), datetime.now(timezone.utc)
    question = partial(known.ask_subjects, named, source.absolute().name, now)
    covered = _logged(known, Purpose.TRAINING, None, question)
    if covered.reminder:
        remark(covered.reminder)

    def note(output: Path, sha256: str | None, effort: Effort) -> None:
        # The folder of the photos has no log of its own where no record is.
        log = known if covered.records else permissions_near(output)
        for details in prior_details(str(output.absolute()), sha256, covered.records, effort):
            noted(log, PRIOR_TRAINED, **details)

    return note
