"""When a running training writes its checkpoint: by steps, and by time, since a step may take a minute."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["CheckpointClock"]

LONGEST_LOSS_S = 30.0
"""What a run that is killed may lose, beside the steps up to its next report."""


@dataclass
class CheckpointClock:
    """Tells whether a checkpoint is due.

    Args:
        every: Steps between two checkpoints.
    """

    every: int
    saved_at: float = field(default_factory=time.monotonic)

    def due(self, step: int) -> bool:
        """Whether to save after this step; time counts from the last one for which this was so."""
        late = time.monotonic() - self.saved_at >= LONGEST_LOSS_S
        if not (late or step % self.every == 0):
            return False
        self.saved_at = time.monotonic()
        return True
