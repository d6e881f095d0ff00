"""How two methods are compared: one number on the same subjects, resampled together, with its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..curves import Curve, Key, Numbers, interval, resample_weights
from ..front import Path, chosen_step
from ..methods.registry import BASE

__all__ = ["Line", "Ratio", "ratio_of"]


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


@dataclass(frozen=True)
class Line:
    """What a line compares.

    Args:
        ratio: From two paths to one number a resample.
        first: Method and photos.
        second: What it is compared with.
        goal: Of the number.
        more_is_better: Whether it should be above the goal.
        text: What it says.
        gain: Whether it is given as a gain, ratio - 1.
        scored: Whether it needs the base model's pictures.
    """

    ratio: Callable[[Path, Path], Numbers]
    first: tuple[str, int]
    second: tuple[str, int]
    goal: float
    more_is_better: bool
    text: str
    gain: bool = False
    scored: bool = True


def ratio_of(line: Line, curves: Mapping[Key, Curve], steps: Mapping[str, int], seed: int) -> Ratio | None:
    """A line's number, or None if the rows cannot answer it.

    Args:
        line: Which.
        curves: Of the whole benchmark.
        steps: Chosen before, see `chosen_step`.
        seed: Of the resampling.
    """
    by_domain: dict[str, Numbers] = {}
    subjects = 0
    for number, domain in enumerate(sorted({domain for _, domain, _ in curves})):
        base = next((c for (method, own, _), c in curves.items() if (method, own) == (BASE, domain)), None)
        pair = [curves.get((method, domain, photos)) for method, photos in (line.first, line.second)]
        found = [curve for curve in (*pair, base) if curve is not None]
        if len(found) < 2 + line.scored or None in pair:
            continue
        shared = sorted(set.intersection(*(set(curve.subjects) for curve in found)))
        weights = resample_weights(len(shared), seed * 1000 + number)
        paths = [
            Path.of(curve.only(shared), base and base.only(shared), weights, chosen_step(steps, *of, domain))
            for curve, of in zip(found, (line.first, line.second), strict=False)
        ]
        by_domain[domain] = line.ratio(*paths)
        subjects += len(shared)
    if not by_domain:
        return None
    mean = np.exp(np.mean([np.log(values) for values in by_domain.values()], axis=0)) - line.gain
    return Ratio(*interval(mean), subjects, {name: float(v[0]) - line.gain for name, v in by_domain.items()})
