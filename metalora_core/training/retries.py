"""How a step of an adaptation is computed, and what is changed when that does not work.

The first steps are the measurement: a run starts with the plan that is asked for. Whenever a step does not fit into
memory it takes the next saving, and where the passes cannot be compiled it goes on without. Recomputing blocks changes
nothing in the result; a batch in pieces and compiled passes change its rounding.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..model.host import Host

__all__ = ["StepPlan", "free_memory"]

_OF_HOST = ("compiled", "checkpointing", "swapped")


@dataclass(frozen=True)
class StepPlan:
    """How a step is computed.

    Args:
        compiled: Passes are compiled; worth it for long runs only, see `metalora_core.model.compiled_pass`.
        checkpointing: Blocks are computed again in the backward pass: a third more time, a fraction of the memory.
        swapped: The blocks' weights lie in main memory, and are on the card only while they compute.
        pieces: Forward and backward passes that a batch is cut into; their gradients are summed.
    """

    compiled: bool = False
    checkpointing: bool = False
    swapped: bool = False
    pieces: int = 1

    @staticmethod
    def of(host: Host) -> StepPlan:
        """The plan that a host is set to."""
        compiled, checkpointing, swapped = (bool(getattr(host, name, False)) for name in _OF_HOST)
        return StepPlan(compiled, checkpointing, swapped and bool(getattr(host, "can_swap", False)))

    def smaller(self, host: Host, batch: int) -> StepPlan | None:
        """The next plan that needs less memory, or None.

        Args:
            host: Has an attribute ``checkpointing`` if it can recompute blocks; ``can_swap`` says whether it can keep
                them elsewhere.
            batch: Samples a step.
        """
        if not self.checkpointing and hasattr(host, "checkpointing"):
            return replace(self, checkpointing=True)
        if self.pieces < batch:
            return replace(self, pieces=min(2 * self.pieces, batch))
        if self.checkpointing and not self.swapped and getattr(host, "can_swap", False):
            return replace(self, compiled=False, swapped=True)
        return None

    def set_on(self, host: Host) -> None:
        """Let the host follow the plan from the next `Host.training` on."""
        for name in _OF_HOST:
            if hasattr(host, name):
                setattr(host, name, getattr(self, name))

    def cut(self, batch: int) -> Iterator[slice]:
        """Rows of each piece of a batch."""
        size = -(-batch // self.pieces)
        return (slice(start, start + size) for start in range(0, batch, size))

    @property
    def text(self) -> str:
        """In words, e.g. "recomputing blocks, the batch in 2 pieces"."""
        words = ["compiled"] if self.compiled else []
        words += ["blocks in main memory"] if self.swapped else []
        words += ["recomputing blocks"] if self.checkpointing else ["keeping all activations"]
        return ", ".join(words + ([f"the batch in {self.pieces} pieces"] if self.pieces > 1 else []))


def free_memory(device: torch.device) -> None:
    """Give back what a failed step has left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
