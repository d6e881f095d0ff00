"""The demonstration's picture: photos, base model, plain LoRA and Meta-LoRA side by side."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from ..evaluation.subjects.world import LearnedSubject
from ..photos.pictures import to_pil
from .run import MethodResult

# All lengths in pixels of the finished figure.
TILE = 192
GAP = 14
MARGIN = 56
PANEL_GAP = 72
CAPTION = 40
HEAD = 84
PANEL_HEAD = 82
CORNER = 14
PAPER = (250, 249, 246)
CARD = (229, 238, 233)
INK = (32, 34, 38)
SOFT = (112, 115, 121)
ACCENT = (22, 112, 82)
ROWS_SHOWN = 4
_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


def demo_figure(runs: Sequence[tuple[LearnedSubject, Sequence[MethodResult]]], steps: int) -> Image.Image:
    """Compose the whole figure: one panel per subject from left to right, the first prompts as rows.

    Args:
        runs: Subjects with what each method made of them.
        steps: Training steps of both methods.

    Returns:
        An RGB picture as large as its content needs.
    """
    count = len(runs[0][0].photos.images)
    title = f"Learned from {_WORDS.get(count, str(count))} photo{'s' if count > 1 else ''}"
    known = all(len(subject.truth) for subject, _ in runs)
    whose = "Subjects that no training has seen" if known else "Your own photos"
    subtitle = f"{whose}; the same {steps} steps and prompts for both methods. Errors: lower is better."
    top = MARGIN + 92
    widths = [(1 + len(results)) * (TILE + GAP) for _, results in runs]
    rows = max(min(ROWS_SHOWN, len(subject.prompts)) for subject, _ in runs)
    width = max(2 * MARGIN + sum(widths) + PANEL_GAP * (len(runs) - 1), 2 * MARGIN + 860)
    height = top + PANEL_HEAD + HEAD + rows * (CAPTION + TILE) + GAP + MARGIN
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 12), title, INK, _font(42), anchor="lt")
    draw.text((MARGIN, MARGIN + 44), subtitle, SOFT, _fitting_font(subtitle, width - 2 * MARGIN, 21), anchor="lt")
    left = MARGIN
    for (subject, results), panel_width in zip(runs, widths, strict=True):
        _draw_panel(page, subject, results, (left, top, left + panel_width))
        left += panel_width + PANEL_GAP
    return page


def _draw_panel(
    page: Image.Image, subject: LearnedSubject, results: Sequence[MethodResult], place: tuple[int, int, int]
) -> None:
    draw, (left, top, right), word = ImageDraw.Draw(page), place, subject.photos.class_word
    draw.line((left, top, right, top), (220, 218, 212), 2)
    draw.text((left, top + 40), f"A {word}", INK, _font(28), anchor="ls")
    note = f'prompts: "photo of a {subject.photos.trigger} {word}, …"'
    draw.text((left, top + 66), note, SOFT, _font(18), anchor="ls")
    head = top + PANEL_HEAD
    asked = subject.asked[:ROWS_SHOWN]
    rows = [head + HEAD + CAPTION + index * (CAPTION + TILE) for index in range(len(asked))]
    _draw_head(draw, "photos", "", left, head, SOFT)
    for photo, row in zip(subject.photos.images, rows, strict=False):
        _paste(page, photo, left, row)
    first = left + TILE + 2 * GAP
    for index, result in enumerate(results):
        _draw_column(page, result, first + index * (TILE + GAP), head, rows)
    for prompt, row in zip(asked, rows, strict=True):
        draw.text((first, row - 10), prompt, INK, _fitting_font(prompt, right - first), anchor="ls")


def _draw_column(page: Image.Image, result: MethodResult, left: int, head: int, rows: Sequence[int]) -> None:
    draw, ours = ImageDraw.Draw(page), result.method == "Meta-LoRA"
    if ours:
        box = (left - GAP // 2, head - 4, left + TILE + GAP // 2, rows[-1] + TILE + GAP // 2)
        draw.rounded_rectangle(box, CORNER + GAP // 2, CARD)
    kind = "floor" if result.method == "truth" else "error"
    note = f"identity {kind} {result.identity_error:.3f}\nprompt {kind} {result.prompt_error:.3f}"
    _draw_head(draw, result.method, note, left, head, ACCENT if ours else INK)
    for picture, row in zip(result.pictures, rows, strict=False):
        _paste(page, picture, left, row)


def _draw_head(
    draw: ImageDraw.ImageDraw, heading: str, note: str, left: int, top: int, ink: tuple[int, int, int]
) -> None:
    # Set on the baseline: words with and without tall letters then stand level.
    draw.text((left + 2, top + 28), heading, ink, _font(24), anchor="ls")
    for index, line in enumerate(note.splitlines()):
        draw.text((left + 2, top + 50 + index * 20), line, SOFT, _font(16), anchor="ls")


def _paste(page: Image.Image, picture: Tensor, left: int, top: int) -> None:
    square = ImageOps.fit(to_pil(picture), (TILE, TILE), Image.Resampling.LANCZOS)
    mask = Image.new("L", (TILE * 4, TILE * 4), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, TILE * 4 - 1, TILE * 4 - 1), CORNER * 4, 255)
    page.paste(square, (left, top), mask.resize((TILE, TILE), Image.Resampling.LANCZOS))


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _fitting_font(text: str, width_px: int, largest_px: int = 18) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for size in range(largest_px, 10, -1):
        if _font(size).getlength(text) <= width_px:
            return _font(size)
    return _font(10)
