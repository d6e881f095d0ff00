"""Which photos are the same photo again: resized, re-saved, mirrored, or cut out of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from .pixels import luma

HASH_SIDE_PX = 32
HASH_FREQUENCIES = 8

NEAR_DUPLICATE_BITS = 10
"""Hashes of 63 bits that differ in at most this many count as alike; two different photos differ in about 31."""

THUMBNAIL_SIDE_PX = 16

NEAR_DUPLICATE_LIKENESS = 0.92
"""Correlation of small colour pictures that must be met as well: one scene before two backdrops is two photos."""

SMALL_SIDE_PX = 96
"""Shorter side of the picture in which a common part is compared."""

SEARCH_SIDE_PX = 48
"""Shorter side of the picture in which a common part is searched."""

SIZES = tuple(0.93**step for step in range(15))
"""Shorter sides of the second photo, as shares of the first one's, at which it is laid over it."""

SEARCHED_AT_MOST = 12
"""Common parts are searched among this many photos; it takes some hundredths of a second a pair."""

LEAST_CONTRAST = 0.04
"""Standard deviation of the brightness of a part that can be recognised; a plain wall fits everywhere."""

LEAST_MATCH = 0.85
"""Correlation from which on a place is compared."""

LEAST_COMMON = 0.2
"""Share of the smaller photo that both must show."""


@dataclass(frozen=True)
class Fingerprint:
    """What is compared of a photo.

    Attributes:
        bits: Perceptual hash, boolean, shape (63,).
        mirrored_bits: The same of the mirror image.
        thumbnail: A small picture, shape (3, 16, 16).
        small: A larger one in the photo's proportions, shape (3, h, w), its shorter side 96 px.
    """

    bits: Tensor
    mirrored_bits: Tensor
    thumbnail: Tensor
    small: Tensor


@dataclass(frozen=True)
class Likeness:
    """Two photos that are almost the same.

    Attributes:
        first, second: Positions in the set, first < second.
        bits: Hash bits that differ, of 63.
        mirrored: Whether the second is the mirror image.
        cut: Whether they are alike in a common part only: two cuts of one picture.
    """

    first: int
    second: int
    bits: int
    mirrored: bool = False
    cut: bool = False


def fingerprint_picture(pixels: Tensor) -> Fingerprint:
    """Take the perceptual hash of a picture.

    The signs of its lowest 8 × 8 cosine frequencies against their median, without the constant one: brightness,
    contrast, size and compression barely change them.

    Args:
        pixels: Shape (3, H, W) in 0..1.
    """
    tiny = _resized(pixels, (HASH_SIDE_PX, HASH_SIDE_PX))
    brightness, thumbnail = luma(tiny), _resized(tiny, (THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
    return Fingerprint(_hash(brightness), _hash(brightness.flip(-1)), thumbnail, _scaled(pixels, SMALL_SIDE_PX))


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(pixels.float()[None], size=size, mode="bilinear", antialias=True)[0]


def _scaled(pixels: Tensor, short_side_px: float) -> Tensor:
    """The picture in its proportions, larger or smaller than it was."""
    height, width = pixels.shape[-2:]
    scale = short_side_px / min(height, width)
    return _resized(pixels, (max(1, round(height * scale)), max(1, round(width * scale))))


def near_duplicates(fingerprints: Sequence[Fingerprint]) -> list[Likeness]:
    """All pairs of photos that are almost the same, in order."""
    pairs: list[Likeness] = []
    for second in range(len(fingerprints)):
        for first in range(second):
            one, other = fingerprints[first], fingerprints[second]
            alike = _compare(first, second, one, other)
            if alike is None and second < SEARCHED_AT_MOST:
                alike = _compare_common(first, second, one, other)
            if alike is not None:
                pairs.append(alike)
    return pairs


def _compare(first: int, second: int, one: Fingerprint, other: Fingerprint) -> Likeness | None:
    for mirrored, bits in ((False, other.bits), (True, other.mirrored_bits)):
        different = int((one.bits != bits).sum())
        thumbnail = other.thumbnail.flip(-1) if mirrored else other.thumbnail
        if different <= NEAR_DUPLICATE_BITS and _correlation(one.thumbnail, thumbnail) >= NEAR_DUPLICATE_LIKENESS:
            return Likeness(first, second, different, mirrored)
    return None


def _compare_common(first: int, second: int, one: Fingerprint, other: Fingerprint) -> Likeness | None:
    """Lay each photo over the other where it fits best, and compare what both show there."""
    places = [(*_best_place(a, b), a, b) for a, b in ((one.small, other.small), (other.small, one.small))]
    match, top, left, scale, under, over = max(places, key=lambda place: place[0])
    if match < LEAST_MATCH:
        return None
    for nudge in (1.0, 0.97, 1.03):
        parts = _common(under, over, top, left, scale * nudge)
        alike = parts and _compare(first, second, *(fingerprint_picture(part) for part in parts))
        if alike and not alike.mirrored:
            return Likeness(first, second, alike.bits, cut=True)
    return None


def _best_place(under: Tensor, over: Tensor) -> tuple[float, float, float, float]:
    """Where a part of one picture lies in another, by normalised cross-correlation.

    Every quarter of the second picture and its middle are searched in the first, in all sizes.

    Args:
        under: The picture that is searched, shape (3, h, w).
        over: The picture that is laid over it, shape (3, h, w).

    Returns:
        The correlation; top and left of the whole second picture in the first one, px; its scale.
    """
    plane = luma(_scaled(under, SEARCH_SIDE_PX))
    plane = plane - plane.mean()
    height, width = plane.shape
    spectrum, unit = torch.fft.rfft2(plane), min(under.shape[-2:]) / SEARCH_SIDE_PX
    best = (0.0, 0.0, 0.0, 1.0)
    for size in SIZES:
        laid = luma(_scaled(over, size * SEARCH_SIDE_PX))
        rows, columns = laid.shape[0] // 2, laid.shape[1] // 2
        if rows > height or columns > width:
            continue
        bottom, right = laid.shape[0] - rows, laid.shape[1] - columns
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
        tiles = torch.stack([laid[y : y + rows, x : x + columns] for y, x in corners])
        tiles = tiles - tiles.mean(dim=(1, 2), keepdim=True)
        norms = tiles.square().mean(dim=(1, 2)).sqrt()
        found = torch.fft.irfft2(spectrum * torch.fft.rfft2(tiles, s=plane.shape).conj(), s=plane.shape)
        found = found[:, : height - rows + 1, : width - columns + 1] / (rows * columns)
        mean, square = (avg_pool2d(p[None], (rows, columns), stride=1)[0] for p in (plane, plane.square()))
        spread = (square - mean.square()).clamp_min(1e-6).sqrt()
        match = found / (spread * norms[:, None, None].clamp_min(1e-3)) * (norms > LEAST_CONTRAST)[:, None, None]
        values, places = match.flatten(1).max(dim=1)
        tile = int(values.argmax())
        if float(values[tile]) > best[0]:
            top, left = divmod(int(places[tile]), match.shape[2])
            scale = size * min(under.shape[-2:]) / min(over.shape[-2:])
            best = (float(values[tile]), (top - corners[tile][0]) * unit, (left - corners[tile][1]) * unit, scale)
    return best


def _common(under: Tensor, over: Tensor, top: float, left: float, scale: float) -> tuple[Tensor, Tensor] | None:
    """What two pictures share when the second lies on the first: the same part of each, or None if it is small."""
    (height, width), (rows, columns) = under.shape[-2:], over.shape[-2:]
    bottom, right = min(height, top + rows * scale), min(width, left + columns * scale)
    first, start = max(0.0, top), max(0.0, left)
    area = max(0.0, bottom - first) * max(0.0, right - start)
    if area < LEAST_COMMON * min(height * width, rows * columns * scale**2):
        return None
    below = under[:, round(first) : round(bottom), round(start) : round(right)]
    y = slice(round((first - top) / scale), round((bottom - top) / scale))
    x = slice(round((start - left) / scale), round((right - left) / scale))
    return below, over[:, y, x]


def _hash(small: Tensor) -> Tensor:
    from scipy.fft import dctn

    spectrum = torch.from_numpy(dctn(small.numpy()))[:HASH_FREQUENCIES, :HASH_FREQUENCIES].flatten()[1:]
    return spectrum > spectrum.median()


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-6))
