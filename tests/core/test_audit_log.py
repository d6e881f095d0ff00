"""Any change to the audit log shows."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest
from core.disk_limits import file_size_limit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalora_core.errors import InvalidOptions
from metalora_core.files.atomic import UnwritableFile
from metalora_core.provenance import audit_log
from metalora_core.provenance.audit_log import GAP, AuditLog

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


def filled(path: Path, count: int = 5) -> AuditLog:
    log = AuditLog(path)
    for number in range(count):
        log.append("adapted", {"steps": number, "name": "the mug"}, NOW)
    return log


def test_an_untouched_log_is_intact(tmp_path: Path):
    log = filled(tmp_path / "deeper" / "audit.jsonl")
    verdict = log.verify()
    assert (verdict.intact, verdict.entries, verdict.problem) == (True, 5, "")
    assert verdict.head == list(log.entries())[-1].sha256
    assert AuditLog(tmp_path / "none.jsonl").verify().intact


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(data=st.data())
def test_any_changed_byte_is_found(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "audit.jsonl"
    path.unlink(missing_ok=True)
    log = filled(path, 3)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    path.write_bytes(content)
    same = [json.loads(line) for line in path.read_text(errors="replace").splitlines() if _is_json(line)]
    verdict = log.verify()
    # White space between two JSON marks carries no meaning; everything else must be noticed.
    assert not verdict.intact or len(same) == 3


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("place", range(5))
def test_a_changed_value_is_found_at_its_entry(tmp_path: Path, place: int):
    log = filled(tmp_path / "audit.jsonl")
    lines = log.path.read_text().splitlines(keepends=True)
    lines[place] = lines[place].replace("the mug", "the jug")
    log.path.write_text("".join(lines))
    verdict = log.verify()
    assert (verdict.intact, verdict.entries) == (False, place)
    assert f"Entry {place} does not match its hash" in verdict.problem


@pytest.mark.parametrize("change", ["removed", "exchanged", "repeated", "cut inside"])
def test_missing_exchanged_and_added_entries_are_found(tmp_path: Path, change: str):
    log = filled(tmp_path / "audit.jsonl")
    lines = log.path.read_bytes().splitlines(keepends=True)
    changed = {
        "removed": lines[:2] + lines[3:],
        "exchanged": [lines[0], lines[2], lines[1], *lines[3:]],
        "repeated": lines[:3] + lines[2:],
        "cut inside": [*lines[:4], lines[4][:40]],
    }[change]
    log.path.write_bytes(b"".join(changed))
    assert not log.verify().intact


def test_an_end_that_was_cut_off_is_found_with_the_earlier_head(tmp_path: Path):
    log = filled(tmp_path / "audit.jsonl")
    head = log.verify().head
    assert log.verify(expected_head=head).intact
    log.append("applied", {}, NOW)
    assert log.verify(expected_head=head).intact
    log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[:4]))
    assert log.verify().intact
    assert "entries were cut off" in log.verify(expected_head=head).problem


@pytest.mark.parametrize("end", [b"", b"{", b'{"number": 2, "mom', b"\0" * 4096, b"x" * 300_000])
@pytest.mark.parametrize("whole", [0, 2])
def test_a_torn_last_line_is_cut_off_and_the_gap_is_an_entry(tmp_path: Path, end: bytes, whole: int):
    log = filled(tmp_path / "audit.jsonl", whole)
    before = log.path.read_bytes() if whole else b""
    log.path.write_bytes(before + end)
    assert log.append("applied", {}, NOW).event == "applied"
    assert log.path.read_bytes().startswith(before) and log.verify().intact
    told = [(entry.event, dict(entry.details)) for entry in log.entries()][whole:]
    assert told == [*([(GAP, {"cut_bytes": len(end)})] if end else []), ("applied", {})]
    assert (log.gap is not None) == bool(end)
    log.append("applied", {}, NOW)
    assert log.gap is None and log.verify().intact


def test_a_log_cut_at_any_byte_goes_on(tmp_path: Path):
    log = filled(tmp_path / "audit.jsonl", 2)
    content = log.path.read_bytes()
    for length in range(0, len(content), 7):
        log.path.write_bytes(content[:length])
        log.append("applied", {}, NOW)
        assert log.verify().intact, length


@pytest.mark.parametrize("change", [(b"the mug", b"the jug"), (b"}\n", b"]\n"), (b"\n", b"\nnot an entry\n")])
def test_a_log_with_a_changed_end_is_kept_as_evidence_and_a_new_one_starts_with_the_gap(
    tmp_path: Path, change: tuple[bytes, bytes]
):
    for name in ("audit.jsonl.damaged", "audit.jsonl.damaged1"):
        log = filled(tmp_path / "audit.jsonl", 2)
        changed = log.path.read_bytes().replace(*change)
        log.path.write_bytes(changed)
        log.append("applied", {}, NOW)
        assert (tmp_path / name).read_bytes() == changed
        first, second = log.entries()
        assert (first.event, first.details, second.event) == (GAP, {"changed_log_kept_as": name}, "applied")
        assert log.verify().intact
        log.path.unlink()


def _append_ten(path: str) -> None:
    for _ in range(10):
        AuditLog(path).append("applied", {}, NOW)


def test_processes_can_write_at_the_same_time(tmp_path: Path):
    path = tmp_path / "audit.jsonl"
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(_append_ten, [str(path)] * 3))
    verdict = AuditLog(path).verify()
    assert (verdict.intact, verdict.entries) == (True, 30)


def test_processes_that_meet_a_changed_end_lose_nothing(tmp_path: Path):
    log = filled(tmp_path / "audit.jsonl", 2)
    log.path.write_bytes(log.path.read_bytes().replace(b"the mug", b"the jug"))
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(_append_ten, [str(log.path)] * 3))
    assert log.verify().intact
    assert [entry.event for entry in log.entries()].count("applied") == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".audit.jsonl.lock",
        "audit.jsonl",
        "audit.jsonl.damaged",
    ]


@pytest.mark.skipif(os.name != "posix", reason="takes the lock as POSIX systems do")
def test_a_held_lock_costs_two_seconds_at_most_and_the_gap_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import fcntl

    monkeypatch.setattr(audit_log, "LOCK_SECONDS", 0.2)
    log = filled(tmp_path / "audit.jsonl", 1)
    with log.path.with_name(".audit.jsonl.lock").open("rb") as other:
        fcntl.flock(other.fileno(), fcntl.LOCK_EX)
        for event in ("learned", "saved"):
            began = time.monotonic()
            with pytest.raises(UnwritableFile, match="another program held it"):
                log.append(event, {}, NOW)
            assert time.monotonic() - began < 1
    AuditLog(log.path).append("applied", {}, NOW)
    gap = list(log.entries())[1]
    assert (gap.event, gap.details) == (GAP, {"not_written": 2, "events": "learned, saved"})
    assert log.verify().intact


@pytest.mark.parametrize("room", [0, 1, 50, 200])
def test_a_disk_that_fills_up_in_an_entry_leaves_a_whole_chain(tmp_path: Path, room: int):
    log = filled(tmp_path / "audit.jsonl", 2)
    before = log.path.read_bytes()
    with file_size_limit(len(before) + room), pytest.raises(UnwritableFile, match="could not be written"):
        log.append("applied", {"name": "n" * 500}, NOW)
    assert log.path.read_bytes() == before
    log.append("applied", {}, NOW)
    assert [entry.event for entry in log.entries()][2:] == [GAP, "applied"] and log.verify().intact


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_place_of_the_log_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "audit.jsonl")
    log = AuditLog(tmp_path / "audit.jsonl")
    with pytest.raises(UnwritableFile, match="not a regular file"):
        log.append("applied", {}, NOW)
    assert not log.verify().intact


def test_texts_are_cleaned_and_bounded(tmp_path: Path):
    log = AuditLog(tmp_path / "audit.jsonl")
    entry = log.append("a\nb\x1b[0m", {"k\n": "x" * 5000, "n": 1, "none": None}, NOW)
    assert entry.event == "a b [0m"
    assert len(str(entry.details["k"])) == 1000
    assert len(log.path.read_bytes().splitlines()) == 1
    assert log.verify().intact


def test_wrong_entries_and_places_are_refused_in_words(tmp_path: Path):
    log = AuditLog(tmp_path / "audit.jsonl")
    with pytest.raises(InvalidOptions, match="time zone"):
        log.append("applied", {}, datetime(2030, 1, 1))
    with pytest.raises(InvalidOptions, match="finite"):
        log.append("applied", {"loss": float("nan")}, NOW)
    with pytest.raises(InvalidOptions, match="at most"):
        log.append("applied", {str(n): n for n in range(100)}, NOW)
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableFile, match="could not be written"):
        AuditLog(tmp_path / "file" / "audit.jsonl").append("applied", {}, NOW)
