"""Whether photos look like the ones a prior was trained on, judged by picture statistics alone.

The features are colour, contrast, layout and edge statistics of the picture, so any host can compute them, without a
further network and for every base model alike. They detect another kind of picture (a product for a prior of faces, a
drawing for a prior of photographs), not another identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ..errors import InvalidOptions, UnreadableFile, UnusableReferences
from .pixels import gradient, luma, opponent_colours

EXTRACTOR = "picture-statistics-1"
"""Name of the features below; a prior records it, and the number rises when a feature changes."""

SIDE_PX = 64
"""Every photo is cropped to its middle square and resized to this, so that its resolution does not matter."""

MINIMUM_COUNT = 8
"""Fewest training photos that statistics are made of; 200 or more make them useful."""

QUANTILE_STEPS = 100
"""The training photos' own distances are kept as their 0 %, 1 %, … 100 % quantiles."""

FOLDS = 5
"""Parts of the training photos; each part's distances are taken to the statistics of the others."""

INSIDE_PERCENT = 95
"""Percent of the training photos that are closer than the furthest photo that still counts as inside; a photo further
away than all of them is outside the domain, in between is borderline."""

RIDGE = 0.1
"""Share of the features' plain variances in the covariance; keeps it invertible when photos are few."""


class DomainVerdict(str, Enum):
    """Where a photo is relative to a training domain."""

    INSIDE = "inside"
    BORDERLINE = "borderline"
    OUTSIDE = "outside"


@dataclass(frozen=True)
class FeatureStatistics:
    """Where the training photos of a domain are in feature space.

    Attributes:
        mean: Shape (features,).
        covariance: Shrunk towards its diagonal, positive definite, shape (features, features).
        quantiles: Cross-validated distances of the training photos, rising, shape (101,): entry p is the distance
            that p % of them stay below.
        count: Number of training photos.
    """

    mean: Tensor
    covariance: Tensor
    quantiles: Tensor
    count: int

    def to_tensors(self, prefix: str = "features.") -> dict[str, Tensor]:
        """Name to float32 tensor for a safetensors file; ``count`` becomes a tensor with no dimension."""
        named = {"mean": self.mean, "covariance": self.covariance, "quantiles": self.quantiles}
        tensors = {prefix + name: tensor.float().contiguous() for name, tensor in named.items()}
        return tensors | {prefix + "count": torch.tensor(float(self.count))}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str = "features.") -> FeatureStatistics | None:
        """Rebuild statistics from a file's tensors; other names are left alone.

        Returns:
            The statistics, or None if no name starts with the prefix.

        Raises:
            UnreadableFile: If a tensor is missing, unknown, of a wrong shape or not finite.
        """
        found = {name[len(prefix) :]: tensor.float() for name, tensor in tensors.items() if name.startswith(prefix)}
        if not found:
            return None
        wanted = {"mean", "covariance", "quantiles", "count"}
        if set(found) != wanted:
            raise UnreadableFile(
                f"The feature statistics contain {sorted(found)}; expected {sorted(wanted)}. Train the prior again."
            )
        mean, covariance, quantiles, count = found["mean"], found["covariance"], found["quantiles"], found["count"]
        shapes_fit = (
            mean.ndim == 1 and covariance.shape == (len(mean), len(mean)) and quantiles.shape == (QUANTILE_STEPS + 1,)
        )
        if not shapes_fit or count.numel() != 1 or not all(bool(t.isfinite().all()) for t in found.values()):
            shapes = {name: tuple(tensor.shape) for name, tensor in sorted(found.items())}
            raise UnreadableFile(
                f"The feature statistics have the shapes {shapes}; expected a mean (features,), a covariance "
                f"(features, features), {QUANTILE_STEPS + 1} quantiles and one count, all finite. Train the prior "
                "again."
            )
        if bool((quantiles.diff() < 0).any()) or int(torch.linalg.cholesky_ex(covariance.double()).info) != 0:
            raise UnreadableFile(
                "The feature statistics have falling quantiles, or a covariance that is not positive definite. Train "
                "the prior again."
            )
        return cls(mean, covariance, quantiles, round(float(count)))


@dataclass(frozen=True)
class DomainScore:
    """How far one photo is from a training domain.

    Attributes:
        distance: Mahalanobis distance per feature, about 1 for a typical training photo.
        percentile: Share of the training photos that are closer, 0..100; 100 for a photo beyond all of them.
        verdict: Inside, at the edge, or outside.
    """

    distance: float
    percentile: float
    verdict: DomainVerdict


def picture_features(images: Tensor) -> Tensor:
    """Describe pictures by colour, contrast, layout and edges.

    Args:
        images: Shape (N, 3, H, W) in 0..1.

    Returns:
        Shape (N, features), float32 on the CPU; a change of one per cent in a picture changes them little.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise InvalidOptions(f"Found pictures of shape {tuple(images.shape)}; expected a batch of shape (N, 3, H, W).")
    pictures = _square(images.detach().float().cpu().clamp(0, 1))
    colours, brightness = opponent_colours(pictures), luma(pictures)
    down, right = gradient(brightness)
    slope = torch.hypot(down, right)
    layout = adaptive_avg_pool2d(brightness[:, None], 4).flatten(1)
    layout = layout - layout.mean(dim=1, keepdim=True)
    parts = [layout, _silhouette(colours), _mirror_likeness(brightness)]
    for region in _regions():
        inside = colours[..., region]
        parts += [inside.mean(dim=-1), inside.std(dim=-1), (slope[..., region] < 0.01).float().mean(-1, keepdim=True)]
        parts += [_orientations(slope[..., region], down[..., region], right[..., region])]
    return torch.cat([*parts, _band_contrasts(brightness)], dim=1)


def statistics_of(features: Tensor) -> FeatureStatistics:
    """Measure a training domain by features that were taken photo by photo.

    Args:
        features: From `picture_features`, (N, features), N of at least 8.

    Raises:
        UnusableReferences: If there are too few photos.
    """
    features = features.double()
    count = len(features)
    if count < MINIMUM_COUNT:
        raise UnusableReferences(
            f"Found {count} photos; at least {MINIMUM_COUNT} are needed to describe a domain, and 200 or more to "
            "describe it well. Add photos of more subjects."
        )
    distances = torch.empty(count, dtype=torch.float64)
    for fold in range(FOLDS):
        held_out = torch.arange(count) % FOLDS == fold
        mean, covariance = _moments(features[~held_out])
        distances[held_out] = _distances(features[held_out], mean, covariance)
    quantiles = distances.quantile(torch.linspace(0, 1, QUANTILE_STEPS + 1, dtype=torch.float64))
    mean, covariance = _moments(features)
    return FeatureStatistics(mean.float(), covariance.float(), quantiles.float(), count)


def domain_distance(images: Tensor | Sequence[Tensor], statistics: FeatureStatistics) -> list[DomainScore]:
    """Compare photos with a training domain.

    ``d = sqrt((f - mean)^T covariance^-1 (f - mean) / features)`` is compared with the training photos' own distances,
    each measured from statistics made without that photo.

    Args:
        images: Shape (N, 3, H, W) in 0..1, or photos of shape (3, H, W) that may differ in size.
        statistics: Of the prior's training photos.

    Raises:
        InvalidOptions: If the statistics were made with other features.
    """
    batches = [images] if isinstance(images, Tensor) else [image[None] for image in images]
    if not batches:
        return []
    features = torch.cat([picture_features(batch) for batch in batches]).double()
    if features.shape[1] != len(statistics.mean):
        raise InvalidOptions(
            f"The prior's feature statistics have {len(statistics.mean)} features, but this release measures "
            f"{features.shape[1]} ({EXTRACTOR}). Train the prior again, or load one made with this release."
        )
    distances = _distances(features, statistics.mean.double(), statistics.covariance.double())
    return [_score(float(distance), statistics.quantiles) for distance in distances]


def verdict_on_set(scores: Sequence[DomainScore]) -> DomainVerdict:
    """Judge photos together by their median, so that a single odd photo does not fail the set."""
    if not scores:
        return DomainVerdict.INSIDE
    return sorted(scores, key=lambda score: score.distance)[len(scores) // 2].verdict


def _score(distance: float, quantiles: Tensor) -> DomainScore:
    percentile = 100.0 * max(int((quantiles <= distance).sum()) - 1, 0) / QUANTILE_STEPS
    if distance <= float(quantiles[INSIDE_PERCENT]):
        return DomainScore(distance, percentile, DomainVerdict.INSIDE)
    far = distance > float(quantiles[-1])
    return DomainScore(distance, percentile, DomainVerdict.OUTSIDE if far else DomainVerdict.BORDERLINE)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    covariance = torch.cov(features.T)
    variances = covariance.diagonal()
    # A feature that never varied in training would put any photo infinitely far away, so it gets a small width.
    floor = variances.clamp_min(1e-4)
    return features.mean(dim=0), (1 - RIDGE) * covariance + RIDGE * floor.diag() + 1e-5 * torch.eye(len(floor))


def _distances(features: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    centred = (features - mean).T
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), centred, upper=False)
    return whitened.square().mean(dim=0).sqrt()


def _square(images: Tensor) -> Tensor:
    side = min(images.shape[-2:])
    top, left = (images.shape[-2] - side) // 2, (images.shape[-1] - side) // 2
    middle = images[..., top : top + side, left : left + side]
    return interpolate(middle, size=(SIDE_PX, SIDE_PX), mode="bilinear", antialias=True, align_corners=False)


def _regions() -> tuple[Tensor, Tensor]:
    """Middle and surroundings, each about half of the picture: boolean, shape (SIDE_PX, SIDE_PX)."""
    middle = torch.zeros(SIDE_PX, SIDE_PX, dtype=torch.bool)
    inset = round(SIDE_PX * (1 - math.sqrt(0.5)) / 2)
    middle[inset:-inset, inset:-inset] = True
    return middle, ~middle


def _orientations(slope: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shares of six edge directions, each edge counted by its strength: shape (N, pixels) to (N, 6)."""
    angle = torch.atan2(down, right) % math.pi
    index = (angle / (math.pi / 6)).long().clamp_max(5)
    shares = torch.zeros(len(slope), 6).scatter_add_(1, index, slope)
    return shares / (slope.sum(dim=1, keepdim=True) + 1e-3)


def _silhouette(colours: Tensor) -> Tensor:
    """Where the picture differs from its own frame, relative to the whole difference: shape (N, 36)."""
    frame = torch.cat(
        [colours[..., :4, :].flatten(2), colours[..., 4:, :4].flatten(2), colours[..., 4:, -4:].flatten(2)], -1
    )
    difference = (colours - frame.median(dim=-1).values[..., None, None]).norm(dim=1)
    return adaptive_avg_pool2d((difference / (difference + 0.1))[:, None], 6).flatten(1)


def _mirror_likeness(brightness: Tensor) -> Tensor:
    """Correlation of the picture with its mirror images, left-right and upside down: shape (N, 2)."""
    flat = brightness.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    power = centred.square().mean(dim=1) + 1e-4
    mirrored = [brightness.flip(axis).flatten(1) - flat.mean(dim=1, keepdim=True) for axis in (-1, -2)]
    return torch.stack([(centred * other).mean(dim=1) / power for other in mirrored], dim=1)


def _band_contrasts(brightness: Tensor) -> Tensor:
    """Logarithm of the contrast in four octaves of detail, in the middle and around it: shape (N, 8)."""
    middle, around = _regions()
    contrasts: list[Tensor] = []
    plane = brightness[:, None]
    for _ in range(4):
        smaller = adaptive_avg_pool2d(plane, plane.shape[-1] // 2)
        detail = plane - interpolate(smaller, size=plane.shape[-2:], mode="bilinear", align_corners=False)
        whole = interpolate(detail.square(), size=(SIDE_PX, SIDE_PX), mode="nearest")[:, 0]
        contrasts += [(whole[:, region].mean(dim=1) + 1e-5).log() / 2 for region in (middle, around)]
        plane = smaller
    return torch.stack(contrasts, dim=1)
