"""Whatever ends a permission ends the use, and no identity loses the record that it was learned under."""

from __future__ import annotations

import json
import shutil
import stat
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from core.test_consent import consent

from metalora_core.commands import cli
from metalora_core.errors import ConsentRefused, DamagedFile, InvalidOptions, UnreadableFile
from metalora_core.files.identity import (
    Identity,
    IdentityLayer,
    IdentityMetadata,
    layers_sha256,
    load_identity,
    save_identity,
)
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata
from metalora_core.provenance.consent import ConsentRecord, PhotoPermission, Purpose
from metalora_core.provenance.consent_store import JOURNAL, ConsentStore
from metalora_core.provenance.installation import KEY_FILE, Installation
from metalora_core.provenance.people import is_person
from metalora_core.provenance.permission import PRIOR_TRAINED, Permissions, Use, shows_nobody, tied

OLD_FILES = Path(__file__).parents[1] / "fixtures" / "old_files"
NOW = datetime.now(timezone.utc)
PHOTO, OTHER = "1" * 64, "2" * 64


def grant(**changes: Any) -> ConsentRecord:
    terms: dict[str, Any] = {
        "subject": "Sample Person",
        "kind": "person",
        "granted_by": "Sample Person",
        "basis": "consent",
        "valid_from": NOW - timedelta(days=1),
        "expires": NOW + timedelta(days=1),
        "photos": [PhotoPermission(sha256=PHOTO)],
    }
    return consent(**(terms | changes))


@pytest.fixture
def known(tmp_path: Path) -> Permissions:
    return Permissions([tmp_path / "identities"], Installation(tmp_path / "user"))


def learned(consent_id: str | None = None, class_word: str = "person") -> tuple[Identity, Prior]:
    """An identity of a model that is large enough to show somebody."""
    layers = {"layer": IdentityLayer(torch.ones(2, 4), torch.ones(6, 2))}
    prior = Prior({"layer": PriorLayer(torch.ones(4, 1280))}, PriorMetadata.model_construct())
    record = IdentityMetadata(
        prior_sha256="0" * 64, prior_name="people", base_fingerprint="0" * 64, family="unet", trigger="ohwx",
        class_word=class_word, consent_id=consent_id, photo_hashes=[PHOTO],
    )  # fmt: skip
    return Identity(layers, record), prior


def asked(known: Permissions, consent_id: str | None, purpose: Purpose = Purpose.GENERATION, **more: Any) -> str:
    return known.ask(Use(purpose, "person", [PHOTO], consent_id, **more), NOW)


def test_a_record_in_force_permits_what_it_says_and_no_more(known: Permissions) -> None:
    record = grant()
    known.stores[0].save(record)
    assert asked(known, record.id) == ""
    with pytest.raises(ConsentRefused, match="not sharing"):
        asked(known, record.id, Purpose.SHARING)
    with pytest.raises(ConsentRefused, match="expired"):
        known.ask(Use(Purpose.GENERATION, "person", [PHOTO], record.id), NOW + timedelta(days=2))


def test_revoked_edited_and_deleted_records_refuse_at_once_and_change_the_state(known: Permissions) -> None:
    store, states = known.stores[0], [known.state(NOW)]
    revoked, edited, deleted = (grant(licence=text) for text in ("a", "b", "c"))
    for record in (revoked, edited, deleted):
        store.save(record)
    assert known.state(NOW) == states[0], "a new record must not make ComfyUI run again what it has"
    store.revoke(revoked.id, "by letter")
    states.append(known.state(NOW))
    store.edit(edited.id, grant(licence="b", purposes=["research"]))
    states.append(known.state(NOW))
    store.path_of(deleted.id).unlink()
    states += [known.state(NOW), known.state(NOW + timedelta(days=1))]
    assert len(set(states)) == len(states)
    for record, reason in ((revoked, "by letter"), (edited, "permits research"), (deleted, "was not found")):
        with pytest.raises(ConsentRefused, match=reason):
            asked(known, record.id)


def test_what_was_revoked_stays_revoked(known: Permissions) -> None:
    store, record = known.stores[0], grant()
    store.save(record)
    store.revoke(record.id)
    with pytest.raises(ConsentRefused, match="If it was given again"):
        store.save(record)
    with pytest.raises(ConsentRefused, match="revoked"):
        store.edit(record.id, grant(expires=None))


def test_an_edit_is_about_the_same_subject(known: Permissions) -> None:
    known.stores[0].save(grant())
    with pytest.raises(InvalidOptions, match="another subject"):
        known.stores[0].edit(grant().id, grant(subject="Somebody Else"))


@pytest.mark.parametrize("change", ["last entry", "all entries", "file", "value", "space", "journal and head"])
def test_a_revocation_cannot_be_taken_out_of_the_journal(known: Permissions, change: str) -> None:
    store, record = known.stores[0], grant()
    store.save(record)
    store.revoke(record.id)
    path = store.folder / JOURNAL
    content = path.read_bytes()
    changed = {
        "last entry": content.splitlines(keepends=True)[0],
        "all entries": b"",
        "value": content.replace(b"revoked", b"recorded"),
        "space": content.replace(b'"details":', b'"details": ', 1),
    }
    path.write_bytes(changed.get(change, content))
    if change in ("file", "journal and head"):
        path.unlink()
    if change == "journal and head":  # nothing remembers it then, but the photos' record file is as it was
        known.installation.head_file(path).unlink()
        assert asked(known, record.id) == ""
        return
    with pytest.raises(UnreadableFile, match="was changed"):
        asked(known, record.id)


def test_after_lost_entries_only_what_is_recorded_again_is_permitted(known: Permissions) -> None:
    store, first, second = known.stores[0], grant(licence="a"), grant(licence="b")
    store.save(first)
    store.save(second)
    (store.folder / JOURNAL).unlink()
    store.save(grant(licence="c"))
    with pytest.raises(ConsentRefused, match="Record it again"):
        asked(known, first.id)
    store.save(second)
    assert asked(known, second.id) == ""


def test_an_edit_by_another_installation_is_not_believed_and_its_revocation_is(
    known: Permissions, tmp_path: Path
) -> None:
    elsewhere = ConsentStore(known.folders[0], Installation(tmp_path / "other user"))
    for record in (edited := grant(licence="a"), revoked := grant(licence="b")):
        elsewhere.save(record)
        assert asked(known, record.id) == ""
    elsewhere.edit(edited.id, grant(licence="a", expires=None))
    elsewhere.revoke(revoked.id)
    for record, reason in ((edited, "another installation"), (revoked, "revoked")):
        with pytest.raises(ConsentRefused, match=reason):
            asked(known, record.id)


def test_people_need_a_record_and_everything_else_is_reminded_of(known: Permissions) -> None:
    with pytest.raises(ConsentRefused, match="generation needs one"):
        asked(known, None)
    assert asked(known, None, nobody=True) == ""
    assert "No consent record" in known.ask(Use(Purpose.TRAINING, "mug"), NOW)
    assert "No consent record" in asked(replace(known, without_record="remind"), None)


PEOPLE = """
person; Old Man; women; young woman; two young women; Ladies; babies; kids; persons; woman in a red coat;
photo of a girl; group of friends; people at work; mother-in-law; couple; ＷＯＭＡＮ; grandparents; Woman 2;
man, smiling with a hat; 女性; 若い女性; 人物; 子供; 子供たち; 男の子; 少女; 女性の写真;
人々; お父さん; 赤ちゃん; 顔; 女性の顔; 人
"""
THINGS = """
mug; man cave; woman's bag; people carrier; mango; human-made pot; statue of a man; photo of a mug; dog with a boy;
bus; glasses; kitchen; ; 123; マグカップ; 人形; 女性用バッグ; 犬; 猫の顔; 子供服; 商品; of; in red; women's shoes
"""


@pytest.mark.parametrize(
    ("word", "person"),
    [
        (" ".join(word.split()), person)
        for words, person in ((PEOPLE, True), (THINGS, False))
        for word in words.split(";")
    ],
)
def test_who_is_a_person(word: str, person: bool) -> None:
    assert is_person(word) is person


def test_a_model_as_small_as_the_pocket_model_shows_nobody() -> None:
    assert shows_nobody([128, 512, 640]) and not shows_nobody([320, 1280])


def test_a_record_of_all_photos_covers_those_of_its_own_subject(known: Permissions) -> None:
    record = grant(photos=[], photo_scope="any", purposes=["training", "generation"])
    known.stores[0].save(record)
    assert asked(known, record.id, Purpose.TRAINING, subject="sample  person") == ""
    assert asked(known, record.id) == "", "an identity was learned from such photos"
    for subject, found in (("", "not said to show anybody"), ("Somebody Else", "said to show 'Somebody Else'")):
        with pytest.raises(ConsentRefused, match=found):
            asked(known, record.id, Purpose.TRAINING, subject=subject)


def test_a_record_without_photos_covers_none(known: Permissions) -> None:
    record = grant(photos=[])
    known.stores[0].save(record)
    with pytest.raises(ConsentRefused, match="does not cover photo 1"):
        asked(known, record.id, Purpose.TRAINING, subject="Sample Person")


def test_a_products_record_does_not_cover_a_person(known: Permissions) -> None:
    record = grant(kind="product", subject="the mug")
    known.stores[0].save(record)
    with pytest.raises(ConsentRefused, match="about the product the mug"):
        asked(known, record.id)


def test_the_record_cannot_be_washed_off(known: Permissions, tmp_path: Path) -> None:
    record, path = grant(), tmp_path / "person.safetensors"
    known.stores[0].save(record)
    plain, prior = learned()
    identity = tied(plain, record.id, known.installation)
    known.log.append("identity learned", {"consent": record.id, "layers": layers_sha256(identity)}, NOW)
    save_identity(path, identity)
    assert known.ask_identity(load_identity(path), prior, Purpose.GENERATION, NOW) == ""
    washed = {"consent_id": None}, {"consent_id": "e" * 64}, {"class_word": "mug"}, {"photo_hashes": []}
    for change in washed:
        changed = replace(identity, metadata=identity.metadata.model_copy(update=change))
        with pytest.raises(DamagedFile, match="after it was tied"):
            save_identity(path, changed)
    for change in washed[:2]:
        bare = replace(identity, metadata=identity.metadata.model_copy(update=change | {"seal": None}))
        with pytest.raises(ConsentRefused, match="learned under the consent record"):
            known.ask_identity(bare, prior, Purpose.GENERATION, NOW)
    with pytest.raises(ConsentRefused, match="stays tied to it"):
        tied(identity, "e" * 64, known.installation)


def test_a_changed_byte_in_a_tied_file_is_found(known: Permissions, tmp_path: Path) -> None:
    path = tmp_path / "person.safetensors"
    save_identity(path, tied(learned()[0], "a" * 64, known.installation))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'consent_id\\": \\"aaaa', b'consent_id\\": \\"bbbb'))
    assert path.read_bytes() != content
    with pytest.raises(DamagedFile, match="after it was tied"):
        load_identity(path)


def test_a_forged_signature_is_found(known: Permissions) -> None:
    known.stores[0].save(grant())
    identity, prior = learned()
    forged = tied(identity, grant().id, Installation(known.folders[0] / "forger"))
    seal = forged.metadata.seal
    assert seal is not None
    ours = forged.metadata.model_copy(update={"seal": seal.model_copy(update={"key": known.installation.name})})
    with pytest.raises(ConsentRefused, match="signature is not this installation's"):
        known.ask_identity(replace(forged, metadata=ours), prior, Purpose.GENERATION, NOW)


def test_old_records_without_a_journal_still_hold(known: Permissions) -> None:
    ConsentStore(known.folders[0]).save(grant())
    assert [path.suffix for path in known.folders[0].iterdir()] == [".json"]
    assert asked(known, grant().id) == ""


def test_photos_of_records_that_no_longer_hold_are_refused(known: Permissions) -> None:
    store, first, second = known.stores[0], grant(licence="a"), grant(licence="b")
    for record in (first, second):
        store.save(record)
    store.revoke(first.id)
    known.ask_photos([PHOTO, OTHER], NOW)
    store.revoke(second.id)
    with pytest.raises(ConsentRefused, match="revoked"):
        known.ask_photos([OTHER, PHOTO], NOW)
    known.ask_photos([OTHER], NOW)


def test_people_of_a_meta_training_are_covered_by_name(known: Permissions) -> None:
    people = [("anna", "person"), ("mug", "mug"), ("bert", "person")]
    with pytest.raises(ConsentRefused, match="2 of 3 subjects are people whom no consent record covers, first 'anna'"):
        known.ask_subjects(people, "people", NOW)
    known.stores[0].save(grant(subject="Anna", photos=[], photo_scope="any"))
    with pytest.raises(ConsentRefused, match=r"1 of 3 .* first 'bert'"):
        known.ask_subjects(people, "people", NOW)
    everybody = grant(subject="people", photos=[], photo_scope="any")
    known.stores[0].save(everybody)
    covered = known.ask_subjects(people, "people", NOW)
    assert everybody.id in covered.records and len(covered.records) == 2 and covered.reminder == ""


def test_a_prior_of_a_revoked_record_is_refused(known: Permissions) -> None:
    record = grant(photos=[], photo_scope="any")
    known.stores[0].save(record)
    known.log.append(PRIOR_TRAINED, {"prior": "7" * 64, "consent": record.id}, NOW)
    known.ask_prior("7" * 64, NOW)
    known.stores[0].revoke(record.id)
    known.ask_prior("8" * 64, NOW)
    with pytest.raises(ConsentRefused, match="revoked"):
        known.ask_prior("7" * 64, NOW)


def test_a_prior_is_shared_only_where_its_records_permit_sharing_and_the_log_can_tell(known: Permissions) -> None:
    record = grant(photos=[], photo_scope="any", purposes=["training"])
    known.stores[0].save(record)
    known.log.append(PRIOR_TRAINED, {"prior": "7" * 64, "consent": record.id}, NOW)
    known.ask_prior("7" * 64, NOW)
    with pytest.raises(ConsentRefused, match="sharing"):
        known.ask_prior("7" * 64, NOW, Purpose.SHARING)
    known.require_intact_log()
    known.log.path.write_bytes(known.log.path.read_bytes().replace(b"7777", b"8777", 1))
    with pytest.raises(UnreadableFile, match="does not say who is in what"):
        known.require_intact_log()


def test_the_key_is_made_once_for_its_owner_alone_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    first, second = Installation(tmp_path / "user"), Installation(tmp_path / "user")
    assert first.name == second.name and second.signed("text", first.sign("text"))
    path = tmp_path / "user" / KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert [one.name for one in path.parent.iterdir()] == [KEY_FILE]
    path.write_bytes(b"short")
    with pytest.raises(UnreadableFile, match="is not a signing key"):
        _ = Installation(tmp_path / "user").name


def test_a_copied_folder_is_judged_as_the_original(known: Permissions, tmp_path: Path) -> None:
    """Elsewhere nobody can verify the signatures, but the entries are read."""
    store, record = known.stores[0], grant()
    store.save(record)
    store.revoke(record.id)
    shutil.copytree(store.folder, tmp_path / "copy")
    elsewhere = Permissions([tmp_path / "copy"], Installation(tmp_path / "stranger"))
    with pytest.raises(ConsentRefused, match="revoked"):
        asked(elsewhere, record.id)
    assert json.loads((tmp_path / "copy" / JOURNAL).read_text().splitlines()[1])["event"] == "consent revoked"


def test_the_command_line_asks_too(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """An identity in a subfolder is judged by the records of the folder above, with the key of the ComfyUI around."""
    base = tmp_path / "ComfyUI"
    known = Permissions([base / "models" / "metalora_identities"], Installation(base / "user" / "metalora"))
    (base / "user").mkdir(parents=True)
    identity = load_identity(OLD_FILES / "identity_of_a_unet.safetensors")
    record = grant(subject="the mug", kind="product", purposes=["sharing"], photos=[PhotoPermission(sha256="a" * 64)])
    known.stores[0].save(record)
    path = known.folders[0] / "adapted" / "mug.safetensors"
    save_identity(path, tied(identity, record.id, known.installation))
    words = [
        "export",
        path,
        "--prior",
        OLD_FILES / "prior_without_start.safetensors",
        "--output",
        tmp_path / "mug.safetensors",
    ]
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "nobody")

    def run() -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(list(map(str, words)))
        return int(str(stop.value.code or 0)), capsys.readouterr().err

    assert run()[0] == 0
    known.stores[0].revoke(record.id)
    code, told = run()
    assert code == 1 and "was revoked on" in told
    exported, refused = known.log.entries()
    assert (exported.event, exported.details["consent"]) == ("identity exported as LoRA", record.id)
    assert (refused.event, refused.details["use"], refused.details["consent"]) == ("refused", "sharing", record.id)
    assert known.log.verify().intact and known.log.verify().unverified == 0
    assert not (tmp_path / "nobody").exists()
