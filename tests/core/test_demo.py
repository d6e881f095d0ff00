"""Laws of the demonstration: what it asks for, what it draws, what it tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from metalora_core.commands import cli
from metalora_core.demo.figure import demo_figure
from metalora_core.demo.run import MethodResult
from metalora_core.evaluation.subjects.pocket import demo_subject, other_scenes, pocket_subject
from metalora_core.evaluation.subjects.scores import PictureScores
from metalora_core.evaluation.subjects.world import TRIGGER, LearnedSubject
from metalora_core.photos.images import load_photo
from metalora_core.photos.pictures import save_picture, to_pil
from metalora_core.photos.training_set import TrainingSet
from metalora_core.pocket import load_readers
from metalora_core.pocket.world.factors import DOMAINS, Domain
from metalora_core.pocket.world.scenes import draw_scenes


def _unscored(*_: object) -> PictureScores:
    pytest.fail("scored")


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("photos", [1, 4])
def test_prompts_ask_for_what_the_photos_do_not_show(domain: Domain, photos: int) -> None:
    for seed in range(5):
        shown = draw_scenes(domain, photos, seed)
        asked = other_scenes(domain, shown, 8, seed + 1000, apart=3, same_light=True)
        assert len(asked) == 8
        assert not {scene.background for scene in asked} & {scene.background for scene in shown}
        assert not {(scene.turn, scene.tilt) for scene in asked} & {(scene.turn, scene.tilt) for scene in shown}
        assert len({scene.background for scene in asked[:4]}) == 4


def test_photos_of_every_scene_still_leave_prompts() -> None:
    assert len(other_scenes("avatars", draw_scenes("avatars", 400, 0), 5, 1)) == 5


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_test_subject_is_nobody_of_the_other_splits(domain: Domain) -> None:
    readers = load_readers()
    test = demo_subject(domain, 0, 1, 1, readers)
    other = pocket_subject(domain, "validation", 0, 1, readers[domain], photos=1)
    assert len(test.truth) == len(other.truth) == 1
    assert not torch.equal(test.photos.images[0], other.photos.images[0])
    assert all(TRIGGER in caption for caption in (*test.photos.captions, *test.prompts))
    assert not any(TRIGGER in caption for caption in test.nameless)
    assert test.nameless[0].startswith(f"photo of a {test.photos.class_word}, ")


def test_the_figure_is_the_same_each_time_and_grows_with_its_content() -> None:
    def panel(prompts: int, columns: int) -> tuple[LearnedSubject, list[MethodResult]]:
        pictures = torch.linspace(0, 0.9, prompts)[:, None, None, None].expand(-1, 3, 20, 20)
        photos = TrainingSet((pictures[0],), ("photo of a ohwx mug",), "mug", TRIGGER)
        asked = ("a prompt",) * prompts
        subject = LearnedSubject("products", 0, photos, asked, asked, "", pictures, asked, _unscored)
        names = ("base model", "Meta-LoRA", "truth", *(f"method {i}" for i in range(9)))
        return subject, [MethodResult(name, pictures, 0.1, 0.2) for name in names[:columns]]

    small, again = (demo_figure([panel(1, 3)], 100) for _ in range(2))
    assert small.tobytes() == again.tobytes()
    assert demo_figure([panel(3, 3)], 100).height > small.height
    assert demo_figure([panel(1, 8), panel(1, 3)], 100).width > small.width


def test_a_saved_picture_has_the_pixels_and_the_notes(tmp_path: Path) -> None:
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    save_picture(to_pil(pixels[0]), tmp_path / "new" / "a.png", {"prompt": "émail, 赤い"})
    with Image.open(tmp_path / "new" / "a.png") as written:
        assert written.info["prompt"] == "émail, 赤い"
    torch.testing.assert_close(load_photo(tmp_path / "new" / "a.png").pixels, pixels[0], atol=1 / 509, rtol=0)


def test_the_command_writes_a_picture_and_all_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--domain", "products", "--steps", "2", "--prompts", "2", "--json"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--output", str(tmp_path / "demo.png")])
    assert stop.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in told["rows"]] == ["base model", "plain LoRA", "Meta-LoRA", "truth"]
    assert all(row["identity_error"] >= 0 and row["prompt_error"] >= 0 for row in told["rows"])
    with Image.open(tmp_path / "demo.png") as written:
        assert written.width > 800


def test_own_photos_need_a_class_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--photos", str(tmp_path)])
    assert stop.value.code == 1
    assert "--class-word" in capsys.readouterr().err


def test_own_photos_are_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_picture(Image.linear_gradient("L").convert("RGB"), tmp_path / "photos" / "mug.png")
    words = ["demo", "--photos", str(tmp_path / "photos"), "--class-word", "mug", "--steps", "1", "--prompts", "1"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--json", "--output", str(tmp_path / "demo.png")])
    assert stop.value.code == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 3
