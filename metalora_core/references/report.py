"""Advice on a whole set of reference photos, as a photographer would give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..errors import UnusableReferences
from .domain import DomainScore, DomainVerdict, FeatureStatistics, domain_distance, verdict_on_set
from .findings import Finding, Severity
from .quality import PhotoMeasures, judge_photo, measure_photo
from .similarity import fingerprint_picture, near_duplicates
from .variety import Variety, describe_look, measure_variety

FEW_PHOTOS_FOR_VARIETY = 3
"""Variety is judged from this many photos on; two photos that are alike are found as near-duplicates."""

MANY_PHOTOS = 8
"""More photos than this barely improve the likeness and lengthen the preparation."""

SAME_ANGLE = 0.10
"""Mean shape difference below which a set has one angle. Sets taken from one spot have 0.03 to 0.09, sets that turn
around the subject 0.14 to 0.36."""

SAME_LIGHT = 0.10
"""Mean difference of the shading slopes below which a set has one light. One lamp gives 0.03 to 0.2 and more (a turn of
the subject moves shades as well), several lamps 0.3 to 1.3: better to miss the finding than to report it wrongly."""

SAME_BACKGROUND = 0.06
"""Mean difference of the frame colours below which a set has one background. One wall gives 0.03, several 0.16 or more.
"""


class ReferencePhoto(Protocol):
    """What a photo must offer: its name, its pixels (3, H, W) in 0..1, and the SHA-256 of its content."""

    @property
    def name(self) -> str: ...

    @property
    def pixels(self) -> Tensor: ...

    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class ReferenceReport:
    """All findings on a set of photos.

    Attributes:
        names: One per photo.
        measures: One per photo; None where the pixels were damaged.
        findings: By photo, those on the whole set last.
        variety: Of the whole set.
        domain: One score per photo; empty if there was nothing to compare with.
    """

    names: tuple[str, ...]
    measures: tuple[PhotoMeasures | None, ...]
    findings: tuple[Finding, ...]
    variety: Variety
    domain: tuple[DomainScore, ...] = ()

    def of_photo(self, photo: int | None) -> tuple[Finding, ...]:
        """Findings of one photo, the most severe first; None gives those on the whole set."""
        mine = [finding for finding in self.findings if finding.photo == photo]
        return tuple(sorted(mine, key=lambda finding: -finding.severity.rank))

    def severity_of(self, photo: int | None) -> Severity | None:
        """The most severe finding of a photo, or None for a photo without any."""
        mine = self.of_photo(photo)
        return mine[0].severity if mine else None

    @property
    def headline(self) -> str:
        """One line: how many photos, how many of them are good."""
        severities = [self.severity_of(index) for index in range(len(self.names))]
        blocked = severities.count(Severity.BLOCKING)
        warned = severities.count(Severity.WARNING)
        parts = [f"{len(self.names)} photo{'' if len(self.names) == 1 else 's'}"]
        parts += [f"{len(self.names) - blocked - warned} good"] if self.names else []
        parts += [f"{warned} to check"] if warned else []
        parts += [f"{blocked} unusable"] if blocked else []
        return ", ".join(parts)

    @property
    def text(self) -> str:
        """The headline, then one line per finding."""
        return "\n".join([f"{self.headline}.", *(finding.text for finding in self.findings)])

    def require_usable(self) -> None:
        """Raise if a photo is unusable.

        Raises:
            UnusableReferences: With all blocking findings at once.
        """
        blocking = [finding.text for finding in self.findings if finding.severity is Severity.BLOCKING]
        if blocking:
            raise UnusableReferences(" ".join(blocking))


def assess_references(
    photos: Sequence[ReferencePhoto],
    *,
    training_side_px: int = 512,
    domain: FeatureStatistics | None = None,
    domain_name: str = "",
) -> ReferenceReport:
    """Check reference photos one by one and together.

    Args:
        photos: One to eight are enough.
        training_side_px: Side of the pictures that the model is trained on.
        domain: Feature statistics of the prior's training photos, to be compared with.
        domain_name: Name of that domain, for messages; without statistics, a note says that nothing was compared.

    Returns:
        A report; a bad photo never raises here, see ``ReferenceReport.require_usable``.
    """
    names = tuple(photo.name for photo in photos)
    sound = [index for index, photo in enumerate(photos) if _is_sound(photo.pixels)]
    findings: list[Finding] = []
    measures: list[PhotoMeasures | None] = [None] * len(photos)
    for index, photo in enumerate(photos):
        if index in sound:
            measured = measures[index] = measure_photo(photo.pixels, training_side_px)
            findings += judge_photo(measured, index, photo.name)
        else:
            findings.append(_damaged(index, photo))
    findings += _judge_likeness(photos, sound)
    variety = measure_variety([describe_look(photos[index].pixels) for index in sound])
    findings += _judge_count(len(photos)) + (_judge_variety(variety) if len(sound) >= FEW_PHOTOS_FOR_VARIETY else [])
    scores: list[DomainScore] = []
    if domain is not None and len(sound) == len(photos):
        scores = domain_distance([photo.pixels for photo in photos], domain)
        findings += _judge_domain(names, scores, domain_name)
    elif domain is None and domain_name:
        findings.append(_unknown_domain(domain_name))
    findings.sort(key=lambda finding: len(photos) if finding.photo is None else finding.photo)
    return ReferenceReport(names, tuple(measures), tuple(findings), variety, tuple(scores))


def _is_sound(pixels: Tensor) -> bool:
    return pixels.ndim == 3 and pixels.shape[0] == 3 and min(pixels.shape[1:]) >= 16 and bool(pixels.isfinite().all())


def _damaged(index: int, photo: ReferencePhoto) -> Finding:
    shape = tuple(photo.pixels.shape)
    found = f"Its pixels have the shape {shape} or contain NaN or infinite values."
    expected = "Three finite colour planes of at least 16 × 16 px."
    return Finding("not_finite", Severity.BLOCKING, found, expected, "Load the photo again.", index, photo.name)


def _unknown_domain(domain_name: str) -> Finding:
    found = f"The prior of {domain_name} has no record of its training photos, so nothing was compared."
    remedy = "Check the first pictures closely, or train the prior again with this version."
    return Finding("domain_unknown", Severity.INFO, found, "A prior with statistics of its training photos.", remedy)


def _judge_likeness(photos: Sequence[ReferencePhoto], sound: Sequence[int]) -> list[Finding]:
    pairs = near_duplicates([fingerprint_picture(photos[index].pixels) for index in sound])
    told: set[int] = set()
    findings: list[Finding] = []
    for pair in pairs:
        first, second = sound[pair.first], sound[pair.second]
        if second in told:
            continue
        told.add(second)
        exact = photos[first].sha256 == photos[second].sha256
        code, how = "near_duplicate", "is the mirror image of" if pair.mirrored else "is almost the same as"
        if exact:
            code, how = "duplicate", "is the same as"
        elif pair.cut:
            code, how = "same_crop", "is cut out of the same picture as"
        found = f"It {how} photo {first + 1} ({photos[first].name})."
        remedy = "Keep only one of the two, or take one from another angle."
        expected = "Each photo shows something new."
        findings.append(Finding(code, Severity.WARNING, found, expected, remedy, second, photos[second].name))
    return findings


def _judge_count(count: int) -> list[Finding]:
    if count == 0:
        found, remedy = "There are none.", "Connect at least one photo of the subject."
        return [Finding("no_photos", Severity.BLOCKING, found, "One to eight photos.", remedy)]
    if count == 1:
        found = "That is enough to start with."
        expected = "Three to eight give a better likeness."
        remedy = "Add photos from other angles, in other light and with other backgrounds, if you have any."
        return [Finding("single_photo", Severity.INFO, found, expected, remedy)]
    if count > MANY_PHOTOS:
        found = f"There are {count} photos."
        expected = f"Up to {MANY_PHOTOS} help."
        return [Finding("many_photos", Severity.INFO, found, expected, "Keep the best and most varied ones.")]
    return []


def _judge_variety(variety: Variety) -> list[Finding]:
    kinds = (
        ("same_angle", variety.angle, SAME_ANGLE, "outlines", "Turn the subject or walk around it."),
        ("same_light", variety.light, SAME_LIGHT, "shades", "Take some photos with the light from another side."),
        (
            "same_background",
            variety.background,
            SAME_BACKGROUND,
            "backgrounds",
            "Take some photos with another background.",
        ),
    )
    return [
        Finding(
            code,
            Severity.WARNING,
            f"Their {what} differ by {value:.2f}.",
            f"At least {least:.2f}, so that this is not learned as part of the subject.",
            remedy,
        )
        for code, value, least, what, remedy in kinds
        if value < least
    ]


def _judge_domain(names: Sequence[str], scores: Sequence[DomainScore], domain_name: str) -> list[Finding]:
    trained = f"what the prior{f' of {domain_name}' if domain_name else ''} was trained on"
    verdict = verdict_on_set(scores)
    if verdict is DomainVerdict.OUTSIDE:
        found, remedy = f"They look unlike {trained}.", "Load a prior for this kind of subject, or take more steps."
        return [Finding("domain_outside", Severity.WARNING, found, "", remedy)]
    if verdict is DomainVerdict.BORDERLINE:  # as one subject in twenty of the prior's own kind
        return []
    found, remedy = f"It looks unlike the others and {trained}.", "Leave it out."
    odd = [index for index, score in enumerate(scores) if score.verdict is DomainVerdict.OUTSIDE]
    return [Finding("domain_outside", Severity.WARNING, found, "", remedy, index, names[index]) for index in odd]
