"""One operation, broken off and started again at many moments, and what that cost."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fault.full_disk import SmallDisk
from fault.moments import DONE, EXPLAINED, Moment, kill, measured, run, terminate
from fault.operations import LOG, OPERATIONS, is_file_of

from metalora_core.files.sweep import sweep
from metalora_core.provenance.audit_log import AuditLog

KILLS, TERMINATIONS, DISK_FULL = "kills", "terminations", "disk_full"
ENDS = {KILLS: (DONE, -9), TERMINATIONS: (DONE, EXPLAINED, -15), DISK_FULL: (DONE, EXPLAINED)}
"""How a run that is broken off may end."""

COUNTS = (*ENDS, "broken_off", "lost", "half_written", "not_bit_identical", "left_over_files", "unexplained_errors")


@dataclass
class Findings:
    """What was tried, and what was wrong.

    Attributes:
        counts: By the names of `COUNTS`; the moments of each kind, and how many of them the operation did not outrun.
        told: Each finding in words.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    told: list[str] = field(default_factory=list[str])

    def add(self, kind: str, text: str) -> None:
        """Note something wrong."""
        self.counts[kind] += 1
        self.told.append(f"{kind}: {text}")


@dataclass(frozen=True)
class Unbroken:
    """A run of an operation that nothing breaks off.

    Attributes:
        seconds: It took.
        calls: Of the file system, in its folder.
        new: The files that it made, by name.
    """

    seconds: float
    calls: int
    new: dict[str, bytes]

    @staticmethod
    def of(name: str, inputs: Path) -> Unbroken:
        """Run an operation; see `make_inputs` for its inputs."""
        folder, operation = inputs.parent / name, OPERATIONS[name]
        folder.mkdir()
        operation.prepare(folder, inputs)
        seconds, calls = measured(lambda: operation.run(folder, inputs), folder)
        return Unbroken(
            seconds, calls, {path.name: path.read_bytes() for path in folder.iterdir() if operation.promises(path)}
        )


class Breaker:
    """Breaks one operation off, again and again.

    Args:
        name: Of the operation.
        unbroken: What it has to come to.
        kind: KILLS, TERMINATIONS or DISK_FULL.
        disk: Where it writes; only for DISK_FULL it has to be a small one.
        inputs: See `make_inputs`.
        found: Where findings go.
    """

    def __init__(
        self, name: str, unbroken: Unbroken, kind: str, disk: SmallDisk, inputs: Path, found: Findings
    ) -> None:
        self.name, self.kind, self.operation, self.inputs, self.found = name, kind, OPERATIONS[name], inputs, found
        self.disk, self.folder, self.unbroken, self.new = disk, disk.folder / "out", unbroken, unbroken.new

    def _work(self) -> None:
        self.operation.run(self.folder, self.inputs)

    def _begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.older = self.operation.prepare(self.folder, self.inputs)

    def break_off(self, random: Random) -> None:
        """One run that is broken off, and the one after it."""
        reached = 0

        def happens(process: int) -> None:
            nonlocal reached
            if process:  # a process that ends itself cannot say how far it came
                reached = self._progress() or 0
            if self.kind == DISK_FULL:
                self.disk.fill(left, process)
            else:
                (kill if self.kind == KILLS else terminate)(process)

        self._begin()
        used = sum(map(len, self.new.values()))
        left = random.choice((0, random.randrange(used), random.randrange(6 * used)))
        call, seconds = 1 + random.randrange(self.unbroken.calls), random.random() * self.unbroken.seconds
        by_call = random.random() < 0.5
        ended = run(self._work, self.folder, Moment(happens, seconds, call if by_call else 0))
        self.found.counts[self.kind] += 1
        self.found.counts["broken_off"] += ended.code != DONE
        place = f"{self.name}, {self.kind} " + (f"before call {call}" if by_call else f"after {seconds:.3f} s")
        if ended.code not in ENDS[self.kind]:
            self.found.add("unexplained_errors", f"{place}: ended with {ended.code}. {ended.printed[-1500:]}")
        self._check_broken_off(place, reached)
        self.disk.empty()
        self._start_again(place)

    def _progress(self) -> int | None:
        """How much is safely on the disk; None if a file on the way there is damaged."""
        try:
            return self.operation.progress(self.folder, self.new)
        except Exception:  # noqa: BLE001 - whatever a reader raises; a run that goes on may also take the file away
            return None

    def _check_broken_off(self, place: str, reached: int) -> None:
        for path in self.folder.iterdir():
            # A checkpoint may have files beside it, under longer names.
            passing = path.name.startswith((self.operation.grows or ".metalora-", ".metalora-"))
            passing |= not self.operation.promises(path)
            if not passing and path.read_bytes() not in (self.older.get(path.name), self.new.get(path.name)):
                self.found.add("half_written", f"{place}: {path.name}")
        kept = self._progress()
        if kept is None:
            self.found.add("half_written", f"{place}: {self.operation.grows}")
        elif kept < reached or any(not (self.folder / name).exists() for name in self.older):
            self.found.add("lost", f"{place}: {reached} was done, {kept} is left of it; older files: {[*self.older]}")

    def _start_again(self, place: str) -> None:
        before = {path.name for path in self.folder.iterdir()}
        ended = run(self._work, self.folder)
        if ended.code != DONE:
            self.found.add("lost", f"{place}: started again it ended with {ended.code}. {ended.printed[-1500:]}")
        for name, content in self.new.items():
            path, whole = self.folder / name, self.operation.whole if name == self.operation.grows else None
            if not (whole(path) if whole else is_file_of(path, content)):
                self.found.add("not_bit_identical", f"{place}: {name}")
        if self.kind != DISK_FULL:  # which leaves the process time to clear up
            self._sweep_a_week_later(before)
        if left := sorted(
            {path.name for path in self.folder.iterdir() if self.operation.promises(path)} - self.new.keys()
        ):
            self.found.add("left_over_files", f"{place}: {left}")
        if not (verdict := AuditLog(self.folder / LOG).verify()).intact:
            self.found.add("half_written", f"{place}: {LOG}: {verdict.problem}")

    def _sweep_a_week_later(self, before: set[str]) -> None:
        moment = time.time() - 8 * 86400
        for folder in (self.folder / name for name in before - self.new.keys()):
            for path in (*folder.rglob("*"), folder):
                if path.exists():
                    os.utime(path, (moment, moment))
        sweep([self.folder], days=7)
