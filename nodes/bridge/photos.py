"""Reference photos on their way from an IMAGE socket to a training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from statistics import median_high

from torch import Tensor

from ...metalora_core.errors import UnusableReferences
from ...metalora_core.files.prior import Prior
from ...metalora_core.photos.captions import build_captions, word_findings
from ...metalora_core.photos.contact_sheet import WORDS, contact_sheet
from ...metalora_core.photos.images import Photo, fit
from ...metalora_core.photos.pictures import from_pil
from ...metalora_core.photos.training_set import TrainingSet
from ...metalora_core.provenance.consent import ConsentRecord, Purpose
from ...metalora_core.provenance.permission import Use
from ...metalora_core.references.findings import Severity
from ...metalora_core.references.report import ReferenceReport, assess_references
from .consent import require_permission
from .image_tensors import to_image

USUAL_RESOLUTION = 512  # pixels; if a prior does not record its training size


def trained_px(prior: Prior | None) -> int:
    """Side of the training pictures, as far as the prior records it."""
    return (prior and prior.metadata.picture_px) or USUAL_RESOLUTION


@dataclass(frozen=True)
class References:
    """Photos that may be used, with their captions and consent."""

    photos: tuple[Photo, ...]
    captions: tuple[str, ...]
    class_word: str
    trigger: str
    consent: ConsentRecord | None = None
    subject: str = ""

    @property
    def consent_id(self) -> str | None:
        return None if self.consent is None else self.consent.id

    def require_permission(self, nobody: bool = False) -> str:
        """Ask whether they may be learned from now; see `Use`. Returns a reminder, or an empty text."""
        hashes = [photo.sha256 for photo in self.photos]
        use = Use(Purpose.TRAINING, self.class_word, hashes, self.consent_id, nobody, self.subject)
        return require_permission(use)

    def usual_resolution(self, prior: Prior | None) -> int:
        """The prior's own side, or the largest below it that half of the photos have, in steps that models can halve.

        A single small photo is enlarged and does not make all others small; ``enlarged`` names it.
        """
        side = min(trained_px(prior), median_high(min(photo.pixels.shape[-2:]) for photo in self.photos))
        return max(64, side // 64 * 64)

    def enlarged(self, side: int) -> str:
        """Which photos are smaller than the training pictures, in one line; empty for none."""
        small = [f"{photo.name} ({min(photo.pixels.shape[-2:])} px)" for photo in self.photos]
        small = [text for text, photo in zip(small, self.photos, strict=True) if min(photo.pixels.shape[-2:]) < side]
        return f"Enlarged to {side} px, so their blur is learned too: {', '.join(small)}." if small else ""

    def training_set(self, side: int) -> TrainingSet:
        return TrainingSet(
            images=tuple(fit(photo, side) for photo in self.photos),
            captions=self.captions,
            class_word=self.class_word,
            trigger=self.trigger,
            photo_hashes=tuple(photo.sha256 for photo in self.photos),
        )

    def digest(self) -> str:
        words = [self.class_word, self.trigger, *self.captions]
        text = "\n".join([*words, *(photo.sha256 for photo in self.photos)])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Brief:
    """The inputs of Prepare Reference Photos."""

    photos: tuple[Photo, ...]
    captions: tuple[str, ...]
    class_word: str
    trigger: str
    prior: Prior | None = None
    consent: ConsentRecord | None = None
    unusable_photos: str = "stop"
    subject: str | None = ""


@dataclass(frozen=True)
class Prepared:
    """What Prepare Reference Photos gives out."""

    references: References
    sheet: Tensor
    findings: str
    badges: tuple[dict[str, str], ...]


def prepare(brief: Brief) -> Prepared:
    """Assess photos and make them ready to learn from.

    Raises:
        UnusableReferences: If a photo is unusable, or trigger or class word is missing.
        ConsentRefused: If the record does not permit their use.
    """
    trigger, class_word = brief.trigger.strip(), brief.class_word.strip()
    _check_words(trigger, class_word)
    photos = brief.photos
    features = None if brief.prior is None else brief.prior.features
    domain = "" if brief.prior is None else brief.prior.metadata.domain
    side = trained_px(brief.prior)
    report = assess_references(photos, training_side_px=side, domain=features, domain_name=domain)
    captions = build_captions(brief.captions, trigger=trigger, class_word=class_word, count=len(photos))
    if brief.unusable_photos == "stop":
        report.require_usable()
    kept = [n for n in range(len(photos)) if report.severity_of(n) is not Severity.BLOCKING]
    if not kept:
        raise UnusableReferences(f"No usable photo is left. {report.text}")
    used = tuple(photos[n] for n in kept)
    references = References(
        used, tuple(captions[n] for n in kept), class_word, trigger, brief.consent, brief.subject or ""
    )
    if brief.consent is not None:
        references.require_permission()
    sheet = to_image(from_pil(contact_sheet(photos, report))[None])
    return Prepared(references, sheet, report.text, tuple(_badge(report, n) for n in range(len(photos))))


def _badge(report: ReferenceReport, photo: int) -> dict[str, str]:
    """What a photo's tile on the page shows: a verdict, and every finding with its remedy."""
    findings = [f"{finding.title}. {finding.found} {finding.remedy}" for finding in report.of_photo(photo)]
    return {"name": report.names[photo], "verdict": WORDS[report.severity_of(photo)], "findings": "\n".join(findings)}


def _check_words(trigger: str, class_word: str) -> None:
    findings = word_findings(trigger, class_word)
    if findings:
        raise UnusableReferences(f"Prepare Reference Photos: {'; '.join(findings)}.")
