"""Findings on a set of reference photos, in a form a person can act on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """How much a finding matters: a note, something to improve, or an unusable photo."""

    INFO = "info"
    WARNING = "warning"
    BLOCKING = "blocking"

    @property
    def rank(self) -> int:
        """Order of severities, 0 for the mildest."""
        return tuple(Severity).index(self)


TITLES: dict[str, str] = {
    "no_photos": "No photos",
    "not_finite": "Damaged pixels",
    "blank": "Nothing in the picture",
    "resolution_too_small": "Far too small",
    "resolution_small": "Small picture",
    "extreme_aspect": "Very long format",
    "soft": "Soft focus",
    "motion_blur": "Camera shake",
    "no_detail": "No detail to judge",
    "underexposed": "Too dark",
    "overexposed": "Too bright",
    "highlights_clipped": "Burnt-out highlights",
    "shadows_clipped": "Blocked shadows",
    "low_contrast": "Flat contrast",
    "flat_backdrop": "Cut-out on one flat colour",
    "subject_small": "Subject small",
    "subject_cropped": "Subject cut by the frame",
    "subject_off_centre": "Subject off centre",
    "duplicate": "Same photo twice",
    "near_duplicate": "Almost the same photo",
    "same_crop": "Another cut of the same photo",
    "single_photo": "One photo only",
    "many_photos": "More photos than needed",
    "same_angle": "One angle only",
    "same_light": "One light only",
    "same_background": "One background only",
    "domain_outside": "Outside the prior's domain",
    "domain_unknown": "The prior's domain is not known",
}
"""Short title of every finding code; the codes never change, since tests and translations refer to them."""


@dataclass(frozen=True)
class Finding:
    """One finding about one photo, or about the whole set.

    Attributes:
        code: Stable key, one of ``TITLES``.
        severity: Note, warning, or an unusable photo.
        found: What was measured, as a sentence.
        expected: What a good photo measures, as a sentence; empty where the other two say it all.
        remedy: What to do about it, as a sentence.
        photo: Position of the photo in the set, from 0; None for a finding about the whole set.
        name: Name of the photo; empty for a finding about the whole set.
    """

    code: str
    severity: Severity
    found: str
    expected: str
    remedy: str
    photo: int | None = None
    name: str = ""

    @property
    def title(self) -> str:
        """Two to five words for a badge."""
        return TITLES[self.code]

    @property
    def text(self) -> str:
        """The whole finding in one line: which photo, what was found, what was expected, what to do."""
        subject = "All photos" if self.photo is None else f"Photo {self.photo + 1} ({self.name})"
        told = filter(None, [self.found, self.expected, self.remedy])
        return f"{subject}: {self.title.lower()}. {' '.join(told)}"
