"""Near-duplicates among the photos: resized, re-saved, slightly cropped or mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .pixels import luma

HASH_SIDE_PX = 32
HASH_FREQUENCIES = 8

NEAR_DUPLICATE_BITS = 10
"""Hashes of 63 bits that differ in at most this many count as alike; two different photos differ in about 31."""

THUMBNAIL_SIDE_PX = 16

NEAR_DUPLICATE_LIKENESS = 0.92
"""Least correlation of small colour pictures as well: one scene with two backdrops is two photos."""


@dataclass(frozen=True)
class Fingerprint:
    """What is compared between photos.

    Attributes:
        bits: Perceptual hash, boolean, shape (63,).
        mirrored_bits: The same of the mirror image.
        thumbnail: A small picture, shape (3, 16, 16).
    """

    bits: Tensor
    mirrored_bits: Tensor
    thumbnail: Tensor


@dataclass(frozen=True)
class Likeness:
    """Two photos that are almost the same.

    Attributes:
        first, second: Positions in the set, first < second.
        bits: Hash bits that differ, of 63.
        mirrored: Whether the second is the mirror image.
    """

    first: int
    second: int
    bits: int
    mirrored: bool


def fingerprint_picture(pixels: Tensor) -> Fingerprint:
    """Take the perceptual hash of a picture.

    The signs of its lowest 8 × 8 cosine frequencies against their median, without the constant one: brightness,
    contrast, size and compression barely change them.

    Args:
        pixels: Shape (3, H, W) in 0..1.
    """
    small = _resized(pixels, HASH_SIDE_PX)
    brightness = luma(small)
    return Fingerprint(_hash(brightness), _hash(brightness.flip(-1)), _resized(small, THUMBNAIL_SIDE_PX))


def _resized(pixels: Tensor, side_px: int) -> Tensor:
    return interpolate(pixels.float()[None], size=(side_px, side_px), mode="bilinear", antialias=True)[0]


def near_duplicates(fingerprints: Sequence[Fingerprint]) -> list[Likeness]:
    """All pairs of photos that are almost the same, in order."""
    pairs: list[Likeness] = []
    for second in range(len(fingerprints)):
        for first in range(second):
            likeness = _compare(first, second, fingerprints[first], fingerprints[second])
            if likeness is not None:
                pairs.append(likeness)
    return pairs


def _compare(first: int, second: int, one: Fingerprint, other: Fingerprint) -> Likeness | None:
    for mirrored, bits in ((False, other.bits), (True, other.mirrored_bits)):
        different = int((one.bits != bits).sum())
        thumbnail = other.thumbnail.flip(-1) if mirrored else other.thumbnail
        if different <= NEAR_DUPLICATE_BITS and _correlation(one.thumbnail, thumbnail) >= NEAR_DUPLICATE_LIKENESS:
            return Likeness(first, second, different, mirrored)
    return None


def _hash(small: Tensor) -> Tensor:
    from scipy.fft import dctn

    spectrum = torch.from_numpy(dctn(small.numpy()))[:HASH_FREQUENCIES, :HASH_FREQUENCIES].flatten()[1:]
    return spectrum > spectrum.median()


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-6))
