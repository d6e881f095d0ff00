"""The main table of earlier releases: every method at its best step, chosen in hindsight on the same subjects."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..curves import Numbers, Resampled
from ..front import Path
from ..methods.registry import META_OUTSIDE, META_WARM, PLAIN
from ..subjects.scores import LEAST_ERROR
from .ratios import Line

__all__ = ["LEAST_COPYING", "LINES", "steps_ratio"]

LEAST_COPYING = 0.01
"""Copying counts at least this much in a ratio; less is indistinguishable from none."""


def steps_ratio(first: Path, reached: NDArray[np.bool_], target: Numbers) -> Numbers:
    """How many times fewer steps than another method needs.

    Args:
        first: Its steps are counted.
        reached: Where it is as good as the other, (resamples, steps).
        target: Steps of the other, (resamples,).
    """
    # Never reached: it took more than the longest training, which is what is counted.
    steps = first.means.steps
    needed = np.where(reached.any(axis=1), steps[reached.argmax(axis=1)], steps[-1] * 2)
    return target / np.maximum(needed, 1)


def _steps_ratio(first: Path, second: Path) -> Numbers:
    meta, plain = first.means, second.means
    best = plain.best()
    reached = meta.combined <= plain.at(plain.combined, best)[:, None]
    return steps_ratio(first, reached, plain.steps[best].astype(float))


def _prompt_ratio(first: Path, second: Path) -> Numbers:
    return _at_best(first.means, "prompt_error", LEAST_ERROR) / _at_best(second.means, "prompt_error", LEAST_ERROR)


def _copying_ratio(first: Path, second: Path) -> Numbers:
    return _at_best(first.means, "copying", LEAST_COPYING) / _at_best(second.means, "copying", LEAST_COPYING)


def _combined_ratio(first: Path, second: Path) -> Numbers:
    return first.means.combined.min(axis=1) / second.means.combined.min(axis=1)


def _identity_at_equal_prompt(first: Path, second: Path) -> Numbers:
    meta, plain = first.means, second.means
    allowed = plain.at(plain.scores["prompt_error"], plain.best())[:, None]
    identity = meta.scores["identity_error"].clip(min=LEAST_ERROR)
    fits = meta.scores["prompt_error"] <= np.maximum(allowed, LEAST_ERROR)
    # If no step reaches plain LoRA's prompt error, the highest identity error of all is used.
    lowest = np.where(fits.any(axis=1), np.where(fits, identity, np.inf).min(axis=1), identity.max(axis=1))
    return lowest / _at_best(plain, "identity_error", LEAST_ERROR)


def _at_best(means: Resampled, score: str, least: float) -> Numbers:
    return means.at(means.scores[score], means.best()).clip(min=least)


LINES: Mapping[str, Line] = {
    "steps_ratio_1_in_hindsight": Line(
        _steps_ratio, (META_WARM, 1), (PLAIN, 1), 5.0, True, "how many times fewer steps to plain LoRA's best, 1 photo",
        scored=False,
    ),
    "prompt_error_ratio_1": Line(
        _prompt_ratio, (META_WARM, 1), (PLAIN, 1), 0.4, False, "prompt error, each at its best point, 1 photo",
        scored=False,
    ),
    "identity_at_equal_prompt_1_in_hindsight": Line(
        _identity_at_equal_prompt, (META_WARM, 1), (PLAIN, 1), 0.6, False,
        "lowest identity error at no more than plain LoRA's prompt error, 1 photo", scored=False,
    ),
    "identity_at_equal_prompt_4_in_hindsight": Line(
        _identity_at_equal_prompt, (META_WARM, 4), (PLAIN, 4), 0.8, False, "the same, 4 photos", scored=False
    ),
    "copying_ratio_1": Line(
        _copying_ratio, (META_WARM, 1), (PLAIN, 1), 0.4, False, "copying of the photo, each at its best point, 1 photo",
        scored=False,
    ),
    "meta1_vs_lora4_in_hindsight": Line(
        _combined_ratio, (META_WARM, 1), (PLAIN, 4), 1.0, False, "combined error, Meta-LoRA 1 photo to plain LoRA 4",
        scored=False,
    ),
    "out_of_domain_in_hindsight": Line(
        _combined_ratio, (META_OUTSIDE, 1), (PLAIN, 1), 1.1, False,
        "combined error outside the prior's domain, 1 photo", scored=False,
    ),
}  # fmt: skip
