"""Captions, cleaned text and the contact sheet."""

from __future__ import annotations

import pytest
import torch
from core.painted_photos import SIDE_PX, PaintedPhoto, varied_set
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from metalora_core.checks import plain_line
from metalora_core.errors import InvalidOptions
from metalora_core.photos.captions import build_captions, with_subject
from metalora_core.photos.contact_sheet import COLOURS, FRAME_PX, contact_sheet
from metalora_core.photos.pictures import GAP_PX, LEAST_TEXT_PX, PAPER, from_pil, from_uint8, grid, to_pil, to_uint8
from metalora_core.references.findings import Severity
from metalora_core.references.report import assess_references


def captions(*lines: str, trigger: str = "ohwx", class_word: str = "dog", count: int = 1) -> tuple[str, ...]:
    return build_captions(lines, trigger=trigger, class_word=class_word, count=count)


def test_the_fields_are_filled_in_for_each_photo():
    assert captions("photo of a {trigger} {class}, , on a table", count=2) == ("photo of a ohwx dog, on a table",) * 2


def test_one_line_per_photo():
    assert captions("a {trigger} {class} at sea", "{class} {trigger}", count=2) == ("a ohwx dog at sea", "dog ohwx")


def test_an_empty_line_gives_the_default():
    assert captions() == captions(" ") == ("photo of a ohwx dog",)
    assert captions("", "a dog", count=2) == ("photo of a ohwx dog", "a ohwx dog")


def test_the_subject_is_added_where_a_line_does_not_name_it():
    assert captions("at sea") == ("ohwx dog, at sea",)


@pytest.mark.parametrize(
    ("line", "trigger", "class_word", "expected"),
    [
        ("photo of a woman beside a man", "ohwx", "man", "photo of a woman beside a ohwx man"),
        ("photo of a mango on a man", "ohwx", "man", "photo of a mango on a ohwx man"),
        ("a man-made mango", "ohwx", "man", "ohwx man, a man-made mango"),
        ("a carpet under a pet", "sks", "pet", "a carpet under a sks pet"),
        ("Portrait of a Person, smiling", "ohwx", "person", "Portrait of a ohwx Person, smiling"),
        ("photo of a person's face", "ohwx", "person", "photo of a ohwx person's face"),
        ("a happy person.", "ohwx", "person", "a happy ohwx person."),
        ("two mugs, one mug, a mug", "ohwx", "mug", "two mugs, one ohwx mug, a mug"),
        ("it can't fall off the can", "ohwx", "can", "it can't fall off the ohwx can"),
        ("a category shelf with a mug", "cat", "mug", "a category shelf with a cat mug"),
        ("a bowl, smooth tokens", "tok", "bowl", "a tok bowl, smooth tokens"),
        ("an alien on a table", "al", "person", "al person, an alien on a table"),
        ("photo of OHWX person, blue wall", "ohwx", "person", "photo of ohwx person, blue wall"),
        ("a tea  pot (old)", "ohwx", "tea pot", "a ohwx tea pot (old)"),
        ("photo of a person", "ohwx person", "person", "photo of a ohwx person"),
        ("公園で犬が走る", "ohwx", "犬", "公園でohwx 犬が走る"),
    ],
)
def test_the_subject_is_named_once_by_whole_words_of_any_case(line: str, trigger: str, class_word: str, expected: str):
    assert captions(line, trigger=trigger, class_word=class_word) == (expected,)
    assert with_subject(expected, trigger, class_word) == expected, "naming it again changes nothing"


def test_words_are_never_filled_in_themselves():
    assert captions("{trigger} {class}", trigger="{class}", class_word="{trigger}") == ("{class} {trigger}",)


@pytest.mark.parametrize(
    ("lines", "class_word", "found"),
    [
        (["a {colour} {class}"], "mug", r"unknown field \{colour\}"),
        (["a {class.__init__}"], "mug", "unknown field"),
        (["a {class}"], "  ", "class word is empty"),
        (["a {class}", "the {class}"], "mug", "2 lines for 3 photos"),
    ],
)
def test_wrong_captions_are_refused_in_words(lines: list[str], class_word: str, found: str):
    with pytest.raises(InvalidOptions, match=found):
        captions(*lines, class_word=class_word, count=3)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=300), st.integers(1, 60))
def test_a_plain_line_is_one_bounded_harmless_line(text: str, limit: int):
    line = plain_line(text, limit)
    assert len(line) <= limit
    assert line == line.strip() and len(line.splitlines()) <= 1
    assert not any(mark in line for mark in "\x00\x1b\n\r\u202e\u200b\u2028")
    assert plain_line(line, limit) == line


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=120), st.integers(20, 400))
def test_a_text_stays_in_its_own_cell(text: str, width_px: int):
    picture = Image.new("RGB", (width_px, 4))
    sheet = grid([[picture, picture], [text, ""]])
    beside = sheet.crop((GAP_PX + width_px, 4 + GAP_PX, sheet.width, sheet.height))
    assert beside.getcolors() == [(beside.width * beside.height, ImageColor.getrgb(PAPER))]


def test_a_grid_shows_every_picture_in_its_place_and_its_text_below():
    pixels = torch.rand(3, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    sheet = from_pil(grid([[to_pil(picture) for picture in pixels], ["one", "", "three"], ["four", "five"]]))
    for number, picture in enumerate(pixels):
        left = GAP_PX + number * (50 + GAP_PX)
        torch.testing.assert_close(sheet[:, GAP_PX : GAP_PX + 40, left : left + 50], picture, atol=1 / 509, rtol=0)
        below = sheet[:, GAP_PX + 41 : GAP_PX + 40 + GAP_PX + LEAST_TEXT_PX, left : left + 50]
        assert bool((below < 0.5).any()) == (number != 1)


def test_bytes_and_pictures_are_the_same_both_ways():
    shades = torch.arange(256, dtype=torch.uint8).expand(3, 2, 256)
    assert torch.equal(to_uint8(from_uint8(shades)), shades)
    assert torch.equal(to_uint8(from_pil(to_pil(from_uint8(shades)))), shades)
    assert to_uint8(torch.tensor([-1.0, 0.5, 2.0])).tolist() == [0, 128, 255]


def test_the_sheet_shows_each_photo_in_a_frame_of_its_severity():
    photos = varied_set()
    photos[2] = PaintedPhoto("dark.png", photos[2].pixels * 0.2)
    photos[3] = PaintedPhoto("blank.png", torch.full_like(photos[3].pixels, 0.5))
    sheet = contact_sheet(photos, assess_references(photos, training_side_px=SIDE_PX), photo_px=200)
    top = 2 * GAP_PX + round(1.35 * LEAST_TEXT_PX)  # under the headline
    lefts = [GAP_PX + n * (200 + 2 * FRAME_PX + GAP_PX) for n in range(4)]
    good, check, unusable = (ImageColor.getrgb(COLOURS[s]) for s in (None, Severity.WARNING, Severity.BLOCKING))
    assert [sheet.getpixel((left, top)) for left in lefts] == [good, good, check, unusable]
    assert sheet.getpixel((lefts[3] + 100, top + 100)) in ((127, 127, 127), (128, 128, 128))


def test_the_sheet_takes_any_number_and_any_name_of_photos():
    pixels = varied_set()[0].pixels
    hostile = ["\x1b[31mred\x1b[0m", "写真.jpg", "\u202egpj.exe", "x" * 5000, "", "a\nb"]
    for count in (0, 1, 6, 34):
        photos = [PaintedPhoto(hostile[n % 6], pixels[:, 80:110, 80 : 104 + n]) for n in range(count)]
        sheet = contact_sheet(photos, assess_references(photos, training_side_px=SIDE_PX), photo_px=48)
        assert sheet.width < 5 * 48 + 200


def test_the_sheet_is_deterministic():
    photos = varied_set()
    report = assess_references(photos, training_side_px=SIDE_PX)
    assert contact_sheet(photos, report).tobytes() == contact_sheet(photos, report).tobytes()
