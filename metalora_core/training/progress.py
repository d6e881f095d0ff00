"""What a training reports after a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..files.identity import Identity


@dataclass(frozen=True)
class AdaptationProgress:
    """What a listener gets whenever the loop reports.

    Args:
        step: Steps done.
        steps: Total steps.
        loss: Mean loss since the last report.
        seconds: Since this call of ``adapt`` began.
        preview: Picture (3, H, W) in 0..1, or None.
        losses: One per step done, also before it was resumed.
        learned: Makes the identity as it is after this step, to be called before the next; None where several subjects
            are learned side by side.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    preview: Tensor | None = None
    losses: Sequence[float] = ()
    learned: Callable[[], Identity] | None = None


@dataclass(frozen=True)
class MetaTrainingProgress:
    """What a listener gets every ``read_every`` steps.

    Args:
        step: Steps done.
        steps: Total steps.
        loss: Mean loss since the last report (query loss where passes are split).
        seconds: Since this call of ``meta_train`` began.
        losses: One per report, also before it was resumed.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    losses: Sequence[float] = ()


class StepProgress(Protocol):
    """What a training reports after a step, as far as a progress bar needs it."""

    @property
    def step(self) -> int:
        """Steps done."""
        ...

    @property
    def steps(self) -> int:
        """Steps requested."""
        ...

    @property
    def loss(self) -> float:
        """Latest loss."""
        ...
