"""Draws the demonstration's picture: photos, base model, plain LoRA and Meta-LoRA side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

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


@dataclass(frozen=True)
class Column:
    """One way of making the pictures.

    Attributes:
        heading: Its name, over the column.
        note: A short line under the name, such as its scores.
        pictures: One per row, any size, shown square.
        winner: Stands on a tinted card.
    """

    heading: str
    note: str
    pictures: tuple[Image.Image, ...]
    winner: bool = False


@dataclass(frozen=True)
class Panel:
    """One subject: its photos and what each column made of every prompt.

    Attributes:
        heading: Large line over the panel.
        note: Line under it.
        photos: Reference photos, one to as many as there are rows are shown.
        prompts: What each row asked for.
        columns: One picture per prompt each.
    """

    heading: str
    note: str
    photos: tuple[Image.Image, ...]
    prompts: tuple[str, ...]
    columns: tuple[Column, ...]


def draw_figure(title: str, subtitle: str, panels: Sequence[Panel]) -> Image.Image:
    """Compose the whole figure, panels from left to right.

    Args:
        title: Largest line.
        subtitle: Line under it.
        panels: One or more subjects.

    Returns:
        An RGB picture as large as its content needs.
    """
    top = MARGIN + 92
    widths = [_panel_width(panel) for panel in panels]
    width = max(2 * MARGIN + sum(widths) + PANEL_GAP * (len(panels) - 1), 2 * MARGIN + 860)
    height = top + max(_panel_height(panel) for panel in panels) + MARGIN
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 12), title, INK, _font(42), anchor="lt")
    draw.text((MARGIN, MARGIN + 44), subtitle, SOFT, _fitting_font(subtitle, width - 2 * MARGIN, 21), anchor="lt")
    left = MARGIN
    for panel, panel_width in zip(panels, widths, strict=True):
        _draw_panel(page, panel, left, top)
        left += panel_width + PANEL_GAP
    return page


def _panel_width(panel: Panel) -> int:
    return (1 + len(panel.columns)) * TILE + len(panel.columns) * GAP + GAP


def _panel_height(panel: Panel) -> int:
    return PANEL_HEAD + HEAD + len(panel.prompts) * (CAPTION + TILE) + GAP


def _draw_panel(page: Image.Image, panel: Panel, left: int, top: int) -> None:
    draw = ImageDraw.Draw(page)
    right = left + _panel_width(panel)
    draw.line((left, top, right, top), (220, 218, 212), 2)
    draw.text((left, top + 40), panel.heading, INK, _font(28), anchor="ls")
    draw.text((left, top + 66), panel.note, SOFT, _font(18), anchor="ls")
    head = top + PANEL_HEAD
    rows = [head + HEAD + CAPTION + index * (CAPTION + TILE) for index in range(len(panel.prompts))]
    _draw_head(draw, "photos", "", left, head, SOFT)
    for photo, row in zip(panel.photos, rows, strict=False):
        _paste(page, photo, left, row)
    first = left + TILE + 2 * GAP
    for index, column in enumerate(panel.columns):
        _draw_column(page, column, first + index * (TILE + GAP), head, rows)
    for prompt, row in zip(panel.prompts, rows, strict=True):
        font = _fitting_font(prompt, right - first)
        draw.text((first, row - 10), prompt, INK, font, anchor="ls")


def _draw_column(page: Image.Image, column: Column, left: int, head: int, rows: Sequence[int]) -> None:
    draw = ImageDraw.Draw(page)
    if column.winner:
        box = (left - GAP // 2, head - 4, left + TILE + GAP // 2, rows[-1] + TILE + GAP // 2)
        draw.rounded_rectangle(box, CORNER + GAP // 2, CARD)
    _draw_head(draw, column.heading, column.note, left, head, ACCENT if column.winner else INK)
    for picture, row in zip(column.pictures, rows, strict=True):
        _paste(page, picture, left, row)


def _draw_head(
    draw: ImageDraw.ImageDraw, heading: str, note: str, left: int, top: int, ink: tuple[int, int, int]
) -> None:
    # Set on the baseline: words with and without tall letters then stand level.
    draw.text((left + 2, top + 28), heading, ink, _font(24), anchor="ls")
    for index, line in enumerate(note.splitlines()):
        draw.text((left + 2, top + 50 + index * 20), line, SOFT, _font(16), anchor="ls")


def _paste(page: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    square = ImageOps.fit(picture, (TILE, TILE), Image.Resampling.LANCZOS)
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
