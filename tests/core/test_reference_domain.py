"""The domain check knows its own kind of picture from another, and its file form keeps every number."""

from __future__ import annotations

import pytest
import torch
from core.painted_photos import PaintedPhoto, paint
from torch import Tensor

from metalora_core.errors import InvalidOptions, UnreadableFile, UnusableReferences
from metalora_core.pocket.load import load_pocket_prior
from metalora_core.pocket.world.factors import Domain, draw_subject
from metalora_core.pocket.world.render import render
from metalora_core.pocket.world.scenes import draw_scenes
from metalora_core.references.domain import (
    DomainVerdict,
    FeatureStatistics,
    domain_distance,
    picture_features,
    statistics_of,
    verdict_on_set,
)
from metalora_core.references.report import assess_references


def balls(count: int, first: int) -> Tensor:
    generator = torch.Generator().manual_seed(first)
    draw = torch.rand(count, 5, generator=generator)
    pictures: list[Tensor] = []
    for number, (turn, light, *wall) in enumerate(draw.tolist()):
        background = tuple(0.2 + 0.5 * share for share in wall)
        pictures.append(paint(3 * turn - 1.5, 2 * light - 1, background, seed=first + number, side_px=64))
    return torch.stack(pictures)


def stripes(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    axis = torch.linspace(0, 1, 64)
    angle, pitch = (
        torch.rand(count, 1, 1, generator=generator) * 3,
        10 + 20 * torch.rand(count, 1, 1, generator=generator),
    )
    wave = torch.sin(pitch * (axis[:, None] * torch.cos(angle) + axis[None, :] * torch.sin(angle)))
    colours = torch.rand(count, 3, 1, 1, generator=generator)
    return (0.5 + 0.4 * wave[:, None] * colours).clamp(0, 1)


@pytest.fixture(scope="module")
def statistics() -> FeatureStatistics:
    return statistics_of(picture_features(balls(240, first=1000)))


def test_held_out_pictures_of_the_domain_lie_inside(statistics: FeatureStatistics):
    scores = domain_distance(balls(60, first=5000), statistics)
    inside = sum(score.verdict is DomainVerdict.INSIDE for score in scores)
    # 95 % are expected by construction; three standard deviations of 60 draws lie above 86 %.
    assert inside >= 52
    assert verdict_on_set(scores) is DomainVerdict.INSIDE


@pytest.mark.parametrize("other", ["stripes", "noise", "flat"])
def test_other_pictures_lie_outside(statistics: FeatureStatistics, other: str):
    pictures = {"stripes": stripes(8), "noise": torch.rand(8, 3, 64, 64), "flat": torch.full((8, 3, 64, 64), 0.4)}[
        other
    ]
    scores = domain_distance(pictures, statistics)
    assert {score.verdict for score in scores} == {DomainVerdict.OUTSIDE}
    assert all(score.percentile >= 99 for score in scores)


def test_the_percentile_is_that_of_the_training_pictures(statistics: FeatureStatistics):
    assert bool((statistics.quantiles.diff() >= 0).all())
    percentiles = torch.tensor([score.percentile for score in domain_distance(balls(100, first=7000), statistics)])
    assert 35 < float(percentiles.median()) < 65


def test_features_do_not_depend_on_resolution():
    large = balls(4, first=1)
    doubled = torch.nn.functional.interpolate(large, scale_factor=2, mode="nearest")
    difference = (picture_features(large) - picture_features(doubled)).abs()
    assert float(difference.mean()) < 0.05


def test_photos_of_several_sizes_are_scored_one_by_one(statistics: FeatureStatistics):
    photos = [paint(seed=1, side_px=64), paint(seed=2, side_px=100)[:, :, :90]]
    together = [score.distance for score in domain_distance(photos, statistics)]
    assert together == pytest.approx([domain_distance([photo], statistics)[0].distance for photo in photos])
    assert domain_distance([], statistics) == []


def test_statistics_survive_their_tensors(statistics: FeatureStatistics):
    tensors = statistics.to_tensors() | {"blocks.0.meta_down": torch.zeros(2, 2)}
    restored = FeatureStatistics.from_tensors(tensors)
    assert restored is not None and restored.count == statistics.count
    for name in ("mean", "covariance", "quantiles"):
        assert torch.equal(getattr(restored, name), getattr(statistics, name))
    assert FeatureStatistics.from_tensors({"blocks.0.meta_down": torch.zeros(2, 2)}) is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mean", torch.zeros(3)),
        ("mean", torch.zeros(2, 2)),
        ("covariance", -torch.eye(88)),
        ("quantiles", torch.linspace(1, 0, 101)),
        ("quantiles", torch.full((101,), torch.nan)),
        ("count", torch.zeros(2)),
        ("surplus", torch.zeros(1)),
        ("mean", None),
    ],
)
def test_damaged_statistics_are_refused(statistics: FeatureStatistics, name: str, wrong: Tensor | None):
    tensors = statistics.to_tensors()
    assert len(statistics.mean) == 88
    tensors.pop(f"features.{name}", None)
    if wrong is not None:
        tensors[f"features.{name}"] = wrong
    with pytest.raises(UnreadableFile, match="Train the prior again"):
        FeatureStatistics.from_tensors(tensors)


def test_too_few_or_foreign_features_are_refused(statistics: FeatureStatistics):
    with pytest.raises(UnusableReferences, match="Found 3 photos"):
        statistics_of(picture_features(balls(3, first=0)))
    foreign = FeatureStatistics(torch.zeros(2), torch.eye(2), torch.linspace(0, 1, 101), 9)
    with pytest.raises(InvalidOptions, match="2 features"):
        domain_distance(balls(1, first=0), foreign)


def test_the_report_warns_outside_the_domain_and_not_inside(statistics: FeatureStatistics):
    def codes(pictures: Tensor) -> set[str]:
        photos = [PaintedPhoto(f"{n}.png", pixels) for n, pixels in enumerate(pictures)]
        report = assess_references(photos, training_side_px=64, domain=statistics, domain_name="balls")
        assert len(report.domain) == len(photos)
        return {finding.code for finding in report.findings if finding.code.startswith("domain")}

    assert codes(balls(4, first=5000)) == set()
    assert codes(stripes(4)) == {"domain_outside"}
    mixed = torch.cat([balls(3, first=5000), stripes(1)])
    assert codes(mixed) == {"domain_outside"}


@pytest.mark.parametrize(("domain", "other"), [("avatars", "products"), ("products", "avatars")])
def test_the_pocket_models_own_samples_are_never_called_foreign(domain: Domain, other: Domain) -> None:
    prior = load_pocket_prior(domain)

    def told(shown: Domain, subject: int) -> list[str]:
        seed = 5_000_000 + subject
        pictures = render([draw_subject(shown, "validation", seed)] * 4, draw_scenes(shown, 4, seed=seed))
        photos = [PaintedPhoto(f"{n}.png", pixels) for n, pixels in enumerate(pictures)]
        report = assess_references(photos, training_side_px=128, domain=prior.features, domain_name=domain)
        return [finding.text for finding in report.findings if finding.code.startswith("domain")]

    assert not any(told(domain, subject) for subject in (*range(4), 6))
    foreign = [told(other, subject) for subject in range(5)]
    assert sum(map(bool, foreign)) >= 3
    assert all(len(text.split()) <= 30 for texts in foreign for text in texts), foreign
