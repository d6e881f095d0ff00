"""An append-only log in which every entry carries the hash of the one before, so that changes can be detected.

An installation signs its entries, and keeps how many there are apart from the log. So a chain that was computed again,
and entries that are missing at the end, can be detected too.

What a full disk or a power cut left of a last line is cut off, a log with a changed end is moved aside, and what could
not be written is remembered. The next entry that can be written then follows one that describes the gap.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from glob import escape
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from ..checks import plain_line
from ..errors import InvalidOptions, UnreadableFile
from ..files.atomic import UnwritableFile, atomic_write
from ..files.bounded import open_regular
from ..files.lock import locked
from .audit_entry import START, AuditEntry, Detail, SignedEntry, erased, is_erased, line_of, parsed, problem_of, sealed
from .installation import Head, Installation

TEXT_LIMIT = 1000
DETAILS_AT_MOST = 40
LINE_BYTES_AT_MOST = 256 * 1024
LOCK_SECONDS = 2.0
"""How long an entry waits for other processes before giving up."""

FILE_BYTES = 8 * 1024 * 1024
"""Size at which a file of the log is full: it is renamed to audit.000001.jsonl and so on, and the chain continues in a
new one."""
_DIGITS = 6

GAP = "entries missing"
"""Event of the entry that follows a gap; its details say what is known about it."""

CLOCK_BACK = "clock_was_at"
"""Detail of an entry that is earlier than the one before by more than a minute."""
_CLOCK_SLACK = timedelta(minutes=1)

# What could not be written in this process, by log, until an entry can describe it.
_GAPS: dict[Path, dict[str, Detail]] = {}


@dataclass(frozen=True)
class AuditVerdict:
    """What a verification found.

    Attributes:
        intact: Whether every entry follows from the one before.
        entries: Number of sound entries from the start.
        head: Hash of the last sound one. If you keep it elsewhere, it also shows whether entries were cut off at the
            end, which the log alone cannot show.
        problem: The first problem; empty when intact.
        gaps: Numbers of the entries about a gap.
        unverified: Entries that are not signed, or by another installation.
    """

    intact: bool
    entries: int
    head: str
    problem: str = ""
    gaps: tuple[int, ...] = ()
    unverified: int = 0


class AuditLog:
    """A log file of JSON lines.

    Args:
        path: The file; it and its folder are made with the first entry.
        installation: Signs the entries and remembers how many there are; None for a log that anybody can write.

    Attributes:
        gap: The entry about a gap that the last `append` had to write first, or None.
    """

    def __init__(self, path: Path | str, installation: Installation | None = None) -> None:
        self.path = Path(path)
        self.installation = installation
        self.gap: AuditEntry | None = None

    def append(self, event: str, details: Mapping[str, Detail], moment: datetime) -> AuditEntry:
        """Add an entry; several processes may do so at the same time, and each waits two seconds at most.

        Args:
            event: What happened; cleaned and bounded.
            details: Circumstances; texts are cleaned and bounded.
            moment: With time zone.

        Raises:
            InvalidOptions: If the moment has no time zone, or there are too many details or one is not finite.
            UnwritableFile: If it cannot be written; what is in the log stays whole.
        """
        if moment.tzinfo is None:
            raise InvalidOptions("The moment of a log entry has no time zone; give one, such as UTC.")
        if len(details) > DETAILS_AT_MOST:
            raise InvalidOptions(f"Found {len(details)} details; a log entry takes at most {DETAILS_AT_MOST}.")
        cleaned = {plain_line(key, 80): _cleaned(value) for key, value in details.items()}
        utc, named = moment.astimezone(timezone.utc).isoformat(), plain_line(event, TEXT_LIMIT)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            added = self._append(named, cleaned, utc)
        except OSError as error:
            _remember(self.path, named)
            raise UnwritableFile(
                f"The audit log {plain_line(str(self.path), 300)} could not be written ({error.strerror or error}). "
                "Check the folder and the disk."
            ) from error
        _GAPS.pop(self.path, None)
        self.gap = added[0] if len(added) > 1 else None
        return added[-1]

    def _append(self, event: str, details: Mapping[str, Detail], moment: str) -> list[AuditEntry]:
        """Write an entry, after one about a gap if there is one."""
        with self._held():
            last = self._last()
            gap = {**_GAPS.get(self.path, {}), **self._gone(last)}
            entries = self._chained(last, [*([(GAP, gap)] if gap else []), (event, details)], moment)
            self._close_full_file()
            with self.path.open("ab", buffering=0) as file:
                _write_whole(file, b"".join(map(line_of, entries)), os.fstat(file.fileno()).st_size)
            self._keep_head(entries[-1])
            return entries

    @contextmanager
    def _held(self) -> Generator[None]:
        """Keep other processes from writing to the log."""
        # A file of its own is locked: Windows can neither read a locked file through a second handle nor replace one
        # that is open, so the log itself is open only while it is read or written.
        with self.path.with_name(f".{self.path.name}.lock").open("ab") as file, locked(file.fileno(), LOCK_SECONDS):
            yield

    def _last(self) -> AuditEntry | None:
        """The last sound entry; a torn line after it is cut off, and files with a changed end are moved aside."""
        for path in reversed(self.files):
            with path.open("r+b", buffering=0) as file:
                state = os.fstat(file.fileno())
                if not stat.S_ISREG(state.st_mode):
                    raise OSError(errno.EINVAL, "it is not a regular file")
                end = _whole_end(file, state.st_size, self.installation)
                if end is not None and end[1] < state.st_size:
                    _GAPS.setdefault(self.path, {})["cut_bytes"] = state.st_size - end[1]
                    file.truncate(end[1])
            if end is None:
                self._move_aside(path)
            elif end[0] is not None:
                return end[0]
        return None

    def _close_full_file(self) -> None:
        if self.path.exists() and self.path.stat().st_size >= FILE_BYTES:
            closed = [path for path in self.files if path != self.path]
            number = int(closed[-1].stem[-_DIGITS:]) + 1 if closed else 1
            with suppress(PermissionError):  # Windows, while somebody reads it; a later entry tries again
                self.path.rename(self.path.with_name(f"{self.path.stem}.{number:0{_DIGITS}}{self.path.suffix}"))

    def _chained(
        self, last: AuditEntry | None, events: list[tuple[str, Mapping[str, Detail]]], moment: str
    ) -> list[AuditEntry]:
        number, previous = (last.number + 1, last.sha256) if last else (0, START)
        entries: list[AuditEntry] = []
        for event, details in events:
            if last and datetime.fromisoformat(moment) + _CLOCK_SLACK < last.when:
                details = {**details, CLOCK_BACK: last.moment}
            entries.append(sealed(number + len(entries), moment, event, details, previous, self.installation))
            previous = entries[-1].sha256
        return entries

    def _gone(self, last: AuditEntry | None) -> dict[str, Detail]:
        """What a new entry has to say about earlier ones that are no longer in the log."""
        if self.installation is None:
            return {}
        count = last.number + 1 if last else 0
        try:
            head = self.installation.head_of(self.path)
        except UnreadableFile:
            return {"head": "changed"}
        if head is None:
            return {"head": "missing"} if isinstance(last, SignedEntry) and last.key == self.installation.name else {}
        return {"missing_entries": head.count - count, "their_head": head.sha256} if head.count > count else {}

    def _keep_head(self, last: AuditEntry) -> None:
        if self.installation is not None:
            with suppress(OSError):  # the next entry keeps it
                self.installation.keep_head(self.path, Head(last.number + 1, last.sha256))

    def _move_aside(self, path: Path) -> None:
        """Keep a file with a changed end as evidence, so that the log can be continued."""
        names = (f"{path.name}.damaged{number or ''}" for number in range(10_000))
        aside = next(one for one in map(path.with_name, names) if not one.exists())
        path.rename(aside)
        _GAPS.setdefault(self.path, {})["changed_log_kept_as"] = aside.name

    def erase(self, concerns: Callable[[AuditEntry], bool]) -> int:
        """Leave only a hash of what entries say; the chain still verifies.

        Args:
            concerns: Which entries; those without a signature of this installation stay as they are.

        Returns:
            How many entries that concern the subject could not be erased.

        Raises:
            UnreadableFile: If the log was changed.
            UnwritableFile: If it cannot be written.
        """
        if self.installation is None or not self.files:
            return 0
        with self._held():
            verdict = self.verify()
            if not verdict.intact:
                raise UnreadableFile(f"{self.path} was changed, so nothing in it is erased. {verdict.problem}")
            return sum(self._erase_in(path, self.installation, concerns) for path in self.files)

    def _erase_in(self, path: Path, own: Installation, concerns: Callable[[AuditEntry], bool]) -> int:
        lines, kept, changed = list[bytes](), 0, False
        with open_regular(path) as file:
            entries = [parsed(line, None) for line in _lines_of(file)]
        for entry in entries:
            chosen = not is_erased(entry) and concerns(entry)
            ours = isinstance(entry, SignedEntry) and entry.key == own.name
            kept += chosen and not ours
            changed |= chosen and ours
            lines.append(line_of(erased(entry, own) if chosen and isinstance(entry, SignedEntry) and ours else entry))
        if changed:
            atomic_write(path, lines)
        return kept

    @property
    def files(self) -> list[Path]:
        """The log's files, oldest first: those that are full, then the one that grows, if it is there."""
        pattern = f"{escape(self.path.stem)}.{'[0-9]' * _DIGITS}{escape(self.path.suffix)}"
        return [*sorted(self.path.parent.glob(pattern)), *([self.path] if self.path.exists() else [])]

    def entries(self) -> Iterator[AuditEntry]:
        """All entries in order, unverified.

        Raises:
            UnreadableFile: At the first line that is not an entry.
        """
        number = 0
        with ExitStack() as stack:
            for file in self._opened(stack):
                for line in _lines_of(file):
                    yield parsed(line, number)
                    number += 1

    def _opened(self, stack: ExitStack) -> Sequence[BinaryIO]:
        while True:
            paths = self.files
            try:
                opened = [stack.enter_context(open_regular(path)) for path in paths]
            except UnreadableFile:
                if paths == self.files:
                    raise
                opened = []
            if paths == self.files:  # else a full file was renamed meanwhile
                return opened
            stack.pop_all().close()

    def verify(self, expected_head: str | None = None) -> AuditVerdict:
        """Follow the chain from the start, and compare its end with what the installation remembers.

        Args:
            expected_head: The hash that an earlier verification gave; it must still occur in the chain.
        """
        own, kept, problem = self.installation, None, ""
        try:
            kept = own.head_of(self.path) if own else None
        except UnreadableFile as error:
            problem = str(error)
        wanted = {sha256 for sha256 in (expected_head, kept and kept.sha256) if sha256 not in (None, START)}
        previous, count, signed, unverified, gaps = START, 0, False, 0, list[int]()
        try:
            for entry in self.entries():
                wrong = problem_of(entry, count, previous, own, signed)
                if wrong:
                    return AuditVerdict(False, count, previous, wrong, tuple(gaps), unverified)
                previous, count = entry.sha256, count + 1
                ours = isinstance(entry, SignedEntry) and own is not None and entry.key == own.name
                signed, unverified = signed or isinstance(entry, SignedEntry), unverified + (not ours)
                gaps += [entry.number] if entry.event == GAP else []
                wanted.discard(entry.sha256)
        except UnreadableFile as error:
            return AuditVerdict(False, count, previous, str(error), tuple(gaps), unverified)
        if not problem and kept and kept.count > count:
            problem = f"The log has {count} entries, but {kept.count} were written: entries were cut off or removed."
        elif not problem and wanted:
            missing = f"{sorted(wanted)[0][:12]}…"
            problem = f"The entry {missing} is missing: entries were cut off or the log was replaced."
        elif not problem and own and not kept and count > unverified:
            problem = f"How many entries were written is not known: {own.head_file(self.path).name} is missing."
        return AuditVerdict(not problem, count, previous, problem, tuple(gaps), unverified)


def _lines_of(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.readline(LINE_BYTES_AT_MOST + 1), b"")


def _remember(path: Path, event: str) -> None:
    gap = _GAPS.setdefault(path, {})
    gap["not_written"] = int(gap.get("not_written") or 0) + 1
    gap["events"] = plain_line(", ".join(filter(None, (str(gap.get("events", "")), event))), TEXT_LIMIT)


def _whole_end(file: FileIO, size: int, own: Installation | None) -> tuple[AuditEntry | None, int] | None:
    """The last entry and where it ends, from the end of the file alone; None if that entry was changed."""
    start = max(0, size - 2 * LINE_BYTES_AT_MOST)
    file.seek(start)
    tail = file.read(size - start)
    whole = tail[: tail.rfind(b"\n") + 1]
    if not whole:
        return (None, 0) if start == 0 else None
    try:
        entry = parsed(whole.splitlines(keepends=True)[-1], None)
    except UnreadableFile:
        return None
    return None if problem_of(entry, entry.number, entry.previous, own) else (entry, start + len(whole))


def _write_whole(file: FileIO, content: bytes, size: int) -> None:
    """Write all of it, or cut the file back to what it was."""
    try:
        while content:
            content = content[file.write(content) or 0 :]
        os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            file.truncate(size)
        raise


def _cleaned(value: Detail) -> Detail:
    if isinstance(value, str):
        return plain_line(value, TEXT_LIMIT)
    if isinstance(value, float) and not abs(value) < float("inf"):
        raise InvalidOptions(f"Found the detail {value}; a log entry takes finite numbers.")
    return value
