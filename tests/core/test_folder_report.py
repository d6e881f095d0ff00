"""A folder of subjects is looked at before anything is learned from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from core.painted_photos import paint

from metalora_core.commands import cli
from metalora_core.errors import UnusableReferences
from metalora_core.photos.folder_report import find_subjects, look_at_folder
from metalora_core.photos.pictures import save_picture, to_pil


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good photos each, one of them in both subjects, one twice; a broken one; a folder of nothing."""
    place = tmp_path / "subjects"
    for name, seeds in {"anna": (0, 1, 1), "bo": (1, 2), "cy": (3,), "dee": ()}.items():
        for number, seed in enumerate(seeds):
            save_picture(to_pil(paint(seed=seed)), place / name / f"{number}.png")
    (place / "bo" / "broken.png").write_bytes(b"not a picture")
    (place / "cy" / "0.txt").write_text("photo of a ohwx mug", encoding="utf-8")
    (place / "cy" / "notes.pdf").write_bytes(b"notes")
    (place / "dee").mkdir()
    return place


def test_everything_that_can_be_known_is_said_at_once(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = look_at_folder(folder, "mug", on_photos=lambda done, count: seen.append((done, count)))
    assert seen == [(number, 7) for number in range(1, 8)]
    assert [one.path.name for one in found.subjects] == ["anna", "bo", "cy"] and found.photos == 6
    assert len(found.broken) == 2 and "dee: " in found.broken[0] and "bo: broken.png is damaged" in found.broken[1]
    assert found.shared == ("anna/1.png, anna/2.png, bo/0.png",) and found.twice == ()
    assert found.single == ("cy",) and found.without_caption == 5
    assert "cy/notes.pdf" in found.note
    assert found.lines[0] == "3 subjects with 6 photos." and len(found.lines) == 6
    with pytest.raises(UnusableReferences, match=r"dee.*broken.png.*--skip-bad"):
        found.require_whole("Use --skip-bad.")
    with pytest.raises(UnusableReferences, match="broken"):
        find_subjects(folder, "mug")


def test_a_photo_that_a_subject_has_twice_is_named(folder: Path) -> None:
    save_picture(to_pil(paint(seed=3)), folder / "cy" / "again.png")
    assert look_at_folder(folder, "mug").twice == ("cy: 0.png, again.png",)


def test_a_caption_without_the_trigger_is_told_before_anything_is_learned(folder: Path) -> None:
    (folder / "cy" / "0.txt").write_text("a mug", encoding="utf-8")
    assert "does not mention" in look_at_folder(folder, "mug", "ohwx").broken[-1]
    assert len(look_at_folder(folder, "mug").broken) == 2


def _answered(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        cli.main([*map(str, words), "--json"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", ["adapt-many", "meta-train"])
def test_a_dry_run_says_what_is_there_and_learns_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    output = tmp_path / ("out" if command == "adapt-many" else "prior.safetensors")
    told = _answered(capsys, command, folder, "--class-word", "mug", "--output", output, "--dry-run")
    assert told["subjects"] == ["anna", "bo", "cy"] and told["photos"] == 6 and len(told["broken"]) == 2
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_is_bad_is_refused_or_left_out_as_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = tmp_path / "prior.safetensors"
    words = ("meta-train", folder, "--class-word", "mug", "--output", prior, "--steps", 1, "--batch", 2)
    assert "--skip-bad" in _answered(capsys, *words)["error"]
    assert _answered(capsys, *words, "--skip-bad")["subjects"] == 3
    many = ("adapt-many", folder, "--class-word", "mug", "--output", tmp_path / "out", "--steps", 1, "--sheet", "off")
    assert sorted(_answered(capsys, *many)["failures"]) == ["bo", "dee"]
    assert sorted(_answered(capsys, *many, "--skip-bad")["failures"]) == ["dee"]
