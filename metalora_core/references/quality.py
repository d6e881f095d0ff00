"""What a photographer would say about each single photo.

The limits were set on photographs and degraded copies of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .exposure import Exposure, flat_backdrop, measure_exposure
from .findings import Finding, Severity
from .pixels import luma, shrink
from .sharpness import Sharpness, measure_sharpness
from .subject_box import SubjectEstimate, estimate_subject

SMALLEST_SHARE, SMALL_SHARE = 0.25, 0.9
"""Shorter side over the training size, below which a photo is refused, and below which it gets a warning."""

LONGEST_ASPECT = 2.0
"""Longer over shorter side; only the middle square is used."""

EDGE_WIDTH_PX = 1.25
"""Widest acceptable profile of the sharpest edges, standard deviation at the training size. Photographs in focus have 0
to 0.9; blurred by 1.5 px they have 1.0 to 1.5, by 2 px 1.4 to 2.0."""

ENLARGED_WIDTH_PX = 0.5
"""What that profile is of a sharp photo at its own size; enlarged n times, it is n times as wide."""

SHAKE_DETAIL, SHAKE_EVENNESS, SHAKE_WIDTH_PX = 1.8, 0.84, 1.0
"""Camera shake: fine over coarse contrast in the blurred direction (photographs in focus have 1.8 or more); that over
the sharpest direction (shaken by 9 px or more 0.55 to 0.84, out of focus 0.87 or more); width of the edges across the
blur (shaken by 7 px or more at least 1.0, whatever else is sharp). A shaken photo fails all three."""

DARK_BRIGHT = 0.32
"""Least brightness of the brightest 5 %."""

LIGHT_MIDDLE, LIGHT_DARK, NOTHING_DARK = 0.84, 0.45, 0.65
"""A subject with a median and a darkest 5 % above the first two is too bright; with its darkest 5 % above the third,
whatever its median."""

MOST_BURNT, MOST_BLOCKED = 0.04, 0.12
"""Largest shares of pure white and pure black that are not backdrop."""

LEAST_CONTRAST = 0.12
"""Least distance between the darkest and the brightest 5 %."""

SUBJECT_SIDE = 0.35
"""Least share of the photo's shorter side that the longer side of the subject fills."""

OUTSIDE_CROP = 0.15
"""Largest share of the subject's box that the square crop may cut off."""


@dataclass(frozen=True)
class PhotoMeasures:
    """Everything measured of one photo.

    Attributes:
        width_px, height_px: Size of the photo as it was given.
        training_side_px: Side of the pictures that the model is trained on.
        sharpness: At the training size; None where there are too few edges to judge.
        exposure: Brightness and clipping.
        subject: None if subject and background are indistinguishable.
        backdrop: The one colour, as "#ff00ff", that fills the background to the last bit; empty for none.
    """

    width_px: int
    height_px: int
    training_side_px: int
    sharpness: Sharpness | None
    exposure: Exposure
    subject: SubjectEstimate | None
    backdrop: str


def measure_photo(pixels: Tensor, training_side_px: int = 512) -> PhotoMeasures:
    """Measure one photo.

    Args:
        pixels: Shape (3, H, W) in 0..1, finite.
        training_side_px: Side of the pictures that the model is trained on.
    """
    height, width = pixels.shape[-2:]
    sharpness = measure_sharpness(luma(shrink(pixels.float(), training_side_px)))
    exposure, subject = measure_exposure(pixels), estimate_subject(pixels)
    return PhotoMeasures(width, height, training_side_px, sharpness, exposure, subject, flat_backdrop(pixels))


def judge_photo(measures: PhotoMeasures, photo: int, name: str) -> list[Finding]:
    """Turn the measures of one photo into findings, each with what to do about it.

    Args:
        measures: Of the photo.
        photo: Its position in the set, from 0.
        name: Its name.
    """
    findings: list[Finding] = []
    for judge in (_judge_size, _judge_sharpness, _judge_exposure, _judge_clipping, _judge_backdrop, _judge_subject):
        findings += [Finding(*remark, photo, name) for remark in judge(measures)]
        if any(finding.severity is Severity.BLOCKING for finding in findings):
            break  # For an unusable photo, nothing else matters.
    return findings


_Remark = tuple[str, Severity, str, str, str]


def _judge_size(measures: PhotoMeasures) -> Iterator[_Remark]:
    width, height, side = measures.width_px, measures.height_px, measures.training_side_px
    found = f"It is {width} × {height} px."
    expected = f"The model trains at {side} × {side} px."
    remedy = "Use the original file instead of a preview, or a photo from closer up."
    if min(width, height) < SMALLEST_SHARE * side:
        yield "resolution_too_small", Severity.BLOCKING, found, expected, remedy
    elif min(width, height) < SMALL_SHARE * side:
        yield "resolution_small", Severity.WARNING, found, expected, remedy
    if max(width, height) > LONGEST_ASPECT * min(width, height):
        yield (
            "extreme_aspect",
            Severity.WARNING,
            f"{found} Only the middle square is used.",
            f"One side at most {LONGEST_ASPECT:g} times the other.",
            "Crop it around the subject.",
        )


def _judge_sharpness(measures: PhotoMeasures) -> Iterator[_Remark]:
    sharpness, side = measures.sharpness, measures.training_side_px
    if sharpness is None:
        contrast = measures.exposure.contrast
        found, expected = "There are almost no edges in the middle of the picture.", "A subject with outlines."
        if contrast < 0.01:
            yield "blank", Severity.BLOCKING, found, expected, "Check that the right file is loaded."
        else:
            # Dark and bright without an edge between them: so out of focus that there is no edge to measure.
            severity = Severity.WARNING if contrast >= LEAST_CONTRAST else Severity.INFO
            yield "no_detail", severity, found, expected, "Focus on the subject and retake the photo."
        return
    # A small photo is enlarged for training, and its edges with it.
    width_px = sharpness.width_px * max(1.0, side / min(measures.width_px, measures.height_px))
    shaken = sharpness.detail < SHAKE_DETAIL and sharpness.evenness < SHAKE_EVENNESS
    if shaken and sharpness.across_px >= SHAKE_WIDTH_PX:
        yield (
            "motion_blur",
            Severity.WARNING,
            f"Fine detail in one direction is {100 * sharpness.evenness:.0f} % of that in another.",
            f"{100 * SHAKE_EVENNESS:.0f} % or more.",
            "Hold still or use a shorter exposure time, and retake the photo.",
        )
    elif width_px > EDGE_WIDTH_PX:
        own_px = round(side * ENLARGED_WIDTH_PX / width_px)
        yield (
            "soft",
            Severity.WARNING,
            f"The sharpest edges are {width_px:.1f} px wide at {side} px, as in a picture of {own_px} px that was "
            "enlarged.",
            f"At most {EDGE_WIDTH_PX:.2f} px.",
            "Focus on the subject and retake the photo; if it was enlarged, use the original file.",
        )


def _judge_exposure(measures: PhotoMeasures) -> Iterator[_Remark]:
    exposure = measures.exposure
    if exposure.bright < DARK_BRIGHT:
        yield (
            "underexposed",
            Severity.WARNING,
            f"Its brightest parts reach {100 * exposure.bright:.0f} % of white.",
            f"At least {100 * DARK_BRIGHT:.0f} %.",
            "Add light or raise the exposure.",
        )
    elif exposure.dark > NOTHING_DARK or (exposure.middle > LIGHT_MIDDLE and exposure.dark > LIGHT_DARK):
        yield (
            "overexposed",
            Severity.WARNING,
            f"Half of the subject is brighter than {100 * exposure.middle:.0f} % of white, almost nothing is darker "
            f"than {100 * exposure.dark:.0f} %.",
            f"A median of at most {100 * LIGHT_MIDDLE:.0f} %, and darker parts.",
            "Lower the exposure or the light.",
        )
    elif exposure.contrast < LEAST_CONTRAST:
        yield (
            "low_contrast",
            Severity.WARNING,
            f"Dark and bright parts differ by {100 * exposure.contrast:.0f} % of white.",
            f"At least {100 * LEAST_CONTRAST:.0f} %.",
            "Avoid haze and back light, or raise the contrast.",
        )


def _judge_clipping(measures: PhotoMeasures) -> Iterator[_Remark]:
    exposure, card = measures.exposure, "Brighten the shadows with a second light or a white card."
    for code, share, most, colour, remedy in (
        ("highlights_clipped", exposure.burnt, MOST_BURNT, "white", "Lower the exposure or soften the light."),
        ("shadows_clipped", exposure.blocked, MOST_BLOCKED, "black", card),
    ):
        if share > most:
            found = f"{100 * share:.0f} % of it is pure {colour} without detail."
            yield code, Severity.WARNING, found, f"At most {100 * most:.0f} %, not counting a plain backdrop.", remedy


def _judge_backdrop(measures: PhotoMeasures) -> Iterator[_Remark]:
    if measures.backdrop:
        yield (
            "flat_backdrop",
            Severity.WARNING,
            f"The background is exactly {measures.backdrop} everywhere, as under a cut-out that lost its transparency.",
            "A real background; this colour would be learned as part of the subject.",
            "Load Image drops transparency: connect its IMAGE and MASK to Join Image with Alpha, and that to this "
            "node; transparency is then put on white.",
        )


def _judge_subject(measures: PhotoMeasures) -> Iterator[_Remark]:
    subject = measures.subject
    if subject is None:
        return
    width, height = measures.width_px, measures.height_px
    short = min(width, height)
    box_width, box_height = (subject.right - subject.left) * width, (subject.bottom - subject.top) * height
    side = max(box_width, box_height) / short
    if side < SUBJECT_SIDE:
        yield (
            "subject_small",
            Severity.WARNING,
            f"What stands out from the background fills about {100 * side:.0f} % of the picture's side.",
            f"At least {100 * SUBJECT_SIDE:.0f} %.",
            "Move closer or crop around the subject.",
        )
    crop_left, crop_top = (width - short) / 2, (height - short) / 2
    kept_width = min(subject.right * width, crop_left + short) - max(subject.left * width, crop_left)
    kept_height = min(subject.bottom * height, crop_top + short) - max(subject.top * height, crop_top)
    cut = 1 - max(kept_width, 0.0) * max(kept_height, 0.0) / max(box_width * box_height, 1e-6)
    if cut > OUTSIDE_CROP:
        yield (
            "subject_off_centre",
            Severity.WARNING,
            f"The square crop would cut off about {100 * cut:.0f} % of the subject.",
            f"At most {100 * OUTSIDE_CROP:.0f} %.",
            "Crop the photo to a square around the subject.",
        )
