"""Learning-rate schedule and seeds: both functions of the step alone, so that a resumed run needs nothing stored."""

from __future__ import annotations

import math

__all__ = ["warmup_cosine", "warmup_linear"]


def warmup_cosine(step: int, steps: int, warmup_steps: int, floor: float = 0.0) -> float:
    """Factor on a learning rate: linear warm-up, then a half cosine down to ``floor``.

    Args:
        step: Steps done, from 0.
        steps: Length of the training.
        warmup_steps: Steps until the full rate is reached.
        floor: Factor at the end, 0..1; 1 keeps the rate constant after the warm-up.

    Returns:
        A number in (0, 1].
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def warmup_linear(step: int, steps: int, warmup_steps: int, held: float, floor: float = 0.0) -> float:
    """Factor on a learning rate: linear warm-up, full rate, then a straight line down to ``floor``.

    Args:
        step: Steps done, from 0.
        steps: Length of the training.
        warmup_steps: Steps until the full rate is reached.
        held: Share of the steps after which the rate begins to fall, 0..1.
        floor: Factor at the end, 0..1.

    Returns:
        A number in (0, 1].
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    falling = (step - held * steps) / max((1 - held) * steps, 1)
    return 1 - (1 - floor) * min(max(falling, 0.0), 1.0)
