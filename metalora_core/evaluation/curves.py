"""Means over subjects at every step of every run, and their spread by resampling the subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .conditions import CLEAN
from .rows import Row
from .subjects.scores import combined_error

__all__ = ["RESAMPLES", "Curve", "Numbers", "Resampled", "curves_of", "interval", "resample_weights"]

Numbers = NDArray[np.float64]

RESAMPLES = 2000
_SCORES = (
    "identity_error", "prompt_error", "copying", "diversity", "seconds", "photo_prompt_error", "copy_angle", "drift"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Curve:
    """One method with one number of photos in one domain.

    Args:
        steps: Rising.
        subjects: Their seeds, rising.
        scores: Name to values, (steps, subjects).
    """

    steps: tuple[int, ...]
    subjects: tuple[int, ...]
    scores: Mapping[str, Numbers]

    def only(self, subjects: Sequence[int]) -> Curve:
        """The same of some of its subjects, rising."""
        places = [self.subjects.index(subject) for subject in subjects]
        return Curve(self.steps, tuple(subjects), {name: values[:, places] for name, values in self.scores.items()})

    def resampled(self, weights: Numbers) -> Resampled:
        """Means over subjects under weights (resamples, subjects) that sum to 1 in every row."""
        return Resampled(np.array(self.steps), {name: weights @ values.T for name, values in self.scores.items()})


@dataclass(frozen=True, eq=False)
class Resampled:
    """Means of a curve: every value is (resamples, steps); the first resample is the subjects as they are."""

    steps: NDArray[np.int64]
    scores: Mapping[str, Numbers]

    @property
    def combined(self) -> Numbers:
        """Geometric mean of identity error and prompt error, each a mean over subjects."""
        return combined_error(self.scores["identity_error"], self.scores["prompt_error"])

    def best(self) -> NDArray[np.int64]:
        """Index of the step with the lowest combined error, (resamples,)."""
        return self.combined.argmin(axis=1)

    def at(self, values: Numbers, index: NDArray[np.int64]) -> Numbers:
        """Values (resamples, steps) at one step of each resample."""
        return np.take_along_axis(values, index[:, None], axis=1)[:, 0]


Key = tuple[str, str, int]
"""Method, domain, photos."""


def curves_of(rows: Sequence[Row], condition: str = CLEAN.name) -> dict[Key, Curve]:
    """Arrange rows by method, domain and photos; only subjects and steps that are complete are kept."""
    grouped: dict[Key, dict[tuple[int, int], Row]] = {}
    for row in rows:
        if row.condition == condition:
            grouped.setdefault((row.method, row.domain, row.photos), {})[row.steps, row.subject] = row
    curves: dict[Key, Curve] = {}
    for key, found in sorted(grouped.items()):
        steps = tuple(sorted({step for step, _ in found}))
        everyone = sorted({subject for _, subject in found})
        subjects = tuple(s for s in everyone if all((step, s) in found for step in steps))
        if subjects:
            scores = {
                name: np.array([[getattr(found[step, s], name) for s in subjects] for step in steps], dtype=np.float64)
                for name in _SCORES
            }
            curves[key] = Curve(steps, subjects, scores)
    return curves


def resample_weights(subjects: int, seed: int = 0, resamples: int = RESAMPLES) -> Numbers:
    """Weights of a bootstrap over subjects, (resamples + 1, subjects); the first row is the sample itself.

    The same number of subjects always gets the same weights, so methods are compared pairwise.
    """
    generator = np.random.default_rng([seed, subjects])
    drawn = generator.multinomial(subjects, np.full(subjects, 1 / subjects), size=resamples)
    return np.concatenate([np.ones((1, subjects)), drawn]) / subjects


def interval(values: Numbers) -> tuple[float, float, float]:
    """Value of the sample itself and the 95 % interval of its resamples, (resamples + 1,) → (value, low, high)."""
    low, high = np.percentile(values[1:], [2.5, 97.5]) if len(values) > 1 else (values[0], values[0])
    return float(values[0]), float(low), float(high)
