"""A consent record permits what it says and nothing else, and cannot be changed unseen."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalora_core.errors import ConsentRefused, InvalidOptions, UnreadableFile
from metalora_core.provenance.consent import ConsentRecord, PhotoPermission, Purpose, record_consent
from metalora_core.provenance.consent_check import check_consent
from metalora_core.provenance.consent_store import ConsentStore, read_record

START = datetime(2030, 1, 1, tzinfo=timezone.utc)
END = datetime(2031, 1, 1, tzinfo=timezone.utc)
DURING = datetime(2030, 6, 1, tzinfo=timezone.utc)
ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


def consent(**changes: Any) -> ConsentRecord:
    entries: dict[str, Any] = {
        "subject": "the mug",
        "kind": "product",
        "granted_by": "the potter",
        "basis": "own work",
        "purposes": ["training", "generation"],
        "valid_from": START,
        "expires": END,
        "photos": [PhotoPermission(sha256=ONE), PhotoPermission(sha256=TWO, purposes=(Purpose.TRAINING,))],
    }
    return record_consent(**(entries | changes))


def test_what_is_covered_passes():
    check_consent(consent(), [ONE, TWO], Purpose.TRAINING, DURING)
    check_consent(consent(), [ONE], Purpose.GENERATION, START)
    check_consent(consent(photo_scope="any", expires=None), [ONE, THREE], Purpose.GENERATION, END)


@pytest.mark.parametrize(
    ("photos", "purpose", "now", "reason"),
    [
        ([ONE], Purpose.TRAINING, END, "expired on 2031-01-01"),
        ([ONE], Purpose.TRAINING, START - timedelta(seconds=1), "starts on 2030-01-01"),
        ([ONE], Purpose.COMMERCIAL, DURING, "permits generation, training, but not commercial"),
        ([ONE, THREE], Purpose.TRAINING, DURING, r"does not cover photo 2 \(33333"),
        ([ONE, TWO], Purpose.GENERATION, DURING, r"does not permit generation with photo 2 \(22222"),
    ],
)
def test_what_is_not_covered_is_refused_in_words(photos: list[str], purpose: Purpose, now: datetime, reason: str):
    with pytest.raises(ConsentRefused, match=reason) as refusal:
        check_consent(consent(), photos, purpose, now)
    assert "the potter" in str(refusal.value)


def test_a_missing_record_is_refused():
    with pytest.raises(ConsentRefused, match="Record Consent"):
        check_consent(None, [ONE], Purpose.TRAINING, DURING)


def test_a_refused_photo_outweighs_an_open_record():
    refused = [PhotoPermission(sha256=ONE, permission="refused")]
    with pytest.raises(ConsentRefused, match="refuses photo 1"):
        check_consent(consent(photo_scope="any", photos=refused), [ONE], Purpose.TRAINING, DURING)


def test_all_reasons_are_told_at_once():
    with pytest.raises(ConsentRefused, match=r"expired.*not sharing.*does not cover photo 1"):
        check_consent(consent(), [THREE], Purpose.SHARING, END)


@settings(deadline=None, max_examples=50)
@given(moment=st.datetimes(min_value=datetime(2029, 1, 1), max_value=datetime(2032, 1, 1), timezones=st.timezones()))
def test_validity_is_a_half_open_interval_in_any_time_zone(moment: datetime):
    valid = START <= moment < END
    try:
        check_consent(consent(), [ONE], Purpose.TRAINING, moment)
    except ConsentRefused:
        assert not valid
    else:
        assert valid


def test_the_same_content_has_the_same_id_in_any_order_and_zone():
    elsewhere = timezone(timedelta(hours=9))
    again = consent(
        purposes=[Purpose.GENERATION, "training", "training"],
        valid_from=START.astimezone(elsewhere),
        photos=list(reversed(consent().photos)),
    )
    assert again == consent()
    assert consent(subject="another mug").id != consent().id


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"subject": ""}, "subject"),
        ({"subject": "\x00 \u202e"}, "subject"),
        ({"granted_by": "x" * 500}, "granted_by.*500 characters"),
        ({"kind": "ghost"}, "kind"),
        ({"purposes": []}, "purposes"),
        ({"purposes": ["anything"]}, "purposes"),
        ({"expires": START}, "not after it begins"),
        ({"valid_from": datetime(2030, 1, 1)}, "valid_from.*timezone"),
        ({"photos": [PhotoPermission(sha256=ONE), PhotoPermission(sha256=ONE)]}, "listed twice"),
    ],
)
def test_wrong_entries_are_refused_in_words(changes: dict[str, Any], found: str):
    with pytest.raises(InvalidOptions, match=found):
        consent(**changes)


def test_hostile_text_is_cleaned():
    assert consent(subject="a\x1b[31m\nmug\u202e").subject == "a [31m mug"


def test_saved_and_loaded_is_the_same_and_saved_again_the_same_bytes(tmp_path: Path):
    store = ConsentStore(tmp_path / "identities")
    path = store.save(consent())
    before = path.read_bytes()
    assert store.load(consent().id) == consent()
    assert store.save(store.load(consent().id)).read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert store.list() == (consent(),)


@pytest.mark.parametrize(
    "change",
    [
        {"expires": "2099-01-01T00:00:00Z"},
        {"purposes": ["commercial", "generation", "training"]},
        {"photo_scope": "any"},
        {"photos": []},
        {"id": "0" * 64},
        {"surplus": 1},
        {"format_version": 2},
    ],
)
def test_a_changed_file_is_refused(tmp_path: Path, change: dict[str, Any]):
    path = ConsentStore(tmp_path).save(consent())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UnreadableFile, match="Restore the file"):
        ConsentStore(tmp_path).load(consent().id)


def test_a_record_under_another_name_is_refused(tmp_path: Path):
    store = ConsentStore(tmp_path)
    store.save(consent()).rename(store.path_of(ONE))
    with pytest.raises(UnreadableFile, match="does not match its name"):
        store.load(ONE)


@pytest.mark.parametrize(
    "consent_id", ["", "../secret", "1" * 63, "1" * 64 + "\n", "A" * 64, "/etc/passwd", "1" * 64 + "/.."]
)
def test_no_other_id_becomes_a_path(tmp_path: Path, consent_id: str):
    with pytest.raises(ConsentRefused, match="is not valid"):
        ConsentStore(tmp_path).path_of(consent_id)


def test_missing_damaged_and_endless_files(tmp_path: Path):
    store = ConsentStore(tmp_path)
    with pytest.raises(ConsentRefused, match="Consent record 111111111111"):
        store.load(ONE)
    for content in (b"", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (5 * 1024 * 1024)):
        store.path_of(ONE).write_bytes(content)
        with pytest.raises(UnreadableFile):
            read_record(store.path_of(ONE))
        assert store.list() == ()


def test_a_record_with_evidence_is_of_version_2_and_one_without_keeps_its_bytes_and_id(tmp_path: Path):
    plain, store = consent(), ConsentStore(tmp_path)
    assert plain.format_version == 1 and b"evidence" not in plain.to_json()
    told = {"evidence": "form.pdf", "channels": "website", "registry_id": "CR-1", "recorded_by": "Office"}
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    full = consent(**told, recorded_at=moment)
    assert full.format_version == 2 and full.id != plain.id
    store.save(full)
    read = store.load(full.id)
    assert read == full and {name: getattr(read, name) for name in told} == told and read.recorded_at == moment
    fields = json.loads(full.to_json())
    for change in ({"channels": "print"}, {"format_version": 1}, {"recorded_at": None}):
        store.path_of(full.id).write_text(json.dumps(fields | change), encoding="utf-8")
        with pytest.raises(UnreadableFile, match=r"changed after it was recorded|version 1 has no"):
            store.load(full.id)
