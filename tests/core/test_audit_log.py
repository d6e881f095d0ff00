"""Any change to the audit log shows."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalora_core.errors import InvalidOptions, UnreadableFile
from metalora_core.files.atomic import UnwritableFile
from metalora_core.provenance.audit_log import AuditLog

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


def test_nothing_is_added_to_a_damaged_end(tmp_path: Path):
    log = filled(tmp_path / "audit.jsonl", 2)
    log.path.write_bytes(log.path.read_bytes()[:-10])
    damaged = log.path.read_bytes()
    with pytest.raises(UnreadableFile, match="last line"):
        log.append("applied", {}, NOW)
    assert log.path.read_bytes() == damaged


def _append_ten(path: str) -> None:
    for _ in range(10):
        AuditLog(path).append("applied", {}, NOW)


def test_processes_can_write_at_the_same_time(tmp_path: Path):
    path = tmp_path / "audit.jsonl"
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_append_ten, [str(path)] * 2))
    verdict = AuditLog(path).verify()
    assert (verdict.intact, verdict.entries) == (True, 20)


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
