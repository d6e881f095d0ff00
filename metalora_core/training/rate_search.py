"""A learning rate that finds itself: a few trial steps on the photos, each four times as large as the one before.

While steps are small, the loss on held-out noise falls in proportion to how far the factors have moved. Once it has
fallen only half as far as that, the bottom of the valley is reached: for a parabola exactly. An optimizer of Adam's
kind moves every number by about its rate, so the way to the bottom is a rate, whatever the base model, its layers and
the subject. A training of 100 steps takes all of it as its rate, a longer one so much less that what chance adds up to,
which grows as the square root of the steps, stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["HELD_OUT_LEVELS", "FoundRate", "find_rate"]

HELD_OUT_LEVELS = 3
"""Noise levels of a photo at which each trial step is measured."""

_FIRST_RATE, _GROWTH, _MOST_TRIALS = 2e-5, 4.0, 8
_FELT = 0.002
"""Share of the loss by which it has to fall before rounding and chance are left behind."""

_USUAL_STEPS = 100
_UNFELT_RATE = 1e-3
"""Where nothing is felt: the usual rate with a prior."""


@dataclass(frozen=True)
class FoundRate:
    """What the trial steps said.

    Args:
        rate: To train with.
        trials: Travel so far (the sum of all rates) and loss on held-out noise after each trial step.
        first_loss: Before them.
        felt: Whether the loss fell at all; if not, the rate is a usual one.
    """

    rate: float
    trials: tuple[tuple[float, float], ...]
    first_loss: float
    felt: bool = True

    def record(self) -> dict[str, Any]:
        """For files, ready for JSON."""
        return {**asdict(self), "trials": [list(pair) for pair in self.trials]}

    @staticmethod
    def of(record: Mapping[str, Any]) -> FoundRate:
        """From its record."""
        trials = tuple((float(travel), float(loss)) for travel, loss in record["trials"])
        return FoundRate(float(record["rate"]), trials, float(record["first_loss"]), bool(record["felt"]))

    @property
    def note(self) -> str:
        """For the report."""
        if self.felt:
            return f"The learning rate {self.rate:.2g} was found in {len(self.trials)} trial steps on the photos."
        return f"No trial step on the photos lowered the loss, so the learning rate is a usual one, {self.rate:g}."


def find_rate(trial_step: Callable[[int, float], None], loss: Callable[[], float], steps: int) -> FoundRate:
    """Take trial steps until the loss on held-out noise has fallen half as far as its slope promised.

    Args:
        trial_step: Takes the step of a number, from 0, at a rate; the caller undoes all of them afterwards.
        loss: On held-out noise.
        steps: Of the training that the rate is for.
    """
    first, travel, steepest, bottom = loss(), 0.0, 0.0, 0.0
    trials, kept = list[tuple[float, float]](), 1.0
    for number in range(_MOST_TRIALS):
        before, rate = (travel or _FIRST_RATE, kept), _FIRST_RATE * _GROWTH**number
        trial_step(number, rate)
        travel += rate
        trials.append((travel, loss()))
        fallen = first - trials[-1][1]
        if not math.isfinite(fallen):
            break
        if fallen >= _FELT * first:
            steepest = max(steepest, fallen / travel)
        kept, bottom = fallen / (steepest * travel) if steepest else 1.0, travel
        if kept < 0.5:
            bottom = _half_way(before, (travel, kept))
            break
    trials = [pair for pair in trials if math.isfinite(pair[1])]
    if not steepest:
        return FoundRate(_UNFELT_RATE, tuple(trials), first, felt=False)
    return FoundRate(bottom * min(1.0, math.sqrt(_USUAL_STEPS / steps)), tuple(trials), first)


def _half_way(before: tuple[float, float], after: tuple[float, float]) -> float:
    """The travel, between two, at which half of the promise is kept; evenly on a scale of factors."""
    (near, more), (far, less) = before, after
    return near * (far / near) ** ((more - 0.5) / (more - less))
