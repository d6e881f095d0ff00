"""The benchmark's main table: Meta-LoRA warm against plain LoRA at its best, with intervals over subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..curves import Curve, Key, Numbers, Resampled, curves_of, interval, resample_weights
from ..methods.registry import META_OUTSIDE, META_WARM, PLAIN
from ..rows import Row
from ..subjects.scores import LEAST_ERROR

__all__ = ["BAR", "Ratio", "summarise"]

_LEAST_COPYING = 0.01
"""Copying counts at least this much in a ratio; less is indistinguishable from none."""


@dataclass(frozen=True)
class Ratio:
    """One line of the main table.

    Args:
        value: Geometric mean over the domains.
        low: Lower end of its 95 % interval over subjects.
        high: Upper end.
        subjects: How many it rests on, all domains together.
        by_domain: The ratio in each domain.
    """

    value: float
    low: float
    high: float
    subjects: int
    by_domain: Mapping[str, float]


_Pair = Callable[[Resampled, Resampled], Numbers]


def _steps_ratio(meta: Resampled, plain: Resampled) -> Numbers:
    best = plain.best()
    reached = meta.combined <= plain.at(plain.combined, best)[:, None]
    # Never reached: it took more than the longest training, which is what is counted.
    needed = np.where(reached.any(axis=1), meta.steps[reached.argmax(axis=1)], meta.steps[-1] * 2)
    return plain.steps[best] / np.maximum(needed, 1)


def _prompt_ratio(meta: Resampled, plain: Resampled) -> Numbers:
    return _at_best(meta, "prompt_error", LEAST_ERROR) / _at_best(plain, "prompt_error", LEAST_ERROR)


def _copying_ratio(meta: Resampled, plain: Resampled) -> Numbers:
    return _at_best(meta, "copying", _LEAST_COPYING) / _at_best(plain, "copying", _LEAST_COPYING)


def _combined_ratio(meta: Resampled, plain: Resampled) -> Numbers:
    return meta.combined.min(axis=1) / plain.combined.min(axis=1)


def _identity_at_equal_prompt(meta: Resampled, plain: Resampled) -> Numbers:
    allowed = plain.at(plain.scores["prompt_error"], plain.best())[:, None]
    identity = meta.scores["identity_error"].clip(min=LEAST_ERROR)
    fits = meta.scores["prompt_error"] <= np.maximum(allowed, LEAST_ERROR)
    # If no step reaches plain LoRA's prompt error, the highest identity error of all is used.
    lowest = np.where(fits.any(axis=1), np.where(fits, identity, np.inf).min(axis=1), identity.max(axis=1))
    return lowest / _at_best(plain, "identity_error", LEAST_ERROR)


def _at_best(curve: Resampled, score: str, least: float) -> Numbers:
    return curve.at(curve.scores[score], curve.best()).clip(min=least)


@dataclass(frozen=True)
class _Line:
    ratio: _Pair
    meta: tuple[str, int]
    plain: tuple[str, int]
    goal: float
    more_is_better: bool
    text: str


_LINES: Mapping[str, _Line] = {
    "steps_ratio_1": _Line(
        _steps_ratio, (META_WARM, 1), (PLAIN, 1), 5.0, True, "how many times fewer steps to plain LoRA's best, 1 photo"
    ),
    "prompt_error_ratio_1": _Line(
        _prompt_ratio, (META_WARM, 1), (PLAIN, 1), 0.4, False, "prompt error, each at its best point, 1 photo"
    ),
    "identity_at_equal_prompt_1": _Line(
        _identity_at_equal_prompt, (META_WARM, 1), (PLAIN, 1), 0.6, False,
        "lowest identity error at no more than plain LoRA's prompt error, 1 photo",
    ),
    "identity_at_equal_prompt_4": _Line(
        _identity_at_equal_prompt, (META_WARM, 4), (PLAIN, 4), 0.8, False, "the same, 4 photos"
    ),
    "copying_ratio_1": _Line(
        _copying_ratio, (META_WARM, 1), (PLAIN, 1), 0.4, False, "copying of the photo, each at its best point, 1 photo"
    ),
    "meta1_vs_lora4": _Line(
        _combined_ratio, (META_WARM, 1), (PLAIN, 4), 1.0, False, "combined error, Meta-LoRA 1 photo to plain LoRA 4"
    ),
    "out_of_domain": _Line(
        _combined_ratio, (META_OUTSIDE, 1), (PLAIN, 1), 1.1, False, "combined error outside the prior's domain, 1 photo"
    ),
}  # fmt: skip

BAR: Mapping[str, tuple[str, float, bool]] = {
    name: (line.text, line.goal, line.more_is_better) for name, line in _LINES.items()
}
"""Name of each ratio to what it says, its goal, and whether more is better."""


def summarise(rows: Sequence[Row], seed: int = 0) -> dict[str, Ratio]:
    """Every ratio that the rows can answer.

    Both methods of a ratio are compared on the same subjects, resampled together; each resample chooses its own best
    points, so that the intervals hold the uncertainty of that choice too.

    Args:
        rows: Of a benchmark.
        seed: Of the resampling.
    """
    curves = curves_of(rows)
    found = {name: _ratio(line, curves, seed) for name, line in _LINES.items()}
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def _ratio(line: _Line, curves: Mapping[Key, Curve], seed: int) -> Ratio | None:
    domains = sorted({domain for _, domain, _ in curves})
    by_domain: dict[str, Numbers] = {}
    subjects = 0
    for number, domain in enumerate(domains):
        meta, plain = (curves.get((method, domain, photos)) for method, photos in (line.meta, line.plain))
        if meta is None or plain is None:
            continue
        shared = sorted(set(meta.subjects) & set(plain.subjects))
        weights = resample_weights(len(shared), seed * 1000 + number)
        by_domain[domain] = line.ratio(_only(meta, shared).resampled(weights), _only(plain, shared).resampled(weights))
        subjects += len(shared)
    if not by_domain:
        return None
    value, low, high = interval(np.exp(np.mean([np.log(values) for values in by_domain.values()], axis=0)))
    return Ratio(value, low, high, subjects, {name: float(values[0]) for name, values in by_domain.items()})


def _only(curve: Curve, subjects: Sequence[int]) -> Curve:
    places = [curve.subjects.index(subject) for subject in subjects]
    return Curve(curve.steps, tuple(subjects), {name: values[:, places] for name, values in curve.scores.items()})
