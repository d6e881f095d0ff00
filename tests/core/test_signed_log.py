"""A signed log: whoever has no key can change nothing in it unseen, and what is appended survives crashes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from core.disk_limits import file_size_limit

from metalora_core.files.atomic import UnwritableFile
from metalora_core.provenance import audit_log
from metalora_core.provenance.audit_entry import SignedEntry
from metalora_core.provenance.audit_log import CLOCK_BACK, GAP, AuditLog
from metalora_core.provenance.installation import Installation

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
COUNT = 12
EDITS = 100


def log_in(folder: Path) -> AuditLog:
    return AuditLog(folder / "audit.jsonl", Installation(folder / "user"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditLog, list[bytes]]:
    log = log_in(tmp_path_factory.mktemp("log"))
    for number in range(COUNT):
        log.append("adapted", {"steps": number, "name": "the müg"}, NOW)
    return log, log.path.read_bytes().splitlines(keepends=True)


def any_byte(lines: list[bytes], chance: random.Random) -> bytes:
    content = bytearray(b"".join(lines))
    place = chance.randrange(len(content))
    content[place] ^= chance.randrange(1, 256)
    return bytes(content)


def white_space(lines: list[bytes], chance: random.Random) -> bytes:
    content = b"".join(lines)
    place = chance.choice([i + 1 for i, byte in enumerate(content) if byte in b"{,:"])
    return content[:place] + chance.choice([b" ", b"\t", b"\n"]) + content[place:]


def second_key(lines: list[bytes], chance: random.Random) -> bytes:
    place = chance.randrange(COUNT)
    doubled = lines[place].replace(b'{"details"', b'{"event":"exported","details"')
    return b"".join([*lines[:place], doubled, *lines[place + 1 :]])


def removed(lines: list[bytes], chance: random.Random) -> bytes:
    place = chance.randrange(COUNT)
    return b"".join(lines[:place] + lines[place + 1 :])


def exchanged(lines: list[bytes], chance: random.Random) -> bytes:
    one, other = chance.sample(range(COUNT), 2)
    lines = list(lines)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def doubled(lines: list[bytes], chance: random.Random) -> bytes:
    place = chance.randrange(COUNT)
    return b"".join([*lines[: place + 1], *lines[place:]])


def truncated(lines: list[bytes], chance: random.Random) -> bytes:
    content = b"".join(lines)
    at_a_line = chance.random() < 0.5
    return b"".join(lines[: chance.randrange(COUNT)]) if at_a_line else content[: chance.randrange(len(content))]


def chained_again(lines: list[bytes], chance: random.Random) -> bytes:
    """A log written afresh by somebody who knows the format but not the key, from a random entry on."""
    start, keys = chance.randrange(COUNT), chance.choice(["kept", "other", "none"])
    entries = [json.loads(line) for line in lines]
    previous = entries[start]["previous"]
    entries[start]["details"]["steps"] = 99
    for entry in entries[start:]:
        if keys == "other":
            entry["key"] = "0" * 16
        elif keys == "none":
            del entry["key"], entry["signature"]
        fields = {name: value for name, value in entry.items() if name not in ("sha256", "signature")}
        fields["previous"] = previous
        if keys != "none":
            details = json.dumps(entry["details"], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            fields["details"] = hashlib.sha256(details.encode()).hexdigest()
        text = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        entry |= {"previous": previous, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        previous = entry["sha256"]
    texts = [json.dumps(entry, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for entry in entries]
    return "".join(f"{text}\n" for text in texts).encode()


@pytest.mark.parametrize(
    "edit", [any_byte, white_space, second_key, removed, exchanged, doubled, truncated, chained_again]
)
def test_every_one_of_a_hundred_random_edits_is_found(
    written: tuple[AuditLog, list[bytes]], edit: Callable[[list[bytes], random.Random], bytes]
) -> None:
    log, lines = written
    assert log.verify().intact and log.verify().unverified == 0
    chance = random.Random(f"{edit.__name__} of a log")
    try:
        for number in range(EDITS):
            changed = edit(lines, chance)
            assert changed != b"".join(lines)
            log.path.write_bytes(changed)
            verdict = log.verify()
            assert not verdict.intact and verdict.problem, (edit.__name__, number)
            assert b"".join(lines).startswith(b"".join(changed.splitlines(keepends=True)[: verdict.entries])) or (
                edit is chained_again
            ), "what is called sound was not changed"
    finally:
        log.path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("how", ["emptied", "removed", "head changed", "head removed"])
def test_emptying_and_removal_are_found_and_the_next_entry_says_so(tmp_path: Path, how: str) -> None:
    log = log_in(tmp_path)
    for number in range(3):
        log.append("adapted", {"steps": number}, NOW)
    head = Installation(tmp_path / "user").head_file(log.path)
    if how == "emptied":
        log.path.write_bytes(b"")
    elif how == "removed":
        log.path.unlink()
    elif how == "head changed":
        head.write_bytes(head.read_bytes().replace(b'"count": 3', b'"count": 2'))
    else:
        head.unlink()
    verdict = log.verify()
    assert not verdict.intact and verdict.problem
    log.append("applied", {}, NOW)
    assert log.gap is not None and log.gap.event == GAP
    known = {"emptied": "missing_entries", "removed": "missing_entries"}.get(how, "head")
    assert known in log.gap.details
    after = log.verify()
    assert after.intact and after.gaps == (log.gap.number,)


def test_a_log_of_an_earlier_release_is_continued_and_verifies(tmp_path: Path) -> None:
    plain = AuditLog(tmp_path / "audit.jsonl")
    plain.append("adapted", {}, NOW)
    log = log_in(tmp_path)
    assert log.verify().intact
    log.append("applied", {}, NOW)
    verdict = log.verify()
    assert (verdict.intact, verdict.entries, verdict.unverified) == (True, 2, 1)
    assert [isinstance(entry, SignedEntry) for entry in log.entries()] == [False, True]


def test_another_installation_reads_the_chain_and_says_what_it_cannot_verify(tmp_path: Path) -> None:
    log_in(tmp_path).append("adapted", {}, NOW)
    other = AuditLog(tmp_path / "audit.jsonl", Installation(tmp_path / "other"))
    assert (other.verify().intact, other.verify().unverified) == (True, 1)
    other.append("applied", {}, NOW)
    assert other.gap is None
    assert (log_in(tmp_path).verify().intact, log_in(tmp_path).verify().unverified) == (True, 1)


def test_a_clock_that_went_back_is_marked_and_a_small_difference_is_not(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.append("adapted", {}, NOW)
    assert CLOCK_BACK not in log.append("applied", {}, NOW - timedelta(seconds=30)).details
    marked = log.append("applied", {}, NOW - timedelta(days=30))
    assert marked.details[CLOCK_BACK] == (NOW - timedelta(seconds=30)).isoformat()
    assert log.verify().intact


def _append_thousand(folder: str) -> None:
    # On a real disk a sync takes most of the time; what is tried here is the company, not the disk.
    os.fsync = lambda _descriptor: None  # type: ignore[assignment]
    audit_log.LOCK_SECONDS = 60.0
    log = log_in(Path(folder))
    for _ in range(1000):
        log.append("applied", {"process": os.getpid()}, NOW)


@pytest.mark.slow
def test_eight_processes_append_a_thousand_entries_each_and_none_is_lost(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8) as pool:
        list(pool.map(_append_thousand, [str(tmp_path)] * 8))
    log = log_in(tmp_path)
    verdict = log.verify()
    assert (verdict.intact, verdict.entries, verdict.gaps, verdict.unverified) == (True, 8000, (), 0)
    counts: dict[object, int] = {}
    for entry in log.entries():
        counts[entry.details["process"]] = counts.get(entry.details["process"], 0) + 1
    assert sorted(counts.values()) == [1000] * 8


_ENDLESS = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from metalora_core.provenance.audit_log import AuditLog
from metalora_core.provenance.installation import Installation
log = AuditLog(Path(sys.argv[1]) / "audit.jsonl", Installation(Path(sys.argv[1]) / "user"))
print("begun", flush=True)
while True:
    log.append("applied", {"name": "n" * 900}, datetime.now(timezone.utc))
"""


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX systems do")
def test_killed_in_mid_append_the_chain_is_valid_and_goes_on(tmp_path: Path) -> None:
    chance = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", _ENDLESS, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        time.sleep(0.05 + chance.random() / 10)
        process.kill()
        process.wait()
        process.stdout.close()
        log = log_in(tmp_path)
        log.append("after", {}, datetime.now(timezone.utc))
        assert log.verify().intact
    assert sum(entry.event == "after" for entry in log_in(tmp_path).entries()) == 3


@pytest.mark.parametrize("room", [0, 1, 50, 200, 700])
def test_a_disk_that_fills_up_leaves_a_signed_chain_that_goes_on(tmp_path: Path, room: int) -> None:
    log = log_in(tmp_path)
    log.append("adapted", {}, NOW)
    before = log.path.read_bytes()
    with file_size_limit(len(before) + room), pytest.raises(UnwritableFile):
        log.append("applied", {"name": "n" * 900}, NOW)
    assert log.path.read_bytes() == before and log.verify().intact
    log.append("applied", {}, NOW)
    verdict = log.verify()
    assert verdict.intact and verdict.unverified == 0


def test_a_log_and_its_installation_move_together(tmp_path: Path) -> None:
    log_in(tmp_path / "here").append("adapted", {"steps": 1}, NOW)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = log_in(tmp_path / "there")
    assert moved.verify().intact
    moved.append("adapted", {"steps": 2}, NOW)
    assert [entry.event for entry in moved.entries()] == ["adapted", "adapted"]


def test_a_key_is_made_where_files_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    log = log_in(tmp_path)
    log.append("adapted", {}, NOW)
    assert log.verify().unverified == 0
    assert not list((tmp_path / "user").glob("*.tmp"))


@pytest.fixture
def rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    monkeypatch.setattr(audit_log, "FILE_BYTES", 900)
    log = log_in(tmp_path)
    for number in range(COUNT):
        log.append("adapted", {"steps": number, "name": "the müg"}, NOW)
    assert len(log.files) > 3 and all(path.stat().st_size < 1900 for path in log.files)
    return log


def test_a_log_of_several_files_is_one_chain_in_which_a_hundred_random_edits_are_found(rotated: AuditLog) -> None:
    verdict = rotated.verify()
    assert (verdict.intact, verdict.entries, verdict.unverified, verdict.gaps) == (True, COUNT, 0, ())
    assert [entry.details["steps"] for entry in rotated.entries()] == list(range(COUNT))
    kept, chance = {path: path.read_bytes() for path in rotated.files}, random.Random("several files")
    for number in range(EDITS):
        one, other = chance.sample(sorted(kept), 2)
        how = chance.choice(["byte", "cut", "empty", "remove", "exchange", "copy"])
        if how == "byte":
            content = bytearray(kept[one])
            content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
            one.write_bytes(content)
        elif how == "cut":
            one.write_bytes(kept[one][: chance.randrange(len(kept[one]))])
        elif how == "empty":
            one.write_bytes(b"")
        elif how == "remove":
            one.unlink()
        else:
            one.write_bytes(kept[other])
            other.write_bytes(kept[one] if how == "exchange" else kept[other])
        verdict = rotated.verify()
        assert not verdict.intact and verdict.problem, (number, how, one.name)
        for path, content in kept.items():
            path.write_bytes(content)
    assert rotated.verify().intact


def test_the_next_entry_continues_a_log_without_its_newest_file_and_says_so(rotated: AuditLog) -> None:
    rotated.files[-1].unlink()
    rotated.append("after", {}, NOW)
    assert rotated.gap is not None and rotated.gap.details["missing_entries"] and rotated.verify().intact


def test_erasing_reaches_every_file_and_no_file_is_open_while_it_is_replaced(
    rotated: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, replaced = os.replace, list[str]()

    def as_windows_needs_it(new: Path, path: Path) -> None:
        held = {os.path.realpath(link) for link in Path("/proc/self/fd").glob("*")}
        assert os.path.realpath(path) not in held
        replaced.append(Path(path).name)
        replace(new, path)

    monkeypatch.setattr(os, "replace", as_windows_needs_it)
    before = {path.name: path.read_bytes() for path in rotated.files}
    assert rotated.erase(lambda entry: entry.details.get("steps") in (0, COUNT - 1)) == 0
    first, *_, last = [path.name for path in rotated.files]
    assert replaced == [first, last], "files without such an entry stay as they are"
    assert b'"steps":0' not in b"".join(path.read_bytes() for path in rotated.files)
    assert sum(path.read_bytes() == before[path.name] for path in rotated.files) == len(before) - 2
    assert rotated.verify().intact


def _append_to_small_files(folder: str) -> None:
    audit_log.FILE_BYTES, audit_log.LOCK_SECONDS = 1500, 60.0  # type: ignore[misc]
    log = log_in(Path(folder))
    for _ in range(25):
        log.append("applied", {"process": os.getpid()}, NOW)
        assert log.verify().intact, "who reads while another file is begun is not misled"


def test_processes_that_begin_new_files_together_lose_no_entry(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(_append_to_small_files, [str(tmp_path)] * 3))
    verdict = log_in(tmp_path).verify()
    assert (verdict.intact, verdict.entries, verdict.gaps) == (True, 75, ()) and len(log_in(tmp_path).files) > 10
