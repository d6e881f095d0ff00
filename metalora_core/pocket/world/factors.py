"""A subject of the pocket world: named identity factors, drawn from a seed.

A subject is a flat vector. Each factor owns a slice of it: a colour (3 linear-ish RGB values in [0, 1]), a scalar
in [0, 1], or a category (one-hot). The renderer renders this vector and the scorers read it back, so the truth about a
picture's identity is always known.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...errors import InvalidOptions

Domain = Literal["avatars", "products"]
Split = Literal["train", "validation", "test"]
DOMAINS: tuple[Domain, ...] = ("avatars", "products")

# Seeds of the three splits never overlap: each has a range of ten million, far wider than any set in use.
SPLIT_BASE: dict[Split, int] = {"train": 0, "validation": 10_000_000, "test": 20_000_000}
SPLIT_SPAN = 10_000_000


@dataclass(frozen=True)
class Factor:
    """One identity factor: a slice of the subject vector."""

    name: str
    kind: Literal["colour", "scalar", "category"]
    size: int
    # Share of the identity error: a hair colour says more about the identity than the width of a nose.
    weight: float = 1.0


def _colour(name: str, weight: float = 1.0) -> Factor:
    return Factor(name, "colour", 3, weight)


def _scalar(name: str, weight: float = 1.0) -> Factor:
    return Factor(name, "scalar", 1, weight)


HAIR_STYLES = ("bald", "short", "long", "afro", "bun", "crest")
GLASSES = ("none", "round", "square")
FACIAL_HAIR = ("none", "moustache", "beard")
PRODUCT_KINDS = ("mug", "bottle", "vase", "bowl", "jar")
MARKS = ("none", "disc", "diamond", "stripes", "cross")

FACTORS: dict[Domain, tuple[Factor, ...]] = {
    "avatars": (
        _colour("skin"),
        _colour("hair"),
        _colour("iris", 0.5),
        _colour("shirt"),
        _scalar("head_width"),
        _scalar("jaw_width"),
        _scalar("eye_spacing"),
        _scalar("eye_size"),
        _scalar("brow_thickness", 0.5),
        _scalar("nose_size"),
        _scalar("mouth_width", 0.5),
        _scalar("hair_volume"),
        Factor("hair_style", "category", len(HAIR_STYLES), 1.5),
        Factor("glasses", "category", len(GLASSES)),
        Factor("facial_hair", "category", len(FACIAL_HAIR)),
    ),
    "products": (
        _colour("body", 1.5),
        _colour("band"),
        _colour("mark"),
        _scalar("height"),
        _scalar("width"),
        _scalar("belly"),
        _scalar("neck"),
        _scalar("foot"),
        _scalar("band_position"),
        _scalar("band_width"),
        _scalar("mark_size"),
        _scalar("gloss", 0.5),
        Factor("mark_kind", "category", len(MARKS), 1.5),
        Factor("kind", "category", len(PRODUCT_KINDS)),
    ),
}


def slices(domain: Domain) -> dict[str, slice]:
    """Place of each factor of a domain in the subject vector."""
    found: dict[str, slice] = {}
    start = 0
    for factor in FACTORS[domain]:
        found[factor.name] = slice(start, start + factor.size)
        start += factor.size
    return found


def vector_size(domain: Domain) -> int:
    """Length of a subject vector of this domain."""
    return sum(factor.size for factor in FACTORS[domain])


@dataclass(frozen=True, eq=False)
class Subject:
    """A person or thing of the pocket world.

    Attributes:
        domain: "avatars" or "products".
        seed: The number it was drawn from; two subjects of one domain with the same seed are the same.
        vector: Identity factors, shape (vector_size(domain),), each value in [0, 1].
    """

    domain: Domain
    seed: int
    vector: Tensor

    @property
    def class_word(self) -> str:
        """The everyday word for what it is: "person", "mug", "bottle"…"""
        if self.domain == "avatars":
            return "person"
        return PRODUCT_KINDS[int(self.vector[slices("products")["kind"]].argmax())]


def _hsv(hue: float, saturation: float, value: float) -> list[float]:
    return list(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _skin(u: list[float]) -> list[float]:
    light, dark = (0.98, 0.84, 0.73), (0.36, 0.22, 0.15)
    return [a + (b - a) * u[0] + 0.05 * (u[1] - 0.5) * s for a, b, s in zip(light, dark, (1, 0, -1), strict=True)]


def _hair(u: list[float]) -> list[float]:
    natural = ((0.09, 0.07, 0.07), (0.36, 0.20, 0.10), (0.68, 0.28, 0.10), (0.90, 0.74, 0.36), (0.80, 0.80, 0.82))
    if u[0] < 0.7:
        position = u[1] * (len(natural) - 1)
        low = min(int(position), len(natural) - 2)
        return [a + (b - a) * (position - low) for a, b in zip(natural[low], natural[low + 1], strict=True)]
    return _hsv(u[1], 0.55 + 0.3 * u[2], 0.55 + 0.4 * u[0])


def _vivid(u: list[float]) -> list[float]:
    return _hsv(u[0], 0.25 + 0.65 * u[1], 0.35 + 0.6 * u[2])


_COLOURS = {"skin": _skin, "hair": _hair}
_CATEGORY_ODDS: dict[str, tuple[float, ...]] = {"glasses": (0.5, 0.25, 0.25), "facial_hair": (0.5, 0.2, 0.3)}


def draw_subject(domain: Domain, split: Split, index: int) -> Subject:
    """Draw subject number ``index`` of a split.

    Args:
        domain: Which world the subject lives in.
        split: "train", "validation" or "test"; their seeds never overlap.
        index: Its number within the split, 0 ≤ index < 10,000,000.

    Raises:
        InvalidOptions: If index is outside its split.
    """
    if not 0 <= index < SPLIT_SPAN:
        raise InvalidOptions(f"Subject index {index} is outside 0..{SPLIT_SPAN - 1}; choose a smaller one.")
    seed = SPLIT_BASE[split] + index
    generator = torch.Generator().manual_seed(seed * 2 + DOMAINS.index(domain))
    values: list[float] = []
    for factor in FACTORS[domain]:
        u = torch.rand(3, generator=generator).tolist()
        if factor.kind == "colour":
            values += _COLOURS.get(factor.name, _vivid)(u)
        elif factor.kind == "scalar":
            values.append(u[0])
        else:
            odds = torch.tensor(_CATEGORY_ODDS.get(factor.name, (1 / factor.size,) * factor.size))
            chosen = min(int((odds.cumsum(0) < u[0]).sum()), factor.size - 1)
            values += [float(i == chosen) for i in range(factor.size)]
    vector = torch.tensor(values).clamp(0, 1)
    return Subject(domain, seed, _without_unseen(vector, domain))


# A hidden factor says nothing about a subject: no photo shows the colour of a missing mark.
_HIDDEN_BY: dict[Domain, dict[str, tuple[str, ...]]] = {
    "avatars": {"hair_style": ("hair_volume",)},
    "products": {"mark_kind": ("mark", "mark_size")},
}


def _without_unseen(vector: Tensor, domain: Domain) -> Tensor:
    """Set the factors that no photo can show to one half; the first choice of a hiding category hides."""
    where, seen = slices(domain), vector.clone()
    for category, hidden in _HIDDEN_BY[domain].items():
        if vector[where[category]][0] == 1:
            for name in hidden:
                seen[where[name]] = 0.5
    return seen


def draw_subjects(domain: Domain, split: Split, count: int, first: int = 0) -> list[Subject]:
    """Draw ``count`` subjects of a split, beginning with number ``first``."""
    return [draw_subject(domain, split, first + i) for i in range(count)]


def identity_error(read: Tensor, truth: Tensor, domain: Domain) -> Tensor:
    """Weighted mean squared difference of two identity vectors, factor by factor.

    Args:
        read: Identity as read from pictures, shape (..., vector_size(domain)).
        truth: Identity to compare with, a shape that broadcasts against ``read``.
        domain: Domain of the factors.

    Returns:
        Shape (...): 0 for the same identity; a one-hot category that is entirely wrong counts 1.
    """
    total = torch.zeros((), device=read.device)
    weights = 0.0
    for factor, place in zip(FACTORS[domain], slices(domain).values(), strict=True):
        squared = (read[..., place] - truth[..., place]).square()
        error = squared.sum(-1) / 2 if factor.kind == "category" else squared.mean(-1)
        total = total + factor.weight * error
        weights += factor.weight
    return total / weights
