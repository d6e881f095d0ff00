"""Cards, badges and lines of text with smooth edges, drawn with Pillow's built-in font."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

Point = tuple[int, int]

SUPERSAMPLING = 4
"""Shapes are drawn this many times larger and reduced, since Pillow draws them with hard edges."""


@lru_cache(maxsize=16)
def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in font, scalable where Pillow was built with FreeType."""
    from PIL import ImageFont

    return ImageFont.load_default(size_px)


@lru_cache(maxsize=4096)
def _has_glyph(mark: str) -> bool:
    """Whether the font can draw a character: a missing one is drawn like the never assigned U+FFFF."""
    if mark.isspace():
        return True
    return _stamp(mark) != _stamp("\uffff")


def _stamp(mark: str) -> bytes:
    from PIL import Image, ImageDraw

    stamp = Image.new("L", (32, 32))
    ImageDraw.Draw(stamp).text((4, 4), mark, 255, font(16))
    return stamp.tobytes()


def drawable(text: str) -> str:
    """Replace what the font cannot draw by a middle dot."""
    return "".join(mark if _has_glyph(mark) else "·" for mark in text)


def text_width(text: str, size_px: int) -> float:
    """Width of a line in pixels."""
    return font(size_px).getlength(text)


def wrap(text: str, width_px: int, size_px: int, *, at_most: int) -> list[str]:
    """Break a text into lines that fit; what does not fit into the last one is cut with an ellipsis."""
    lines: list[str] = []
    words = drawable(text).split()
    while words and len(lines) < at_most:
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", size_px) <= width_px:
            line = f"{line} {words.pop(0)}"
        lines.append(_shortened(line, width_px, size_px, cut=bool(words) and len(lines) + 1 == at_most))
    return lines


def _shortened(line: str, width_px: int, size_px: int, *, cut: bool) -> str:
    if not cut and text_width(line, size_px) <= width_px:
        return line
    while line and text_width(line + "…", size_px) > width_px:
        line = line[:-1]
    return line.rstrip(" .,;") + "…"


class Brush:
    """Draws on one picture.

    Args:
        sheet: The picture, changed in place.
    """

    def __init__(self, sheet: Image.Image) -> None:
        from PIL import ImageDraw

        self._sheet = sheet
        self._draw = ImageDraw.Draw(sheet)

    def text(self, place: Point, line: str, size_px: int, colour: str) -> None:
        """Write one line, its upper left corner at ``place``."""
        self._draw.text(place, drawable(line), fill=colour, font=font(size_px))

    def card(self, place: Point, size: Point, colour: str, line: str, radius_px: int = 14) -> None:
        """A filled rectangle with round corners and a hairline around it."""
        self._sheet.paste(line, place, _rounded(size, radius_px))
        inner = (size[0] - 2, size[1] - 2)
        self._sheet.paste(colour, (place[0] + 1, place[1] + 1), _rounded(inner, radius_px - 1))

    def picture(self, place: Point, picture: Image.Image, radius_px: int = 8) -> None:
        """A photo with round corners."""
        self._sheet.paste(picture, place, _rounded(picture.size, radius_px))

    def badge(self, place: Point, label: str, colour: str, mark: str, size_px: int = 18) -> None:
        """A pill with a sign and a short text in white."""
        height = 34
        width = round(text_width(label, size_px)) + 52
        # A white rim keeps the badge apart from a photo of the same colour.
        self._sheet.paste("#ffffff", (place[0] - 2, place[1] - 2), _rounded((width + 4, height + 4), height // 2 + 2))
        self._sheet.paste(colour, place, _rounded((width, height), height // 2))
        self.mark((place[0] + 19, place[1] + height // 2), 11, "#ffffff", mark, ink=colour)
        self._draw.text((place[0] + 37, place[1] + height // 2), label, "#ffffff", font(size_px), anchor="lm")

    def mark(self, centre: Point, radius_px: int, colour: str, mark: str, ink: str = "#ffffff") -> None:
        """A disc with a tick, an i, an exclamation mark or a cross in it."""
        from PIL import Image, ImageDraw

        side = 2 * radius_px * SUPERSAMPLING
        place = (centre[0] - radius_px, centre[1] - radius_px)
        disc, sign = Image.new("L", (side, side)), Image.new("L", (side, side))
        ImageDraw.Draw(disc).ellipse((0, 0, side - 1, side - 1), fill=255)
        pen = ImageDraw.Draw(sign)
        stroke = max(2, round(side * 0.11))
        for stroke_points in _STROKES[mark]:
            points = [(x * side, y * side) for x, y in stroke_points]
            pen.line(points, fill=255, width=stroke, joint="curve")
            for x, y in points:
                pen.ellipse((x - stroke / 2, y - stroke / 2, x + stroke / 2, y + stroke / 2), fill=255)
        size = (2 * radius_px, 2 * radius_px)
        self._sheet.paste(colour, place, disc.resize(size, Image.Resampling.LANCZOS))
        self._sheet.paste(ink, place, sign.resize(size, Image.Resampling.LANCZOS))


# Each sign as strokes in a unit square; a stroke of one point is a dot.
_STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "tick": (((0.29, 0.52), (0.44, 0.67), (0.72, 0.35)),),
    "note": (((0.5, 0.46), (0.5, 0.73)), ((0.5, 0.28),)),
    "warning": (((0.5, 0.24), (0.5, 0.55)), ((0.5, 0.74),)),
    "cross": (((0.34, 0.34), (0.66, 0.66)), ((0.66, 0.34), (0.34, 0.66))),
}


def _rounded(size: Point, radius_px: int) -> Image.Image:
    """Mask of a rectangle with round, smooth corners."""
    from PIL import Image, ImageDraw

    large = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    mask = Image.new("L", large)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, large[0] - 1, large[1] - 1), radius_px * SUPERSAMPLING, fill=255)
    return mask.resize(size, Image.Resampling.LANCZOS)
