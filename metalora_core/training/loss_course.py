"""The course of a training's loss. Losses of single steps jump with their noise level, so means are shown instead."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean, variance

__all__ = ["has_risen", "loss_course"]

_PARTS = 5
_WIDEST = 50
"""A mean is over a run's fifth, and over fifty losses at most, so that a long run shows one soon."""

_FIRST = 5
"""Fewest losses that a rise is measured from; a rate that is far too high ruins a run within ten steps."""

_LEAST_RISE = 1.25
"""Fifty steps on the pocket model rise by 1.1 at most, and by 5 or more at twenty times the preset's rate."""

_STANDARD_ERRORS = 3


def loss_course(losses: Sequence[float], done: float = 1.0) -> list[tuple[float, float]]:
    """Means of the losses over a fifth of a run, or over fifty losses if that is less.

    Args:
        losses: Of all steps or reports so far, at equal distances.
        done: Share of the run that they are, in (0, 1].

    Returns:
        (share of the run, mean loss up to there) pairs from the first such mean on.
    """
    window, sums = _window(len(losses), done), [0.0, *accumulate(losses)]
    ends = range(window, len(losses) + 1)
    return [(end / len(losses) * done, (sums[end] - sums[end - window]) / window) for end in ends]


def has_risen(losses: Sequence[float]) -> bool:
    """Whether the last mean of a run's course is clearly above its first tenth.

    Clearly is by a quarter, and by three standard errors of the difference between the two means.

    Args:
        losses: Of all steps or reports.
    """
    first, last = losses[: max(_FIRST, len(losses) // 10)], losses[-_window(len(losses), 1.0) :]
    if len(last) < 2 or len(first) + len(last) > len(losses):
        return False
    error = (variance(first) / len(first) + variance(last) / len(last)) ** 0.5
    return fmean(last) > max(_LEAST_RISE * fmean(first), fmean(first) + _STANDARD_ERRORS * error)


def _window(count: int, done: float) -> int:
    return max(1, min(_WIDEST, round(count / done / _PARTS)))
