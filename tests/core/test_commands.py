"""The commands on the shipped small model, from photos to an exported LoRA."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch

from metalora_core.commands import cli
from metalora_core.commands.loading import POCKET, picture_size_px
from metalora_core.errors import UnusableReferences
from metalora_core.files.identity import load_identity
from metalora_core.files.prior import load_prior, save_prior
from metalora_core.model.families import bases
from metalora_core.photos.folder_report import find_subjects
from metalora_core.photos.images import load_photo
from metalora_core.photos.pictures import save_picture, to_pil
from metalora_core.photos.reading import caption_for, load_training_set, split_training_set
from metalora_core.photos.subject_folders import FolderSubjects, subject_folders
from metalora_core.pocket import load_pocket_host, load_pocket_prior
from metalora_core.pocket.world.factors import draw_subject
from metalora_core.pocket.world.render import render
from metalora_core.pocket.world.scenes import draw_scenes
from metalora_core.provenance.audit_log import AuditLog
from metalora_core.references.domain import DomainVerdict, domain_distance

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("own_home")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as stop:
        cli.main([*map(str, words), "--json"])
    out = capsys.readouterr().out
    return int(stop.value.code or 0), json.loads(out) if out else {}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    subject, scenes = draw_subject("products", "validation", 3), draw_scenes("products", 2, 9)
    for index, picture in enumerate(map(to_pil, render([subject] * 2, scenes))):
        save_picture(picture, tmp_path / "photos" / f"{index}.png")
        caption = scenes[index].caption("products", "mug", "ohwx")
        (tmp_path / "photos" / f"{index}.txt").write_text(caption, encoding="utf-8")
    return tmp_path / "photos"


def test_from_photos_to_pictures_and_a_lora(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = tmp_path / "mug.safetensors"
    code, told = run(capsys, "adapt", photos, "--class-word", "mug", "--output", identity, "--steps", 3)
    assert (code, told["steps"], told["bytes"]) == (0, 3, identity.stat().st_size)
    kept = load_identity(identity).metadata
    assert (kept.class_word, kept.settings["flip"]) == ("mug", False), "a mirrored mug is another mug"
    assert not identity.with_suffix(".checkpoint.safetensors").exists()

    asked = ("generate", "photo of a ohwx mug, red background", "--identity", identity, "--steps", 2)
    pictures = []
    for strength in (0, 1, 1):
        code, told = run(capsys, *asked, "--strength", strength, "--output", tmp_path / "out")
        pictures.append(load_photo(told["pictures"][0]).pixels)
        assert "applied" in told["coverage"]
    assert torch.equal(pictures[1], pictures[2])
    assert not torch.equal(pictures[0], pictures[1])
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    made = run(capsys, "provenance", "show", told["pictures"][0])[1]
    assert made["origin"] == "made by a trained model (AI)"
    assert made["identity"] == run(capsys, "provenance", "show", identity)[1]["identity"]
    with pytest.raises(SystemExit):
        cli.main([*map(str, ("generate", "photo of a mug", *asked[2:], "--output", tmp_path / "uncalled"))])
    assert 'the subject is called "ohwx mug"' in capsys.readouterr().err
    code, told = run(capsys, "generate", asked[1], "--steps", 2, "--output", tmp_path / "base")
    assert torch.equal(load_photo(told["pictures"][0]).pixels, pictures[0]), "strength 0 is the base model"

    for layout in ("comfyui", "kohya", "diffusers"):
        lora = tmp_path / f"{layout}.safetensors"
        code, told = run(capsys, "export", identity, "--prior", "products", "--output", lora, "--layout", layout)
        assert (code, told["bytes"]) == (0, lora.stat().st_size)
        assert run(capsys, "provenance", "show", lora)[1]["trigger_phrase"] == "ohwx mug"
    logged = [entry.event for entry in AuditLog(tmp_path / "audit.jsonl").entries()]
    runs = ["identity applied"] * 4
    assert logged == ["identity learned", *runs, *["identity exported as LoRA"] * 3], "as the nodes log it"
    assert run(capsys, "audit", tmp_path / "audit.jsonl")[1]["unverified"] == 0


def test_without_a_prior_the_identity_alone_draws_and_exports(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mug, words = tmp_path / "mug.safetensors", ("--class-word", "mug", "--steps", 2, "--prior", "none")
    code, told = run(capsys, "adapt", photos, *words, "--output", mug)
    assert (code, told["without_prior"], told["parameters"]) == (0, True, load_identity(mug).numbers)
    run(capsys, "adapt", photos, *words, "--output", tmp_path / "again.safetensors")
    assert mug.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    asked = ("generate", "photo of a ohwx mug", "--identity", mug, "--steps", 2, "--output", tmp_path / "out")
    assert "applied" in run(capsys, *asked)[1]["coverage"]
    lora = tmp_path / "lora.safetensors"
    assert run(capsys, "export", mug, "--output", lora)[1]["bytes"] == lora.stat().st_size
    explained = run(capsys, "inspect", mug, "--explain")[1]["files"][0]
    assert explained["made"]["prior_name"] == "none" and explained["explanation"]


def test_no_prior_is_said_beside_the_result(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("adapt", photos, "--class-word", "dog", "--steps", 1, "--prior", "none")
    with pytest.raises(SystemExit):
        cli.main([*map(str, (*words, "--output", tmp_path / "a.safetensors"))])
    assert "No prior was used" in capsys.readouterr().out


def test_the_same_command_gives_the_same_bytes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        run(capsys, "adapt", photos, "--class-word", "mug", "--output", tmp_path / f"{name}.safetensors", "--steps", 2)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_the_same_command_ends_bit_identically(photos: Path, tmp_path: Path) -> None:
    def words(name: str) -> list[str]:
        output = str(tmp_path / f"{name}.safetensors")
        command = [sys.executable, "-m", "metalora_core", "adapt", str(photos), "--class-word", "mug"]
        return [*command, "--output", output, "--steps", "30"]

    subprocess.run(words("unbroken"), cwd=ROOT, check=True, capture_output=True)
    with subprocess.Popen(words("broken"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        shown = b""
        while b"learning mug" not in shown:
            shown += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read().decode()
    assert process.returncode == 130
    assert "again to resume" in told
    assert not (tmp_path / "broken.safetensors").exists()
    assert (tmp_path / "broken.checkpoint.safetensors").exists()
    subprocess.run(words("broken"), cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "broken.safetensors").read_bytes() == (tmp_path / "unbroken.safetensors").read_bytes()


def test_the_wrong_prior_is_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = tmp_path / "mug.safetensors"
    run(capsys, "adapt", photos, "--class-word", "mug", "--output", identity, "--steps", 1, "--mirror", "on")
    assert load_identity(identity).metadata.settings["flip"] is True
    code, told = run(capsys, "export", identity, "--prior", "avatars", "--output", tmp_path / "lora.safetensors")
    assert (code, told["kind"]) == (1, "IncompatibleBaseModel")
    assert not (tmp_path / "lora.safetensors").exists()


def test_a_result_never_takes_the_place_of_what_it_is_made_from(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = tmp_path / "mug.safetensors"
    run(capsys, "adapt", photos, "--class-word", "mug", "--output", identity, "--steps", 1)
    before = identity.read_bytes()
    again = tmp_path / "photos" / ".." / "mug.safetensors"
    code, told = run(capsys, "export", identity, "--prior", "products", "--output", again)
    assert code == 1 and "would be overwritten" in told["error"]
    assert identity.read_bytes() == before


def test_what_could_be_better_in_the_photos_is_told(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    for name in ("noise_1.png", "noise_2.png"):
        save_picture(to_pil(noise[0]), tmp_path / "strange" / name)
    (tmp_path / "strange" / ".DS_Store").write_bytes(b"notes of a file system")
    output = tmp_path / "x.safetensors"
    with pytest.raises(SystemExit) as stop:
        cli.main(["adapt", str(tmp_path / "strange"), "--class-word", "mug", "--output", str(output), "--steps", "1"])
    told = capsys.readouterr().err
    assert stop.value.code == 0
    assert told.count("outside the prior's domain") == 1 and "All photos: outside the prior's domain" in told
    assert "noise_2.png): same photo twice" in told
    assert ".DS_Store" not in told


def test_a_damaged_checkpoint_is_moved_aside_and_the_run_starts_over(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.safetensors"
    (tmp_path / "x.checkpoint.safetensors").write_bytes(b"cut off")
    code, told = run(capsys, "adapt", photos, "--class-word", "mug", "--output", output, "--steps", 1)
    assert code == 0 and told["steps"] == 1 and output.exists()
    assert (tmp_path / "x.checkpoint.safetensors.damaged").read_bytes() == b"cut off"


def test_what_a_system_puts_beside_the_subjects_is_no_subject(tmp_path: Path) -> None:
    for name in ("b", "a", ".git", "__MACOSX", "@eaDir"):
        (tmp_path / name).mkdir()
    (tmp_path / ".DS_Store").touch()
    assert [folder.name for folder in subject_folders(tmp_path)] == ["a", "b"]
    for nowhere in (tmp_path / "none", tmp_path / ".DS_Store", tmp_path / "a"):
        with pytest.raises(UnusableReferences, match=r"could not be read|contains no folders"):
            subject_folders(nowhere)


def test_a_prior_is_meta_trained_from_folders(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        for file in photos.glob("*.png"):
            (tmp_path / "subjects" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "subjects" / name / file.name).write_bytes(file.read_bytes())
    words = ("meta-train", tmp_path / "subjects", "--class-word", "mug", "--output", tmp_path / "prior.safetensors")
    code, told = run(capsys, *words, "--steps", 2, "--r-meta", 4, "--r-mid", 2)
    assert (code, told["subjects"]) == (0, 2)
    noted = list(AuditLog(tmp_path / "audit.jsonl").entries())
    assert [(entry.event, entry.details["prior"]) for entry in noted] == [("prior trained", told["sha256"])]
    code, told = run(capsys, "inspect", tmp_path / "prior.safetensors")
    made = told["files"][0]["made"]
    assert (made["class_words"], made["base_name"], made["feature_extractor"]) == (["mug"], "Pocket Flux", "")


def test_a_prior_of_a_users_own_knows_its_domain(tmp_path: Path) -> None:
    drawn = torch.rand(10, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 0.2
    for index, picture in enumerate(map(to_pil, drawn)):
        save_picture(picture, tmp_path / "subjects" / str(index // 2) / f"{index}.png")
    host = load_pocket_host()
    few = FolderSubjects(find_subjects(tmp_path / "subjects", "mug", limit=2), host, 128, "mug")
    shipped = load_pocket_prior("products")
    assert (len(few), shipped.described(few.features, "").features) == (2, None)
    everybody = FolderSubjects(find_subjects(tmp_path / "subjects", "mug"), host, 128, "mug")
    prior = shipped.described(everybody.features, "made up")
    assert prior.features is not None and prior.features.count == 10
    path = tmp_path / "prior.safetensors"
    save_prior(path, prior)
    read = load_prior(path)
    assert read.features is not None and read.metadata.base_name == "made up"
    assert domain_distance(drawn[:1], read.features)[0].verdict is DomainVerdict.INSIDE
    assert domain_distance(1 - drawn[:1], read.features)[0].verdict is DomainVerdict.OUTSIDE


def test_a_model_is_never_overwritten_by_what_is_learned_on_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "flux.safetensors").write_bytes(b"24 GB")
    for model, output in (("flux.safetensors", "flux.safetensors"), ("model", "model/unet/x.safetensors")):
        where = ("--class-word", "mug", "--model", tmp_path / model, "--output", tmp_path / output)
        for words in (("adapt", photos), ("meta-train", photos)):
            code, told = run(capsys, *words, *where)
            assert code == 1 and "would be overwritten" in told["error"]
    assert (tmp_path / "flux.safetensors").read_bytes() == b"24 GB"


@pytest.mark.parametrize(("base", "side_px"), [("sd15", 512), ("sdxl", 1024), ("sd3", 1024), ("flux", 1024)])
def test_every_base_has_its_usual_size(base: str, side_px: int) -> None:
    host = load_pocket_host()
    host.base = next(row for row in bases() if row.name == base)
    assert picture_size_px(host, "some/folder", 0) == side_px
    assert picture_size_px(host, POCKET, 0) == 128


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--size", 100), "multiple of"),
        (("--held-out", 2), "held out"),
        (("--model", "nowhere"), "nowhere"),
        (("--prior", "nowhere.safetensors"), "nowhere"),
        (("--trigger", "zzz"), "does not mention"),
        (("--output", "."), "does not end in .safetensors"),
        (("--trigger", "mug"), "choose a rare trigger"),
        (("--seed", 2**64), "seed is"),
        (("--size", 10**9), "at most 8192"),
        (("--checkpoint", "x.safetensors", "--output", "./x.safetensors"), "is also an input"),
        (("--class-word", "dog"), "No shipped prior covers 'dog'"),
    ],
)
def test_what_cannot_work_is_said_before_work_starts(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], complaint: str
) -> None:
    code, told = run(capsys, "adapt", photos, "--class-word", "mug", "--output", tmp_path / "x.safetensors", *words)
    assert code == 1
    assert complaint in told["error"]
    assert not (tmp_path / "x.safetensors").exists()


def test_captions_come_from_the_text_beside_the_photo(tmp_path: Path) -> None:
    assert caption_for(tmp_path / "a.png", "mug", "ohwx") == "photo of a ohwx mug"
    (tmp_path / "a.txt").write_text("  a ohwx mug\non a shelf ", encoding="utf-8")
    assert caption_for(tmp_path / "a.png", "mug", "ohwx") == "a ohwx mug on a shelf"
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00ohwx")
    with pytest.raises(UnusableReferences, match="UTF-8"):
        caption_for(tmp_path / "a.png", "mug", "ohwx")


def test_held_out_photos_are_not_learned_from(photos: Path) -> None:
    everything = load_training_set([photos], "mug", "ohwx", 128)
    training, held_out = split_training_set(everything, 1)
    assert held_out is not None
    assert len(training.images) == len(held_out.images) == 1
    assert torch.equal(torch.stack([*training.images, *held_out.images]), torch.stack(everything.images))


def test_a_wrong_word_or_folder_is_said_by_the_other_commands_too(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = run(capsys, "demo", "--photos", photos, "--class-word", "dog", "--output", tmp_path / "demo.png")
    assert code == 1 and "No shipped prior covers 'dog'" in told["error"]
    code, told = run(capsys, "generate", "photo of a mug", "--output", tmp_path / "mug.png")
    assert code == 1 and "takes the folder" in told["error"]
    assert not (tmp_path / "demo.png").exists() and not (tmp_path / "mug.png").exists()


def test_the_audit_log_is_listed_and_a_change_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    moment = datetime(2030, 1, 2, tzinfo=timezone.utc)
    log.append("consent recorded", {"subject": "a mug", "consent": None}, moment)
    kept = log.append("identity learned", {"file": "mug.safetensors"}, moment)
    code, told = run(capsys, "audit", log.path)
    assert (code, told["intact"], told["head"]) == (0, True, kept.sha256)
    assert [entry["event"] for entry in told["entries"]] == ["consent recorded", "identity learned"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["audit", str(log.path), "--head", kept.sha256])
    said = capsys.readouterr().out
    assert stop.value.code == 0 and "identity learned  file mug.safetensors\n2 entries, intact." in said
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(lines[0])
    code, told = run(capsys, "audit", log.path, "--head", kept.sha256)
    assert code == 1 and "is missing" in told["problem"]
    log.path.write_bytes(lines[0].replace(b"a mug", b"a cup") + lines[1])
    code, told = run(capsys, "audit", log.path)
    assert (code, told["entries"]) == (1, []) and "was changed" in told["problem"]
    code, told = run(capsys, "audit", tmp_path / "none.jsonl")
    assert code == 1 and "no audit log" in told["error"]
