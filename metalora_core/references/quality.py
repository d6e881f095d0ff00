"""What a photographer would say about each single photo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .exposure import Exposure, measure_exposure
from .findings import Finding, Severity
from .pixels import luma, shrink
from .sharpness import Sharpness, measure_sharpness
from .subject_box import SubjectEstimate, estimate_subject


@dataclass(frozen=True)
class QualityThresholds:
    """Limits between a good photo and a finding; the defaults were set on photographs and degraded copies of them.

    Attributes:
        training_side_px: Side of the square pictures that the model is trained on. Photos are judged at this size.
        smallest_share: Shorter side over ``training_side_px`` below which a photo is refused.
        small_share: The same for a warning.
        aspect: Longer over shorter side; the middle square is what is learned from.
        edge_width_px: Widest acceptable profile of the sharpest edges, standard deviation at the training size.
            Photographs in focus have 0 to 0.9; blurred by 1.5 px they have 1.0 to 1.5, by 2 px 1.4 to 2.0.
        shake_detail: Fine over coarse contrast in the blurred direction; photographs in focus have 1.9 or more.
        shake_evenness: That direction over the sharpest one; shaken by 9 px or more 0.55 to 0.84, out of focus 0.87 or
            more. A shaken photo fails both.
        dark_bright: Least brightness of the brightest 5 %.
        light_middle, light_dark: A subject with a median and a darkest 5 % above both is too bright.
        nothing_dark: A subject with its darkest 5 % above this is too bright, whatever its median.
        burnt: Largest share of pure white that is not backdrop.
        blocked: Largest share of pure black that is not backdrop.
        contrast: Least distance between the darkest and brightest 5 %.
        subject_side: Least share of the shorter side of the photo that the longer side of the subject fills.
        outside_crop: Largest share of the subject's box that the square crop may cut off.
    """

    training_side_px: int = 512
    smallest_share: float = 0.25
    small_share: float = 0.9
    aspect: float = 2.0
    edge_width_px: float = 1.25
    shake_detail: float = 1.8
    shake_evenness: float = 0.84
    dark_bright: float = 0.32
    light_middle: float = 0.84
    light_dark: float = 0.45
    nothing_dark: float = 0.65
    burnt: float = 0.04
    blocked: float = 0.12
    contrast: float = 0.12
    subject_side: float = 0.35
    outside_crop: float = 0.15


@dataclass(frozen=True)
class PhotoMeasures:
    """Everything measured of one photo.

    Attributes:
        width_px, height_px: Size of the photo as it was given.
        sharpness: At the training size; None where there are too few edges to judge.
        exposure: Brightness and clipping.
        subject: None if subject and background are indistinguishable.
    """

    width_px: int
    height_px: int
    sharpness: Sharpness | None
    exposure: Exposure
    subject: SubjectEstimate | None


def measure_photo(pixels: Tensor, training_side_px: int = 512) -> PhotoMeasures:
    """Measure one photo.

    Args:
        pixels: Shape (3, H, W) in 0..1, finite.
        training_side_px: Side of the pictures that the model is trained on.
    """
    height, width = pixels.shape[-2:]
    sharpness = measure_sharpness(luma(shrink(pixels.float(), training_side_px)))
    return PhotoMeasures(width, height, sharpness, measure_exposure(pixels), estimate_subject(pixels))


def judge_photo(
    measures: PhotoMeasures, photo: int, name: str, thresholds: QualityThresholds | None = None
) -> list[Finding]:
    """Turn the measures of one photo into findings, each with what to do about it.

    Args:
        measures: Of the photo.
        photo: Its position in the set, from 0.
        name: Its name.
        thresholds: Limits; the defaults if None.
    """
    limits = thresholds or QualityThresholds()
    findings: list[Finding] = []
    for judge in (_judge_size, _judge_sharpness, _judge_exposure, _judge_clipping, _judge_subject):
        for code, severity, found, expected, remedy in judge(measures, limits):
            findings.append(Finding(code, severity, found, expected, remedy, photo, name))
        if any(finding.severity is Severity.BLOCKING for finding in findings):
            break  # For an unusable photo, nothing else matters.
    return findings


_Remark = tuple[str, Severity, str, str, str]


def _judge_size(measures: PhotoMeasures, limits: QualityThresholds) -> Iterator[_Remark]:
    width, height, side = measures.width_px, measures.height_px, limits.training_side_px
    found = f"It is {width} × {height} px."
    expected = f"The model trains at {side} × {side} px."
    remedy = "Use the original file instead of a preview, or a photo from closer up."
    if min(width, height) < limits.smallest_share * side:
        yield "resolution_too_small", Severity.BLOCKING, found, expected, remedy
    elif min(width, height) < limits.small_share * side:
        yield "resolution_small", Severity.WARNING, found, expected, remedy
    if max(width, height) > limits.aspect * min(width, height):
        yield (
            "extreme_aspect",
            Severity.WARNING,
            f"{found} Only the middle square is used.",
            f"One side at most {limits.aspect:g} times the other.",
            "Crop it around the subject.",
        )


def _judge_sharpness(measures: PhotoMeasures, limits: QualityThresholds) -> Iterator[_Remark]:
    sharpness = measures.sharpness
    if sharpness is None:
        contrast = measures.exposure.contrast
        found, expected = "There are almost no edges in the middle of the picture.", "A subject with outlines."
        if contrast < 0.01:
            yield "blank", Severity.BLOCKING, found, expected, "Check that the right file is loaded."
        else:
            # Dark and bright without an edge between them: so out of focus that there is no edge to measure.
            severity = Severity.WARNING if contrast >= limits.contrast else Severity.INFO
            yield "no_detail", severity, found, expected, "Focus on the subject and retake the photo."
        return
    # A small photo is enlarged for training, and its edges with it.
    enlargement = max(1.0, limits.training_side_px / min(measures.width_px, measures.height_px))
    width_px = sharpness.width_px * enlargement
    if sharpness.detail < limits.shake_detail and sharpness.evenness < limits.shake_evenness:
        yield (
            "motion_blur",
            Severity.WARNING,
            f"Fine detail in one direction is {100 * sharpness.evenness:.0f} % of that in another.",
            f"{100 * limits.shake_evenness:.0f} % or more.",
            "Hold still or use a shorter exposure time, and retake the photo.",
        )
    elif width_px > limits.edge_width_px:
        yield (
            "soft",
            Severity.WARNING,
            f"The sharpest edges are {width_px:.1f} px wide at {limits.training_side_px} px.",
            f"At most {limits.edge_width_px:.2f} px.",
            "Focus on the subject and retake the photo, or leave it out.",
        )


def _judge_exposure(measures: PhotoMeasures, limits: QualityThresholds) -> Iterator[_Remark]:
    exposure = measures.exposure
    if exposure.bright < limits.dark_bright:
        yield (
            "underexposed",
            Severity.WARNING,
            f"Its brightest parts reach {100 * exposure.bright:.0f} % of white.",
            f"At least {100 * limits.dark_bright:.0f} %.",
            "Add light or raise the exposure.",
        )
    elif exposure.dark > limits.nothing_dark or (
        exposure.middle > limits.light_middle and exposure.dark > limits.light_dark
    ):
        yield (
            "overexposed",
            Severity.WARNING,
            f"Half of the subject is brighter than {100 * exposure.middle:.0f} % of white, almost nothing is darker "
            f"than {100 * exposure.dark:.0f} %.",
            f"A median of at most {100 * limits.light_middle:.0f} %, and darker parts.",
            "Lower the exposure or the light.",
        )
    elif exposure.contrast < limits.contrast:
        yield (
            "low_contrast",
            Severity.WARNING,
            f"Dark and bright parts differ by {100 * exposure.contrast:.0f} % of white.",
            f"At least {100 * limits.contrast:.0f} %.",
            "Avoid haze and back light, or raise the contrast.",
        )


def _judge_clipping(measures: PhotoMeasures, limits: QualityThresholds) -> Iterator[_Remark]:
    exposure = measures.exposure
    if exposure.burnt > limits.burnt:
        yield (
            "highlights_clipped",
            Severity.WARNING,
            f"{100 * exposure.burnt:.0f} % of it is pure white without detail.",
            f"At most {100 * limits.burnt:.0f} %, not counting a plain backdrop.",
            "Lower the exposure or soften the light.",
        )
    if exposure.blocked > limits.blocked:
        yield (
            "shadows_clipped",
            Severity.WARNING,
            f"{100 * exposure.blocked:.0f} % of it is pure black without detail.",
            f"At most {100 * limits.blocked:.0f} %, not counting a plain backdrop.",
            "Brighten the shadows with a second light or a white card.",
        )


def _judge_subject(measures: PhotoMeasures, limits: QualityThresholds) -> Iterator[_Remark]:
    subject = measures.subject
    if subject is None:
        return
    width, height = measures.width_px, measures.height_px
    short = min(width, height)
    box_width, box_height = (subject.right - subject.left) * width, (subject.bottom - subject.top) * height
    side = max(box_width, box_height) / short
    if side < limits.subject_side:
        yield (
            "subject_small",
            Severity.WARNING,
            f"What stands out from the background fills about {100 * side:.0f} % of the picture's side.",
            f"At least {100 * limits.subject_side:.0f} %.",
            "Move closer or crop around the subject.",
        )
    crop_left, crop_top = (width - short) / 2, (height - short) / 2
    kept_width = min(subject.right * width, crop_left + short) - max(subject.left * width, crop_left)
    kept_height = min(subject.bottom * height, crop_top + short) - max(subject.top * height, crop_top)
    cut = 1 - max(kept_width, 0.0) * max(kept_height, 0.0) / max(box_width * box_height, 1e-6)
    if cut > limits.outside_crop:
        yield (
            "subject_off_centre",
            Severity.WARNING,
            f"The square crop would cut off about {100 * cut:.0f} % of the subject.",
            f"At most {100 * limits.outside_crop:.0f} %.",
            "Crop the photo to a square around the subject.",
        )
