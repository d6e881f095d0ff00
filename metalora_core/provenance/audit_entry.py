"""One line of the audit log: what it says, its hash and signature, and what is left of it when a subject is erased."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, TypeAlias, cast

from pydantic_core import from_json

from ..errors import UnreadableFile
from .installation import Installation

START = "0" * 64
"""Stands in the first entry in place of the hash of the one before."""

Detail: TypeAlias = str | int | float | bool | None
_ERASED, _BY = "erased", "by"


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log.

    Attributes:
        number: From 0.
        moment: ISO 8601, UTC.
        event: What happened, such as "adapted".
        details: Circumstances.
        previous: Hash of the entry before.
        sha256: Hash of this entry: SHA-256 of its other fields but the signature, as canonical JSON.
    """

    number: int
    moment: str
    event: str
    details: Mapping[str, Detail]
    previous: str
    sha256: str

    @property
    def when(self) -> datetime:
        """The moment, with time zone; the earliest one that there is for what is not a moment."""
        earliest = datetime.min.replace(tzinfo=timezone.utc)
        try:
            moment = datetime.fromisoformat(self.moment)
        except ValueError:
            return earliest
        return moment if moment.tzinfo else earliest


@dataclass(frozen=True)
class SignedEntry(AuditEntry):
    """An entry with the signature of the installation that wrote it.

    Attributes:
        key: Name of its signing key.
        signature: Of `sha256`.
    """

    key: str
    signature: str


def problem_of(entry: AuditEntry, number: int, previous: str, own: Installation | None, signed: bool = False) -> str:
    """What is wrong with an entry; empty for nothing.

    Args:
        entry: As it was read.
        number: That it should have.
        previous: Hash of the entry before.
        own: Whose signatures are verified.
        signed: Whether an earlier entry is signed.
    """
    if entry.number != number:
        return f"Entry {number} has the number {entry.number}: entries are missing, added or reordered."
    if entry.previous != previous:
        return f"Entry {number} does not follow from the one before: an entry was changed or replaced."
    if _hash_of(entry) != entry.sha256:
        return f"Entry {number} does not match its hash: it was changed."
    if not isinstance(entry, SignedEntry):
        return f"Entry {number} is not signed, but earlier ones are: it was replaced." if signed else ""
    if own is None or entry.key != own.name:
        return ""
    if not own.signed(entry.sha256, entry.signature):
        return f"Entry {number} does not match its signature: it was replaced."
    if is_erased(entry) and not own.signed(_erasure_of(entry), str(entry.details[_BY])):
        return f"What entry {number} said was removed by somebody else."
    return ""


def sealed(
    number: int, moment: str, event: str, details: Mapping[str, Detail], previous: str, own: Installation | None
) -> AuditEntry:
    """An entry with its hash, signed if there is an installation."""
    if own is None:
        entry = AuditEntry(number, moment, event, details, previous, "")
        return replace(entry, sha256=_hash_of(entry))
    entry = SignedEntry(number, moment, event, details, previous, "", own.name, "")
    sha256 = _hash_of(entry)
    return replace(entry, sha256=sha256, signature=own.sign(sha256))


def _hash_of(entry: AuditEntry) -> str:
    fields = {name: value for name, value in vars(entry).items() if name not in ("sha256", "signature")}
    if isinstance(entry, SignedEntry):  # through their own hash, which stays when they are erased
        fields["details"] = str(entry.details[_ERASED]) if is_erased(entry) else _sha256(dict(entry.details))
    else:
        fields["details"] = dict(entry.details)
    return _sha256(fields)


def _sha256(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()


def _canonical(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def is_erased(entry: AuditEntry) -> bool:
    """Whether only a hash is left of what an entry said."""
    return set(entry.details) == {_ERASED, _BY}


def erased(entry: SignedEntry, own: Installation) -> SignedEntry:
    """The entry without what it said; its hash and its place in the chain stay."""
    bare = replace(entry, details={_ERASED: _sha256(dict(entry.details)), _BY: ""})
    return replace(bare, details={**bare.details, _BY: own.sign(_erasure_of(bare))})


def _erasure_of(entry: AuditEntry) -> str:
    return f"erased {entry.sha256} {entry.details[_ERASED]}"


def line_of(entry: AuditEntry) -> bytes:
    """The bytes of its line."""
    return (_canonical(vars(entry) | {"details": dict(entry.details)}) + "\n").encode()


def parsed(line: bytes, number: int | None) -> AuditEntry:
    """Read a line; None in place of its number is for the last one.

    Raises:
        UnreadableFile: If it is not exactly what `line_of` writes.
    """
    place = "The last line" if number is None else f"Line {number + 1}"
    advice = "of the audit log is not a complete entry: it was changed, or writing it was interrupted."
    if not line.endswith(b"\n"):
        raise UnreadableFile(f"{place} {advice}")
    try:
        loaded: Any = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        raise UnreadableFile(f"{place} {advice}") from error
    fields = cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
    # Exact types: 1.0 or true in place of the number 1 would otherwise pass for it.
    types = {name: type(value) for name, value in fields.items()}
    try:
        entry = AuditEntry(**fields) if types == _FIELD_TYPES else SignedEntry(**fields) if types == _SIGNED else None
        # The very bytes that were written: white space or a second key of the same name would otherwise pass.
        if entry is not None and line_of(entry) == line:
            return entry
    except ValueError:
        pass  # a number or a character that JSON cannot say
    raise UnreadableFile(f"{place} {advice}")


_FIELD_TYPES = {"number": int, "moment": str, "event": str, "details": dict, "previous": str, "sha256": str}
_SIGNED = _FIELD_TYPES | {"key": str, "signature": str}
