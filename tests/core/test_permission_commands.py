"""Every command that could use an identity, or the photos of a record, asks for the permission."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest
from core.test_consent import consent

from metalora_core.commands import cli
from metalora_core.photos.images import load_photo
from metalora_core.photos.pictures import pixels_sha256, save_picture, to_pil
from metalora_core.pocket.world.factors import draw_subject
from metalora_core.pocket.world.render import render
from metalora_core.pocket.world.scenes import draw_scenes
from metalora_core.provenance.consent import PhotoPermission
from metalora_core.provenance.installation import Installation
from metalora_core.provenance.permission import REFUSED, Permissions

SINCE = datetime(2020, 1, 1, tzinfo=timezone.utc)
pytestmark = pytest.mark.usefixtures("own_home")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(map(str, words)))
    return int(str(stop.value.code or 0)), capsys.readouterr().err


@pytest.mark.parametrize("named_by", ["file", "pixels"])
def test_what_was_revoked_is_refused_by_every_command_and_so_is_a_copied_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named_by: str
) -> None:
    """ComfyUI's records name photos by their pixels, as the nodes see them."""
    folder, photo = tmp_path / "ComfyUI" / "models" / "metalora_identities", tmp_path / "photos" / "mug.png"
    (tmp_path / "ComfyUI" / "user").mkdir(parents=True)
    (picture,) = render([draw_subject("products", "validation", 3)], draw_scenes("products", 1, 9))
    save_picture(to_pil(picture), photo)
    known = Permissions([folder], Installation(tmp_path / "ComfyUI" / "user" / "metalora"))
    read = load_photo(photo)
    photos = [PhotoPermission(sha256=read.sha256 if named_by == "file" else pixels_sha256(read.pixels))]
    record = consent(
        subject="the mug",
        kind="product",
        purposes=["training", "generation", "sharing"],
        photos=photos,
        valid_from=SINCE,
        expires=None,
    )
    store, identity, copied = known.stores[0], folder / "mug.safetensors", tmp_path / "elsewhere" / "mug.safetensors"
    store.save(record)
    words = ("--class-word", "mug", "--steps", 1, "--consent", store.path_of(record.id))
    commands = {
        "adapt": ("adapt", photo, *words, "--output", identity),
        "generate": ("generate", "a ohwx mug", "--identity", identity, "--steps", 1, "--output", tmp_path / "out"),
        "export": ("export", identity, "--output", tmp_path / "lora.safetensors"),
    }
    assert {name: run(capsys, *command)[0] for name, command in commands.items()} == dict.fromkeys(commands, 0)
    copied.parent.mkdir()
    shutil.copy(identity, copied)
    store.revoke(record.id, "by letter")
    told = {name: run(capsys, *command) for name, command in commands.items()}
    assert all(code == 1 and "was revoked on" in text for code, text in told.values()), told
    code, text = run(capsys, *commands["generate"][:3], copied, *commands["generate"][4:])
    assert code == 1 and "was not found" in text, "nothing near it knows the record"
    refused = [entry for entry in known.log.entries() if entry.event == REFUSED]
    assert len(refused) == len(commands) and {entry.details["consent"] for entry in refused} == {record.id}
    assert known.log.verify().intact


def test_a_person_without_a_record_is_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("anna", "bert"):
        (picture,) = render([draw_subject("avatars", "validation", 3)], draw_scenes("avatars", 1, 9))
        save_picture(to_pil(picture), tmp_path / "people" / name / "0.png")
    model, output = tmp_path / "no model is here.safetensors", tmp_path / "out"
    one = tmp_path / "people" / "anna" / "0.png"
    commands = {
        "adapt": ("adapt", one, "--output", output / "a.safetensors"),
        "meta-train": ("meta-train", tmp_path / "people", "--output", output / "p.safetensors"),
    }
    for name, command in commands.items():
        code, text = run(capsys, *command, "--class-word", "person", "--model", model)
        assert code == 1 and "consent" in text, (name, text)
