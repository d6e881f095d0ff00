"""Identity score against prompt adherence: the path of a training, the front it reaches, and what is read off both.

Identity score is 0 for the untrained base model and 1 for true photos of the subject, prompt adherence 0 for the photo
again and 1 for true photos of what was asked. Neither extreme is worth anything: the base model's identity is 0, and so
is the adherence of a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .curves import Curve, Numbers, Resampled
from .subjects.scores import LEAST_ERROR

__all__ = ["Path", "balance", "chosen_step", "hypervolume", "identity_at"]


def balance(identity: Numbers, adherence: Numbers) -> Numbers:
    """Geometric mean of both scores, element by element; 0 where either is not above 0."""
    return np.sqrt(np.maximum(identity, 0) * np.maximum(adherence, 0))


def hypervolume(identity: Numbers, adherence: Numbers) -> Numbers:
    """Area below the front of some points, (resamples, points) each → (resamples,): 0 for none, 1 for true photos."""
    order = np.argsort(-adherence, axis=1)
    across, up = (np.maximum(np.take_along_axis(values, order, axis=1), 0) for values in (adherence, identity))
    widths = across - np.append(across[:, 1:], np.zeros((len(across), 1)), axis=1)
    return (np.maximum.accumulate(up, axis=1) * widths).sum(axis=1)


def identity_at(identity: Numbers, adherence: Numbers, level: Numbers) -> Numbers:
    """Highest identity score along a path at no less than an adherence, (resamples, points) and (resamples,).

    The path begins at the base model and runs straight between its points. Where it never reaches the adherence, the
    base model's 0 counts.
    """
    wanted = level[:, None]
    found = [np.where(adherence >= wanted, identity, 0.0)]
    before, after = adherence[:, :-1], adherence[:, 1:]
    crosses = (before - wanted) * (after - wanted) < 0
    share = (wanted - before) / np.where(crosses, after - before, 1.0)
    found.append(np.where(crosses, identity[:, :-1] + share * np.diff(identity, axis=1), 0.0))
    return np.concatenate(found, axis=1).max(axis=1).clip(min=0)


@dataclass(frozen=True, eq=False)
class Path:
    """One training, its subjects resampled: every value is (resamples, steps).

    Args:
        means: Of all scores.
        base: Of the base model on the same subjects, (resamples, 1); None if it was not drawn.
        step: Chosen before on other subjects; 0 if none was, and each resample then takes its best balance.
    """

    means: Resampled
    base: Resampled | None
    step: int

    @staticmethod
    def of(curve: Curve, base: Curve | None, weights: Numbers, step: int = 0) -> Path:
        """Resample a curve and the base model's with the same weights, (resamples, subjects)."""
        return Path(curve.resampled(weights), base and base.resampled(weights), step)

    @property
    def identity(self) -> Numbers:
        """Identity score."""
        if self.base is None:
            return np.full_like(self.means.scores["identity_error"], np.nan)
        return 1 - self.means.scores["identity_error"] / self.base.scores["identity_error"].clip(min=LEAST_ERROR)

    @property
    def adherence(self) -> Numbers:
        """Prompt adherence."""
        return _adherence(self.means)

    @property
    def hypervolume(self) -> Numbers:
        """Of the front over all steps, (resamples,)."""
        return hypervolume(self.identity, self.adherence)

    @property
    def chosen(self) -> NDArray[np.int64]:
        """Index of the chosen step, (resamples,)."""
        steps = self.means.steps
        if not self.step:
            found = self.means.combined if self.base is None else -balance(self.identity, self.adherence)
            return found.argmin(axis=1)
        nearest = np.abs(np.log(np.maximum(steps, 1)) - np.log(self.step)).argmin()
        return np.full(len(self.adherence), nearest)

    def at(self, values: Numbers) -> Numbers:
        """Values (resamples, steps) at the chosen step, (resamples,)."""
        return self.means.at(values, self.chosen)

    def identity_at(self, adherence: Numbers) -> Numbers:
        """Highest identity score at no less than this adherence, (resamples,)."""
        if self.base is None:
            return np.full_like(adherence, np.nan)
        start = _adherence(self.base)
        return identity_at(
            np.append(np.zeros_like(start), self.identity, axis=1),
            np.append(start, self.adherence, axis=1),
            adherence,
        )


def _adherence(means: Resampled) -> Numbers:
    return 1 - means.scores["prompt_error"] / means.scores["photo_prompt_error"].clip(min=LEAST_ERROR)


def chosen_step(steps: Mapping[str, int], method: str, photos: int, domain: str) -> int:
    """The step chosen for a method: that for the most photos that are not more, by domain; 0 if there is none.

    Args:
        steps: "method@photos@domain" to the step, from `tuning.load_steps`.
        method: Name.
        photos: That it learns from.
        domain: Of the subjects.
    """
    counts = [int(key.split("@")[1]) for key in steps if key.startswith(f"{method}@") and key.endswith(f"@{domain}")]
    fitting = [count for count in counts if count <= photos]
    return steps[f"{method}@{max(fitting)}@{domain}"] if fitting else 0
