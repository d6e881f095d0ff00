"""What an adaptation does when the memory does not suffice: which savings there are, in which order, and in what words.

The first steps are the measurement: a run starts with the plan that is fastest and takes the next saving whenever a
step does not fit. Recomputing blocks changes nothing in the result; a batch in pieces changes its rounding.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from .host import Host

__all__ = ["MemoryPlan", "free_memory"]


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is computed.

    Args:
        checkpointing: Blocks are computed again in the backward pass: a third more time, a fraction of the memory.
        pieces: Forward and backward passes that a batch is cut into; their gradients are summed.
    """

    checkpointing: bool = False
    pieces: int = 1

    @staticmethod
    def of(host: Host) -> MemoryPlan:
        """The plan that a host is set to."""
        return MemoryPlan(checkpointing=bool(getattr(host, "checkpointing", False)))

    def smaller(self, host: Host, batch: int) -> MemoryPlan | None:
        """The next plan that needs less, or None.

        Args:
            host: Has an attribute ``checkpointing`` if it can recompute blocks.
            batch: Samples a step.
        """
        if not self.checkpointing and hasattr(host, "checkpointing"):
            return replace(self, checkpointing=True)
        if self.pieces < batch:
            return replace(self, pieces=min(2 * self.pieces, batch))
        return None

    def set_on(self, host: Host) -> None:
        """Let the host follow the plan from the next `Host.training` on."""
        if hasattr(host, "checkpointing"):
            host.checkpointing = self.checkpointing  # pyright: ignore[reportAttributeAccessIssue]

    def cut(self, batch: int) -> Iterator[slice]:
        """Rows of each piece of a batch."""
        size = -(-batch // self.pieces)
        return (slice(start, start + size) for start in range(0, batch, size))

    @property
    def text(self) -> str:
        """In words, e.g. "recomputing blocks, the batch in 2 pieces"."""
        words = ["recomputing blocks"] if self.checkpointing else ["keeping all activations"]
        return ", ".join(words + ([f"the batch in {self.pieces} pieces"] if self.pieces > 1 else []))


def free_memory(device: torch.device) -> None:
    """Give back what a failed step has left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
