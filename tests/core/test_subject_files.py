"""What is kept of a subject is found by its records, and erased without a byte left."""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from core.test_permission import grant

from metalora_core.commands import cli
from metalora_core.errors import ConsentRefused, InvalidOptions, UnreadableFile
from metalora_core.files.bounded import read_safetensors
from metalora_core.files.export import CONSENT_KEY, export_lora
from metalora_core.files.identity import layers_sha256, load_identity, save_identity
from metalora_core.files.kept_steps import kept_step_beside
from metalora_core.files.prior import load_prior
from metalora_core.files.trash import put_aside
from metalora_core.photos.images import load_photo
from metalora_core.photos.photo_search import find_photos
from metalora_core.photos.pictures import pixels_sha256, save_picture, to_pil
from metalora_core.provenance.consent import PhotoPermission
from metalora_core.provenance.installation import Installation
from metalora_core.provenance.permission import PRIOR_TRAINED, Permissions, tied
from metalora_core.provenance.subject_files import Kept, erase_subject, export_subject, find_kept

OLD_FILES = Path(__file__).parents[1] / "fixtures" / "old_files"
NAME = "Zebulon Quagmire"
NOW = datetime.now(timezone.utc)


class World:
    """A ComfyUI's folders with one subject in every kind of file, and another subject beside it."""

    def __init__(self, base: Path) -> None:
        self.base, self.models, self.input = base, base / "models", base / "input"
        self.known = Permissions([self.models / "metalora_identities"], Installation(base / "user" / "metalora"))
        (base / "user").mkdir(parents=True)
        store = self.known.stores[0]
        for number, name in enumerate((NAME, "Somebody Else")):
            picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(number))
            photo = self.input / f"{name.split()[0]}.png"
            save_picture(to_pil(picture), photo)
            photo.with_suffix(".txt").write_text(f"{name} in the garden")
            record = grant(subject=name, photos=[PhotoPermission(sha256=pixels_sha256(load_photo(photo).pixels))])
            store.save(record)
            self.known.log.append("consent recorded", {"consent": record.id, "granted_by": name}, NOW)
            self._make(name, record.id)
        self.record = next(one for one in store.list() if one.subject == NAME)
        self.known.log.append(
            PRIOR_TRAINED, {"file": "metalora/people.safetensors", "prior": "7" * 64, "consent": self.record.id}, NOW
        )
        (self.models / "metalora").mkdir()
        (self.models / "metalora" / "people.safetensors").write_bytes(b"many subjects")

    def _make(self, name: str, consent_id: str) -> None:
        first = name.split()[0]
        identity = load_identity(OLD_FILES / "identity_of_a_unet.safetensors")
        plain = tied(identity, consent_id, self.known.installation)
        path = self.known.folders[0] / "people" / f"{first}.safetensors"
        save_identity(path, plain)
        # Kept before the record was connected, so that only its name says whose it is.
        save_identity(kept_step_beside(path, 20), identity)
        unfinished = path.with_name(f".{first}.unfinished.safetensors")
        unfinished.write_bytes(b"half of the factors")
        os.utime(unfinished, (time.time() - 7200, time.time() - 7200))
        (self.models / "loras").mkdir(parents=True, exist_ok=True)
        lora = self.models / "loras" / f"{first}.safetensors"
        export_lora(lora, plain, load_prior(OLD_FILES / "prior_without_start.safetensors"))
        for file in (f"loras/{first}.safetensors", f"loras/{first}_given_away.safetensors"):
            details = {"file": file, "consent": consent_id, "layers": layers_sha256(plain)}
            self.known.log.append("identity exported as LoRA", details, NOW)

    def kept(self, name: str) -> Kept:
        kept = find_kept(self.known, name)
        return kept.with_photos(find_photos([self.input], kept.photo_hashes))

    def bytes_of(self, name: str) -> list[Path]:
        """Every file with the name in its own name or in its bytes."""
        files = [path for path in self.base.rglob("*") if path.is_file()]
        wanted = name.casefold()
        return [
            path for path in files
            if wanted in path.name.casefold() or wanted.encode() in path.read_bytes().lower()
        ]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "ComfyUI")


def test_everything_made_under_a_record_is_listed(world: World) -> None:
    kept = world.kept(NAME.upper())
    kinds = sorted(file.kind for file in kept.files)
    assert kinds == [
        "LoRA",
        "caption",
        "identity",
        "identity",
        "photo",
        "prior",
        "record",
        *["unfinished training"] * 2,
    ]
    assert kept.elsewhere == ("loras/Zebulon_given_away.safetensors",)
    own = [file.path.name for file in kept.files if file.kind in ("identity", "LoRA", "photo", "caption")]
    assert all(name.lstrip(".").startswith("Zebulon") for name in own)
    with pytest.raises(InvalidOptions, match="Records here are about: Somebody Else, Zebulon Quagmire"):
        find_kept(world.known, "nobody")


def test_an_export_names_its_record(world: World) -> None:
    metadata = read_safetensors(world.models / "loras" / "Zebulon.safetensors").metadata
    assert metadata[CONSENT_KEY] == world.record.id
    prior = load_prior(OLD_FILES / "prior_without_start.safetensors")
    plain = load_identity(OLD_FILES / "identity_of_a_unet.safetensors")
    export_lora(world.base / "plain.safetensors", plain, prior)
    assert CONSENT_KEY not in read_safetensors(world.base / "plain.safetensors").metadata


def test_erasing_leaves_no_byte_of_the_subject_and_the_log_verifies(world: World) -> None:
    assert world.bytes_of("Zebulon") and world.bytes_of("Quagmire") and world.bytes_of(world.record.id)
    others = {path for path in world.bytes_of("Somebody") if path.suffix != ".jsonl"}
    world.known.log.append("picture signed", {"file": "output/Zebulon_00001_.png", "consent": world.record.id}, NOW)
    head = world.known.log.verify().head
    done = erase_subject(world.known, world.kept(NAME), NOW)
    assert not world.bytes_of("Zebulon") and not world.bytes_of("Quagmire")
    assert [path.name for path in world.bytes_of(world.record.id)] == ["consents.jsonl"], "which keeps the revocation"
    assert done.elsewhere == ("loras/Zebulon_given_away.safetensors", "output/Zebulon_00001_.png")
    assert done.entries_left == 0
    assert done.priors == (str(world.models / "metalora" / "people.safetensors"),)
    left = {path for path in world.bytes_of("Somebody") if path.suffix != ".jsonl"}
    assert left == {path for path in others if ".unfinished." not in path.name}
    verdict = world.known.log.verify(head)
    assert verdict.intact and verdict.unverified == 0
    events = [entry.event for entry in world.known.log.entries()]
    assert events[-1] == "subject erased" and events.count("identity exported as LoRA") == 4
    with pytest.raises(InvalidOptions, match="No consent record is about"):
        find_kept(world.known, NAME)


def test_a_deleted_identity_that_could_still_come_back_is_erased_with_its_steps(world: World) -> None:
    place = "metalora_identities/people/Zebulon.safetensors"
    world.known.log.append("identity saved", {"file": place, "consent": world.record.id}, NOW)
    aside = put_aside(world.known.folders[0] / "people" / "Zebulon.safetensors")
    world.known.log.append("identity deleted", {"was": place, "consent": world.record.id}, NOW)
    kept = world.kept(NAME)
    step = kept_step_beside(aside.with_name("Zebulon.safetensors"), 20)
    assert {file.path for file in kept.files if file.kind == "identity"} == {aside, step}
    assert place not in kept.elsewhere
    erase_subject(world.known, kept, NOW)
    assert not world.bytes_of("Zebulon")


def test_a_copy_that_comes_back_after_erasure_is_refused(world: World, tmp_path: Path) -> None:
    world.known.stores[0].revoke(world.record.id, f"a letter of {NAME}")
    files = {path: path.read_bytes() for path in world.bytes_of(world.record.id) if path.suffix != ".jsonl"}
    erase_subject(world.known, find_kept(world.known, NAME), NOW)
    for path, content in files.items():
        path.write_bytes(content)
    with pytest.raises(ConsentRefused, match="revoked"):
        world.known.in_force(world.record.id)


def test_only_the_installation_itself_can_erase_what_an_entry_says(world: World) -> None:
    log = world.known.log
    forger = Installation(world.base / "forger")
    lines = log.path.read_bytes().splitlines(keepends=True)
    fields = json.loads(lines[0])
    from metalora_core.provenance.audit_entry import SignedEntry, erased, line_of

    log.path.write_bytes(b"".join([line_of(erased(SignedEntry(**fields), forger)), *lines[1:]]))
    assert "removed by somebody else" in log.verify().problem
    with pytest.raises(UnreadableFile, match="nothing in it is erased"):
        erase_subject(world.known, find_kept(world.known, NAME), NOW)
    assert world.bytes_of("Zebulon")


def test_what_an_earlier_release_wrote_is_counted_and_stays(tmp_path: Path) -> None:
    from metalora_core.provenance.audit_log import AuditLog

    known = Permissions([tmp_path / "identities"], Installation(tmp_path / "user"))
    AuditLog(tmp_path / "identities" / "audit.jsonl").append("consent recorded", {"subject": NAME}, NOW)
    known.stores[0].save(grant(subject=NAME))
    done = erase_subject(known, find_kept(known, NAME), NOW)
    assert done.entries_left == 1 and known.log.verify().intact


def test_a_copy_of_all_that_is_kept(world: World, tmp_path: Path) -> None:
    kept = world.kept(NAME)
    assert export_subject(world.known, kept, tmp_path / "copy") == len(kept.files)
    copies = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert len(copies) == len(kept.files) + 1
    entries = json.loads((tmp_path / "copy" / "entries.json").read_text())
    assert {entry["event"] for entry in entries} == {"consent recorded", "identity exported as LoRA", PRIOR_TRAINED}
    with pytest.raises(InvalidOptions, match="is not empty"):
        export_subject(world.known, kept, tmp_path / "copy")


def test_the_commands(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world.known.folders[0]
    record = world.known.stores[0].path_of(world.record.id)

    def run(*words: Any) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as stop:
            cli.main([*map(str, words), "--json"])
        return int(str(stop.value.code or 0)), json.loads(capsys.readouterr().out)

    assert {one["refused"] for one in run("consent", "list", folder)[1]["records"]} == {""}
    code, told = run("consent", "edit", record, "--permitted-uses", "training", "--expires", "2040-05-01")
    assert code == 0 and world.known.in_force(world.record.id).id == told["holds_now"]
    assert world.known.in_force(world.record.id).expires == datetime(2040, 5, 2, tzinfo=timezone.utc)
    assert run("consent", "edit", record, "--expires", "soon")[0] == 1
    code, told = run("consent", "revoke", record, "--reason", "by letter")
    assert code == 0 and any("loras" in path for path in told["files"])
    assert run("consent", "files", record)[1]["elsewhere"] == ["loras/Zebulon_given_away.safetensors"]
    refused = [one for one in run("consent", "list", folder)[1]["records"] if one["refused"]]
    assert [one["id"] for one in refused] == [world.record.id] and "by letter" in refused[0]["refused"]
    run("subject", "erase", NAME, folder, "--photos", world.input)
    assert world.bytes_of("Zebulon"), "it only lists"
    assert run("subject", "export", NAME, folder, "--output", world.base.parent / "copy")[1]["files"] > 3
    assert run("subject", "erase", NAME, folder, "--photos", world.input, "--yes")[0] == 0
    assert not world.bytes_of("Zebulon")
    assert run("audit", folder / "audit.jsonl")[1]["intact"]


LETTER = f"letter of 3 May, folder {'9' * 300}"


def test_evidence_channels_and_who_recorded_it_are_added_by_an_edit(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*words: object) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stop:
            cli.main(["consent", *map(str, words), "--json"])
        assert not stop.value.code
        return json.loads(capsys.readouterr().out)

    store, form = world.known.stores[0], tmp_path / "form.pdf"
    record = next(one for one in store.list())
    form.write_bytes(b"signed")
    told = ("--evidence", form, "--channels", "website, print", "--registry-id", "CR-1", "--recorded-by", "Office")
    new = store.load(answer("edit", store.path_of(record.id), *told)["holds_now"])
    assert new.evidence == f"form.pdf, SHA-256 {hashlib.sha256(b'signed').hexdigest()}"
    assert (new.channels, new.registry_id, new.recorded_by) == ("website, print", "CR-1", "Office")
    assert new.recorded_at is not None and store.in_force(record.id) == new
    again = store.load(answer("edit", store.path_of(record.id), "--evidence", LETTER)["holds_now"])
    assert (again.evidence, again.channels) == (LETTER, "website, print"), "the rest stays"
    listed = {one["id"]: one for one in answer("list", store.folder)["records"]}
    assert listed[again.id]["evidence"] == LETTER and "evidence" not in listed[record.id]


def test_a_folder_that_is_not_there_is_no_empty_answer(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    gone = world.base / "gone"
    folder = world.known.folders[0]
    for words in (("consent", "list", gone), ("subject", "erase", NAME, folder, "--photos", gone)):
        with pytest.raises(SystemExit) as stop:
            cli.main([*map(str, words)])
        assert stop.value.code not in (0, None) and "does not exist" in capsys.readouterr().err


def test_what_the_log_says_of_a_longer_name_stays(world: World) -> None:
    entry = world.known.log.append("adapted", {"subject": f"{NAME}ina", "steps": 3}, NOW)
    erase_subject(world.known, find_kept(world.known, NAME), NOW)
    assert entry in list(world.known.log.entries())


def test_a_report_counts_identities_by_consent_and_runs_with_a_record(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store, log = world.known.folders[0], world.known.stores[0], world.known.log
    save_identity(folder / "=loose.safetensors", load_identity(OLD_FILES / "identity_of_a_unet.safetensors"))
    logged = [entry for entry in log.entries() if entry.event == "identity exported as LoRA"]
    log.append("identity applied", {"consent": None}, NOW)
    log.append("refused", {"use": "sharing"}, NOW)
    store.revoke(store.list()[0].id)

    def told(*words: object) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stop:
            cli.main(["report", str(folder), "--output", str(tmp_path / "r.html"), *map(str, words), "--json"])
        assert not stop.value.code
        return json.loads(capsys.readouterr().out)

    found = told()
    states = {name: value for name, value in found["figures"].items() if name.startswith("identities")}
    wanted = {"in force": "1", "no record": "1", "revoked or missing": "1"}
    assert states == {f"identities, {name}": count for name, count in wanted.items()}
    share = 100 * len(logged) / (len(logged) + 1)
    assert found["figures"]["runs with a valid record"] == f"{len(logged)} ({share:.0f} %)"
    assert (found["figures"]["refused"], found["figures"]["audit log"]) == ("1", "intact")
    assert {row[1] for row in told("--soon", 100_000)["ending"]} == {record.id[:12] for record in store.list()[1:]}
    page, table = (tmp_path / "r.html").read_text(encoding="utf-8"), (tmp_path / "r.csv").read_text(encoding="utf-8")
    assert "Identities" in page and "revoked or missing" in page and "<script" not in page
    assert "\n'=loose.safetensors," in table, "no spreadsheet takes a name for a formula"
