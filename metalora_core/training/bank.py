"""The identity bank of meta-training: mid and up for each subject, with their own optimizer state.

A subject's row is its difference from the common identity, so a new bank is all zeros. Only the rows of the batch are
read and written ("lazy" Adam), in place, so that a bank larger than memory can live in mapped files. In memory
a row takes room once it was visited; mapped rows leave it again after each step.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ..errors import InvalidOptions
from ..files.atomic import reserve_file

__all__ = ["IdentityBank", "SlotRates"]


@dataclass(frozen=True)
class SlotRates:
    """Adam settings of the per-subject factors.

    Args:
        mid: Learning rate of mid.
        up: Learning rate of up.
        decay: Decoupled decay towards the common identity, in units of the learning rate.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
    """

    mid: float
    up: float
    decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999


class IdentityBank:
    """Rows of residuals (row = identity of a subject minus common identity) and their Adam moments.

    Args:
        count: Subjects.
        mid_total: Numbers of all mids; the first part of a row.
        total: Numbers of a row.
        folder: Keep the bank in memory-mapped files here instead of in RAM. The files are working storage: a
            checkpoint holds a copy. Their bytes are taken from the disk at once.
        rows_per_shard: Rows of one tensor or file.

    Raises:
        InvalidOptions: If count is below 1.
        UnwritableFile: If the folder cannot hold the bank.
    """

    def __init__(
        self, count: int, mid_total: int, total: int, folder: Path | None = None, rows_per_shard: int = 256
    ) -> None:
        if count < 1:
            raise InvalidOptions(f"A bank of {count} subjects cannot be trained; give at least one subject.")
        self.count, self.mid_total, self.total, self.rows_per_shard = count, mid_total, total, rows_per_shard
        sizes = [min(rows_per_shard, count - start) for start in range(0, count, rows_per_shard)]
        # Axis 1 has residual, first and second moment of one subject side by side.
        shapes = [(rows, 3, total) for rows in sizes]
        self._maps = list[mmap.mmap]()
        # Zeros of numpy's take memory when they are first written to, those of torch at once.
        self._shards = [torch.from_numpy(np.zeros(shape, np.float32)) for shape in shapes] if folder is None else []
        if folder is not None:
            self._maps = _mapped(shapes, folder)
            flats = [torch.frombuffer(one, dtype=torch.float32) for one in self._maps]
            self._shards = [flat.view(shape) for flat, shape in zip(flats, shapes, strict=True)]
        self.visits = torch.zeros(count)
        self.changed = set[int]()
        """Subjects that may have another row than in the last checkpoint, which empties it."""
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = None

    def gather(self, subjects: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Copies of the subjects' residuals, shape (len(subjects), total)."""
        rows = torch.stack([self.row(subject)[0] for subject in subjects])
        return rows if device is None else rows.to(device, non_blocking=True)

    def update(self, subjects: Sequence[int], gradients: Tensor, rates: SlotRates) -> None:
        """One Adam step on the rows of distinct subjects.

        Args:
            subjects: Distinct indices.
            gradients: (len(subjects), total), on any device.
            rates: Learning rates and betas.
        """
        self._remember(subjects)
        self.changed.update(subjects)
        gradients = gradients.to("cpu", torch.float32)
        rows = [self.row(subject) for subject in subjects]
        visits = [self.visits[subject] for subject in subjects]
        for part, rate in ((slice(0, self.mid_total), rates.mid), (slice(self.mid_total, self.total), rates.up)):
            adamw(
                [row[0, part] for row in rows],
                [gradient[part] for gradient in gradients],
                [row[1, part] for row in rows],
                [row[2, part] for row in rows],
                [],
                # Each call counts the step; the bank's own counter moves once below.
                [visit.clone() for visit in visits],
                fused=True,
                amsgrad=False,
                beta1=rates.beta1,
                beta2=rates.beta2,
                lr=rate,
                weight_decay=rates.decay,
                eps=1e-8,
                maximize=False,
            )
        self.visits[list(subjects)] += 1
        self.let_go(subjects)

    def let_go(self, subjects: Sequence[int]) -> None:
        """Take what was mapped out of this process's memory; the disk, or the system's cache of it, has it."""
        advice: int | None = getattr(mmap, "MADV_DONTNEED", None)  # missing on Windows
        if advice is not None and self._maps:
            for shard in {subject // self.rows_per_shard for subject in subjects}:
                self._maps[shard].madvise(advice)

    def keep(self) -> None:
        """Keep the present state to return to; only rows that change from now on are copied."""
        self._kept = {}

    def go_back(self) -> None:
        """Give every row that changed since ``keep`` what it had then."""
        for subject, (row, visits) in (self._kept or {}).items():
            self.row(subject).copy_(row)
            self.visits[subject] = visits
        self.keep()

    @property
    def kept_bytes(self) -> int:
        """What the copies of changed rows take."""
        return len(self._kept or {}) * 3 * self.total * 4

    def _remember(self, subjects: Sequence[int]) -> None:
        if self._kept is not None:
            new = [subject for subject in subjects if subject not in self._kept]
            self._kept |= {subject: (self.row(subject).clone(), self.visits[subject].clone()) for subject in new}

    def mean(self, over_ranks: Callable[[Tensor], Tensor] = lambda own: own) -> Tensor:
        """Mean residual of all subjects that were visited, shape (total,).

        Args:
            over_ranks: Gives a sum over the banks of all ranks.
        """
        total = torch.zeros(self.total, dtype=torch.float64)
        for i, shard in enumerate(self._shards):
            seen = self.visits[i * self.rows_per_shard :][: shard.shape[0]] > 0
            # Row by row: a mapped shard may not fit into memory as one copy.
            for row in seen.nonzero().flatten().tolist():
                total += shard[row, 0]
            self.let_go([i * self.rows_per_shard])
        return (over_ranks(total) / over_ranks((self.visits > 0).sum()).clamp(min=1)).float()

    def row(self, subject: int) -> Tensor:
        """A subject's residual and its moments, (3, total): the bank's own memory."""
        return self._shards[subject // self.rows_per_shard][subject % self.rows_per_shard]


def _mapped(shapes: Sequence[tuple[int, int, int]], folder: Path) -> list[mmap.mmap]:
    paths = [folder / f"bank-{index:05d}.f32" for index in range(len(shapes))]
    try:
        # All of them before the first is used: on a full disk, a mapped file with a hole crashes the program.
        for path, shape in zip(paths, shapes, strict=True):
            reserve_file(path, 4 * prod(shape))
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise
    maps = list[mmap.mmap]()
    for path in paths:
        with path.open("r+b") as file:
            maps.append(mmap.mmap(file.fileno(), 0))
    return maps
