"""The contact sheet: every photo with a badge that says what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..checks import plain_line
from .findings import Finding, Severity
from .sheet_drawing import Brush, wrap

if TYPE_CHECKING:
    from PIL import Image

    from .report import ReferencePhoto, ReferenceReport

PAPER, CARD, INK, GREY, LINE = "#f3f1ec", "#ffffff", "#22252a", "#6b7078", "#dedad2"
COLOURS = {None: "#2f7d55", Severity.INFO: "#3b6ea8", Severity.WARNING: "#b86e00", Severity.BLOCKING: "#b3312c"}
MARGIN_PX, GAP_PX, PADDING_PX = 36, 22, 14
TITLE_PX, BODY_PX, SMALL_PX = 34, 19, 17
LINE_PX = 24
REMARKS_ON_CARD = 3
COLUMNS_AT_MOST = 4
PHOTOS_AT_MOST = 32
"""More photos than this are counted on the sheet, not drawn."""


def contact_sheet(photos: Sequence[ReferencePhoto], report: ReferenceReport, *, photo_px: int = 320) -> Image.Image:
    """Draw the photos as the model will see them, each with its badge and remarks.

    The badges differ in shape as well as in colour: a tick (good), an i (a note), an exclamation mark (to check),
    a cross (unusable).

    Args:
        photos: The photos of the report, in its order.
        report: What was found.
        photo_px: Side of each photo on the sheet, in pixels.

    Returns:
        An RGB picture.
    """
    from PIL import Image

    shown = list(photos[:PHOTOS_AT_MOST])
    columns = _columns(len(shown))
    card_width = photo_px + 2 * PADDING_PX
    width = 2 * MARGIN_PX + columns * card_width + (columns - 1) * GAP_PX
    remarks = [_card_lines(report.of_photo(index), photo_px) for index in range(len(shown))]
    rows = [range(start, min(start + columns, len(shown))) for start in range(0, len(shown), columns)]
    heights = [photo_px + 2 * PADDING_PX + 40 + LINE_PX * max(len(remarks[index]) for index in row) for row in rows]
    advice = _advice(report, width - 2 * MARGIN_PX - 56, hidden=len(photos) - len(shown))
    advice_height = sum(LINE_PX * len(lines) + 20 for _, lines in advice)
    top = MARGIN_PX + 92
    height = top + sum(heights) + GAP_PX * max(len(rows), 1) + advice_height + MARGIN_PX
    sheet = Image.new("RGB", (width, height), PAPER)
    brush = Brush(sheet)
    brush.text((MARGIN_PX, MARGIN_PX - 4), "Reference photos", TITLE_PX, INK)
    brush.text((MARGIN_PX, MARGIN_PX + 46), report.headline, BODY_PX, GREY)
    for row, row_height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            place = (MARGIN_PX + column * (card_width + GAP_PX), top)
            brush.card(place, (card_width, row_height), CARD, LINE)
            picture = _picture(shown[index].pixels, photo_px)
            _draw_card(brush, place, picture, report, index, remarks[index])
        top += row_height + GAP_PX
    for severity, lines in advice:
        brush.mark((MARGIN_PX + 17, top + 13), 14, COLOURS[severity], _MARKS[severity])
        for number, line in enumerate(lines):
            brush.text((MARGIN_PX + 44, top + LINE_PX * number), line, BODY_PX, INK)
        top += LINE_PX * len(lines) + 20
    return sheet


def sheet_as_tensor(sheet: Image.Image) -> Tensor:
    """A drawn sheet as a picture of shape (3, H, W), float32 in 0..1."""
    flat = torch.frombuffer(bytearray(sheet.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.reshape(sheet.height, sheet.width, 3).permute(2, 0, 1).float() / 255


_MARKS = {None: "tick", Severity.INFO: "note", Severity.WARNING: "warning", Severity.BLOCKING: "cross"}
_WORDS = {None: "Good", Severity.INFO: "Good", Severity.WARNING: "Check", Severity.BLOCKING: "Unusable"}


def _columns(count: int) -> int:
    if count <= COLUMNS_AT_MOST:
        return max(2, count)
    # 5 and 6 photos stand better in three columns than in four.
    return 3 if count <= 6 else COLUMNS_AT_MOST


def _card_lines(findings: Sequence[Finding], width_px: int) -> list[tuple[str, str]]:
    """Lines of text under a photo, each with its colour."""
    lines: list[tuple[str, str]] = []
    for finding in findings[:REMARKS_ON_CARD]:
        lines.append((finding.title, COLOURS[finding.severity]))
        lines += [(line, GREY) for line in wrap(finding.remedy, width_px, SMALL_PX, at_most=3)]
    if len(findings) > REMARKS_ON_CARD:
        lines.append((f"and {len(findings) - REMARKS_ON_CARD} more", GREY))
    return lines


def _advice(report: ReferenceReport, width_px: int, hidden: int) -> list[tuple[Severity | None, list[str]]]:
    advice: list[tuple[Severity | None, list[str]]] = [
        (
            finding.severity,
            wrap(f"{finding.title}. {finding.found} {finding.expected} {finding.remedy}", width_px, BODY_PX, at_most=4),
        )
        for finding in report.of_photo(None)
    ]
    if hidden:
        advice.append((Severity.INFO, [f"{hidden} more photos are not shown."]))
    if not report.findings:
        advice.append((None, wrap("Sharp, well lit and varied: ready to learn from.", width_px, BODY_PX, at_most=2)))
    return advice


def _draw_card(
    brush: Brush,
    place: tuple[int, int],
    picture: Image.Image,
    report: ReferenceReport,
    index: int,
    remarks: Sequence[tuple[str, str]],
) -> None:
    left, top = place[0] + PADDING_PX, place[1] + PADDING_PX
    side = picture.width
    brush.picture((left, top), picture)
    severity = report.severity_of(index)
    brush.badge((left + 10, top + 10), f"{index + 1}  {_WORDS[severity]}", COLOURS[severity], _MARKS[severity])
    name = wrap(plain_line(report.names[index], 80), side, BODY_PX, at_most=1)
    brush.text((left, top + side + 10), name[0] if name else "", BODY_PX, INK)
    for number, (line, colour) in enumerate(remarks):
        brush.text((left, top + side + 38 + LINE_PX * number), line, SMALL_PX, colour)


def _picture(pixels: Tensor, side_px: int) -> Image.Image:
    """Middle square of a photo; a damaged one is drawn grey."""
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[0] != 3 or min(pixels.shape[1:]) < 1:
        return Image.new("RGB", (side_px, side_px), LINE)
    side = min(pixels.shape[1:])
    top, left = (pixels.shape[1] - side) // 2, (pixels.shape[2] - side) // 2
    square = pixels[:, top : top + side, left : left + side].detach().float().cpu().nan_to_num(0.5, 0.5, 0.5)
    drawn = interpolate(square[None], size=(side_px, side_px), mode="bicubic", antialias=True)[0].clamp(0, 1)
    data = (drawn.permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous()
    return Image.frombytes("RGB", (side_px, side_px), data.numpy().tobytes())
