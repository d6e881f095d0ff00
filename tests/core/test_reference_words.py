"""Captions, cleaned text and the contact sheet."""

from __future__ import annotations

import pytest
import torch
from core.painted_photos import PaintedPhoto, varied_set
from hypothesis import given, settings
from hypothesis import strategies as st

from metalora_core.checks import plain_line
from metalora_core.errors import InvalidOptions
from metalora_core.photos.captions import build_captions, class_caption
from metalora_core.references.contact_sheet import contact_sheet, sheet_as_tensor
from metalora_core.references.quality import QualityThresholds
from metalora_core.references.report import assess_references
from metalora_core.references.sheet_drawing import text_width, wrap

LIMITS = QualityThresholds(training_side_px=192)


def test_the_template_is_filled_in_for_each_photo():
    built = build_captions(
        "photo of a {trigger} {class}, {details}", trigger="ohwx", class_word="mug", count=2, details=["on a table", ""]
    )
    assert built == ("photo of a ohwx mug, on a table", "photo of a ohwx mug")


def test_one_line_per_photo():
    lines = "a {trigger} {class} at sea\n\n{class} {trigger}"
    assert build_captions(lines, trigger="ohwx", class_word="dog", count=2) == ("a ohwx dog at sea", "dog ohwx")


def test_an_empty_template_gives_the_default():
    assert build_captions(" ", trigger="ohwx", class_word="person", count=1) == ("photo of a ohwx person",)


def test_the_subject_is_added_where_a_line_does_not_name_it():
    assert build_captions("at sea", trigger="ohwx", class_word="dog", count=1) == ("ohwx dog, at sea",)


def test_the_class_caption_lacks_the_trigger():
    assert class_caption("photo of a {trigger} {class}, smiling", "person") == "photo of a person, smiling"


def test_words_are_never_filled_in_themselves():
    assert build_captions("{trigger} {class}", trigger="{class}", class_word="{details}", count=1) == (
        "{class} {details}",
    )


@pytest.mark.parametrize(
    ("template", "class_word", "details", "found"),
    [
        ("a {colour} {class}", "mug", [], r"unknown field \{colour\}"),
        ("a {class.__init__}", "mug", [], "unknown field"),
        ("a {class}", "  ", [], "class word is empty"),
        ("a {class}\nthe {class}", "mug", [], "2 lines for 3 photos"),
        ("a {class}", "mug", ["red"], "1 detail texts for 3 photos"),
    ],
)
def test_wrong_templates_are_refused_in_words(template: str, class_word: str, details: list[str], found: str):
    with pytest.raises(InvalidOptions, match=found):
        build_captions(template, trigger="ohwx", class_word=class_word, count=3, details=details)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=300), st.integers(1, 60))
def test_a_plain_line_is_one_bounded_harmless_line(text: str, limit: int):
    line = plain_line(text, limit)
    assert len(line) <= limit
    assert line == line.strip() and len(line.splitlines()) <= 1
    assert not any(mark in line for mark in "\x00\x1b\n\r\u202e\u200b\u2028")
    assert plain_line(line, limit) == line


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=120), st.integers(60, 400), st.integers(1, 4))
def test_wrapped_lines_fit(text: str, width_px: int, at_most: int):
    lines = wrap(text, width_px, 17, at_most=at_most)
    assert len(lines) <= at_most
    assert all(text_width(line, 17) <= width_px for line in lines)


def test_the_sheet_shows_each_photo_in_its_place_with_the_badge_of_its_severity():
    photos = varied_set()
    photos[2] = PaintedPhoto("dark.png", photos[2].pixels * 0.2)
    photos[3] = PaintedPhoto("blank.png", torch.full_like(photos[3].pixels, 0.5))
    sheet = contact_sheet(photos, assess_references(photos, thresholds=LIMITS), photo_px=200)
    badges = [sheet.getpixel((36 + n * (228 + 22) + 14 + 10 + 6, 128 + 14 + 10 + 17)) for n in range(4)]
    assert badges == [(47, 125, 85), (47, 125, 85), (184, 110, 0), (179, 49, 44)]
    blank = sheet.getpixel((36 + 3 * (228 + 22) + 14 + 100, 128 + 14 + 100))
    assert blank == (128, 128, 128)


def test_the_sheet_takes_any_number_and_any_name_of_photos():
    pixels = varied_set()[0].pixels
    hostile = ["\x1b[31mred\x1b[0m", "写真.jpg", "\u202egpj.exe", "x" * 5000, "", "a\nb"]
    for count in (0, 1, 6, 34):
        photos = [PaintedPhoto(hostile[n % 6], pixels[:, 80:110, 80 : 104 + n]) for n in range(count)]
        report = assess_references(photos, thresholds=LIMITS)
        sheet = contact_sheet(photos, report, photo_px=48)
        assert sheet_as_tensor(sheet).shape == (3, sheet.height, sheet.width)


def test_the_sheet_is_deterministic():
    photos = varied_set()
    report = assess_references(photos, thresholds=LIMITS)
    assert contact_sheet(photos, report).tobytes() == contact_sheet(photos, report).tobytes()
