"""An append-only log in which every entry carries the hash of the one before, so that changes can be detected."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from ..checks import plain_line
from ..errors import InvalidOptions, UnreadableFile
from ..files.atomic import UnwritableFile

START = "0" * 64
"""Stands in the first entry in place of the hash of the one before."""

TEXT_LIMIT = 1000
DETAILS_AT_MOST = 40
LINE_BYTES_AT_MOST = 256 * 1024

Detail: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log.

    Attributes:
        number: From 0.
        moment: ISO 8601, UTC.
        event: What happened, such as "adapted".
        details: Circumstances.
        previous: Hash of the entry before.
        sha256: Hash of this entry: SHA-256 of its other fields as canonical JSON.
    """

    number: int
    moment: str
    event: str
    details: Mapping[str, Detail]
    previous: str
    sha256: str


@dataclass(frozen=True)
class AuditVerdict:
    """What a verification found.

    Attributes:
        intact: Whether every entry follows from the one before.
        entries: Number of sound entries from the start.
        head: Hash of the last sound one. If you keep it elsewhere, it also shows whether entries were cut off at the
            end, which the log alone cannot show.
        problem: The first problem; empty when intact.
    """

    intact: bool
    entries: int
    head: str
    problem: str = ""


class AuditLog:
    """A log file of JSON lines.

    Args:
        path: The file; it and its folder are made with the first entry.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def append(self, event: str, details: Mapping[str, Detail], moment: datetime) -> AuditEntry:
        """Add an entry; several processes may do so at the same time.

        Args:
            event: What happened; cleaned and bounded.
            details: Circumstances; texts are cleaned and bounded.
            moment: With time zone.

        Raises:
            InvalidOptions: If the moment has no time zone, or there are too many details or one is not finite.
            UnreadableFile: If the end of the log is damaged, since nothing can follow it.
            UnwritableFile: If it cannot be written.
        """
        if moment.tzinfo is None:
            raise InvalidOptions("The moment of a log entry has no time zone; give one, such as UTC.")
        if len(details) > DETAILS_AT_MOST:
            raise InvalidOptions(f"Found {len(details)} details; a log entry takes at most {DETAILS_AT_MOST}.")
        cleaned = {plain_line(key, 80): _cleaned(value) for key, value in details.items()}
        utc = moment.astimezone(timezone.utc).isoformat()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file, _locked(file.fileno()):
                last = self._last_entry(file)
                number, previous = (last.number + 1, last.sha256) if last else (0, START)
                entry = _sealed(number, utc, plain_line(event, TEXT_LIMIT), cleaned, previous)
                file.write(_line(entry))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UnwritableFile(
                f"The audit log {self.path} could not be written ({error.strerror or error}). Check the folder."
            ) from error
        return entry

    def entries(self) -> Iterator[AuditEntry]:
        """All entries in order, unverified.

        Raises:
            UnreadableFile: At the first line that is not an entry.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_AT_MOST + 1):
                yield _parsed(line, number)
                number += 1

    def verify(self, expected_head: str | None = None) -> AuditVerdict:
        """Follow the chain from the start.

        Args:
            expected_head: The hash that an earlier verification gave; it must still occur in the chain.
        """
        previous, count, seen = START, 0, expected_head in (None, START)
        try:
            for entry in self.entries():
                problem = _problem(entry, count, previous)
                if problem:
                    return AuditVerdict(False, count, previous, problem)
                previous, count = entry.sha256, count + 1
                seen = seen or entry.sha256 == expected_head
        except UnreadableFile as error:
            return AuditVerdict(False, count, previous, str(error))
        if not seen:
            problem = f"The entry {str(expected_head)[:12]}… is missing: entries were cut off or the log was replaced."
            return AuditVerdict(False, count, previous, problem)
        return AuditVerdict(True, count, previous)

    def _last_entry(self, file: BinaryIO) -> AuditEntry | None:
        """Read the end of the locked file alone, so that a long log costs no more than a short one."""
        # Through the handle that holds the lock: on Windows no other handle can read the locked bytes.
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return None
        file.seek(max(0, size - LINE_BYTES_AT_MOST))
        line = file.read().splitlines(keepends=True)[-1]
        advice = f"Keep the log {self.path.name} as evidence and start a new one."
        try:
            entry = _parsed(line, None)
        except UnreadableFile as error:
            raise UnreadableFile(f"{error} {advice}") from error
        problem = _problem(entry, entry.number, entry.previous)
        if problem:
            raise UnreadableFile(f"{problem} {advice}")
        return entry


def _problem(entry: AuditEntry, number: int, previous: str) -> str:
    if entry.number != number:
        return f"Entry {number} has the number {entry.number}: entries are missing, added or reordered."
    if entry.previous != previous:
        return f"Entry {number} does not follow from the one before: an entry was changed or replaced."
    if _sealed(entry.number, entry.moment, entry.event, entry.details, entry.previous).sha256 != entry.sha256:
        return f"Entry {number} does not match its hash: it was changed."
    return ""


def _sealed(number: int, moment: str, event: str, details: Mapping[str, Detail], previous: str) -> AuditEntry:
    fields = {"number": number, "moment": moment, "event": event, "details": dict(details), "previous": previous}
    text = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return AuditEntry(number, moment, event, details, previous, hashlib.sha256(text.encode()).hexdigest())


def _line(entry: AuditEntry) -> bytes:
    fields = vars(entry) | {"details": dict(entry.details)}
    return (json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def _parsed(line: bytes, number: int | None) -> AuditEntry:
    place = "The last line" if number is None else f"Line {number + 1}"
    advice = "of the audit log is not a complete entry: it was changed, or writing it was interrupted."
    if not line.endswith(b"\n"):
        raise UnreadableFile(f"{place} {advice}")
    try:
        loaded: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{place} {advice}") from error
    fields = cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
    # Exact types: 1.0 or true in place of the number 1 would otherwise pass for it.
    if {name: type(value) for name, value in fields.items()} != _FIELD_TYPES:
        raise UnreadableFile(f"{place} {advice}")
    return AuditEntry(**fields)


_FIELD_TYPES = {"number": int, "moment": str, "event": str, "details": dict, "previous": str, "sha256": str}


def _cleaned(value: Detail) -> Detail:
    if isinstance(value, str):
        return plain_line(value, TEXT_LIMIT)
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise InvalidOptions(f"Found the detail {value}; a log entry takes finite numbers.")
    return value


@contextmanager
def _locked(descriptor: int) -> Generator[None, None, None]:
    """Lock the file for this process; the system unlocks it if the process dies."""
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined, unused-ignore]
        try:
            yield
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
