"""The contact sheet: every photo with its findings under it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps
from torch import Tensor

from ..checks import plain_line
from ..references.findings import Severity
from ..references.report import ReferencePhoto, ReferenceReport
from .images import fit
from .pictures import grid, to_pil

COLOURS = {None: "#2f7d55", Severity.INFO: "#2f7d55", Severity.WARNING: "#b86e00", Severity.BLOCKING: "#b3312c"}
"""Of the frame around a photo, by its most severe finding."""
WORDS = {None: "good", Severity.INFO: "good", Severity.WARNING: "check", Severity.BLOCKING: "unusable"}
GREY = "#dedad2"
FRAME_PX = 4
COLUMNS_AT_MOST = 4
PHOTOS_AT_MOST = 32
"""More photos than this are counted on the sheet, not shown."""


def contact_sheet(photos: Sequence[ReferencePhoto], report: ReferenceReport, *, photo_px: int = 320) -> Image.Image:
    """Show the photos as the model will see them, each in a frame of its verdict's colour with its findings below.

    Args:
        photos: The photos of the report, in its order.
        report: What was found.
        photo_px: Side of each photo on the sheet, in pixels.

    Returns:
        An RGB picture.
    """
    shown = range(min(len(photos), PHOTOS_AT_MOST))
    # 5 and 6 photos stand better in three columns than in four.
    columns = 3 if len(shown) in (5, 6) else COLUMNS_AT_MOST
    rows: list[Sequence[Image.Image | str]] = [[report.headline]]
    for start in shown[::columns]:
        numbers = shown[start : start + columns]
        rows.append([_framed(photos[n].pixels, COLOURS[report.severity_of(n)], photo_px) for n in numbers])
        rows.append([_words(report, n) for n in numbers])
    rows += [[finding.text] for finding in report.of_photo(None)]
    if len(photos) > len(shown):
        rows.append([f"{len(photos) - len(shown)} more photos are not shown."])
    return grid(rows)


def _framed(pixels: Tensor, colour: str, side_px: int) -> Image.Image:
    """Middle square of a photo; a damaged one is grey."""
    picture = Image.new("RGB", (side_px, side_px), GREY)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.numel():
        picture = to_pil(fit(pixels.float().nan_to_num(0.5, 0.5, 0.5), side_px))
    return ImageOps.expand(picture, FRAME_PX, colour)


def _words(report: ReferenceReport, photo: int) -> str:
    findings = [f"{finding.title}. {finding.remedy}" for finding in report.of_photo(photo)]
    return "\n".join([f"{plain_line(report.names[photo], 60)}: {WORDS[report.severity_of(photo)]}", *findings])
