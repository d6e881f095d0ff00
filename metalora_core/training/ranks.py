"""Several processes that make one prior together, such as torchrun starts them: one for each card.

Each subject belongs to one rank, which has its row of the bank, draws its batches and trains its factors. All ranks
have the same shared factors; after each pass only their gradients are averaged. So the ranks take a step together as
one process would that sees the subjects of all of them.

Source: as in partially personalised federated learning, arXiv 2204.03809.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import MetaLoRAError, TrainingCancelled

__all__ = ["Ranks", "joined"]

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; without further arguments it is alone.

    Every method but `own` has to be called by all of them in the same order.

    Args:
        rank: Number of this process, from 0; the first writes files and reports progress.
        count: Of the processes.
        device: Where the numbers that they exchange have to be.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @staticmethod
    def present(device: torch.device) -> Ranks:
        """Those of an initialised ``torch.distributed`` group, or this process alone.

        Args:
            device: Of the model.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks()
        return Ranks(dist.get_rank(), dist.get_world_size(), "cpu" if dist.get_backend() == "gloo" else str(device))

    @property
    def first(self) -> bool:
        """Whether this one writes files and reports progress."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """Distinguishes the random numbers and files of this rank; empty for a process alone."""
        return f"rank {self.rank + 1} of {self.count} " if self.count > 1 else ""

    def own(self, subjects: int) -> range:
        """Which of so many subjects belong to this rank; the row of its bank is the place in this list."""
        return range(self.rank, subjects, self.count)

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Give tensors their mean over all ranks, in place; they travel as one flat vector."""
        if self.count > 1:
            mean = self.total(torch.cat([one.flatten() for one in gradients])) / self.count
            for one, part in zip(gradients, mean.split([one.numel() for one in gradients]), strict=True):
                one.copy_(part.view_as(one))

    def total(self, values: Tensor) -> Tensor:
        """Sum over all ranks."""
        if self.count == 1:
            return values
        summed = values.detach().to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed.to(values.device)

    def gathered(self, own: Tensor, subjects: int) -> Tensor:
        """Rows of all subjects in their order, from those of each rank's own."""
        if self.count == 1:
            return own
        every = own.new_zeros(subjects, *own.shape[1:])
        every[self.rank :: self.count] = own
        return self.total(every)

    def attempt(self, work: Callable[[], _Made], failure: type[Exception]) -> _Made:
        """Do something on every rank; what fails on one fails on all.

        Args:
            work: Does it.
            failure: How it may fail; anything else is raised here alone, and the others find their partner gone.

        Raises:
            failure: If it was raised on any rank.
        """
        if self.count == 1:
            return work()
        made, error = None, None
        try:
            made = work()
        except failure as found:
            error = found
        if self.any(error is not None):
            ours = issubclass(failure, MetaLoRAError)
            kind, what = (failure, "failed") if ours else (TrainingCancelled, "stopped")
            raise error or kind(f"Another rank {what}; its own message says why.")
        return cast("_Made", made)

    def of_first(self, text: str) -> str:
        """The first rank's text, where all have one of as many ASCII characters."""
        codes = torch.tensor(list(text.encode()))
        return bytes(self.total(codes if self.first else torch.zeros_like(codes)).tolist()).decode()

    def any(self, holds: bool) -> bool:
        """Whether something holds on any rank."""
        return holds if self.count == 1 else bool(self.total(torch.tensor(float(holds))))


def joined(device: str) -> tuple[Ranks, str]:
    """Join the processes that torchrun started this one with; one that it did not start stays alone.

    Args:
        device: As asked for; empty for the best one.

    Returns:
        The ranks, and the device of this one: on a machine with several cards, each process has its own.
    """
    if not dist.is_torchelastic_launched():
        return Ranks(), device
    if device in ("", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    atexit.register(dist.destroy_process_group)
    return Ranks.present(torch.device(device or "cpu")), device
