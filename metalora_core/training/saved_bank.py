"""The bank in a checkpoint: its rows, in a file of each rank's, and an index of them all in the checkpoint itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DamagedFile
from ..files.atomic import UnwritableFile
from ..files.row_file import RowFile, row_files, rows_beside
from .bank import IdentityBank
from .ranks import Ranks

__all__ = ["SavedBank"]

_ROWS, _VISITS, _SHARD = "bank.rows", "bank.visits", "bank.shard"
_ROWS_PER_SHARD = 256
"""Of the checkpoints of earlier releases, which had the whole bank inside."""


class SavedBank:
    """Writes and reads the bank of a rank as its part of a checkpoint.

    Args:
        bank: With a row for each of the rank's own subjects.
        subjects: Of all ranks.
        ranks: The processes that train together; the index is the same for all.
    """

    def __init__(self, bank: IdentityBank, subjects: int, ranks: Ranks) -> None:
        self._bank, self._subjects, self._ranks, self._own = bank, subjects, ranks, ranks.own(subjects)
        self._rows = RowFile(len(self._own), bank.row)

    @contextmanager
    def writing(self, path: Path) -> Generator[dict[str, Tensor]]:
        """Write what changed since the last checkpoint; it counts once the new one is saved inside.

        Args:
            path: The checkpoint.

        Yields:
            The bank's tensors in the checkpoint.

        Raises:
            UnwritableFile: If a rank could not write; on every rank.
        """
        bank, ranks = self._bank, self._ranks
        part = rows_beside(path, ranks.rank, ranks.count)

        def on_every_rank(write: Callable[[], None]) -> None:
            ranks.attempt(write, UnwritableFile)

        with self._rows.writing(part, bank.changed, on_every_rank) as index:
            visits = bank.visits[: len(self._own)]
            yield {_VISITS: ranks.gathered(visits, self._subjects), _ROWS: ranks.gathered(index, self._subjects)}
        bank.changed.clear()
        if ranks.first:
            for other in {*row_files(path)} - {rows_beside(path, number, ranks.count) for number in range(ranks.count)}:
                with suppress(OSError):
                    other.unlink()

    def wanted(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names and shapes of the bank's tensors in a checkpoint like this one."""
        rows = self._subjects
        if not any(name.startswith(_SHARD) for name in saved):
            return {_VISITS: torch.empty(rows), _ROWS: torch.empty(rows, 2)}
        sizes = [min(_ROWS_PER_SHARD, rows - first) for first in range(0, rows, _ROWS_PER_SHARD)]
        shape = self._bank.row(0).shape
        return {_VISITS: torch.empty(rows)} | {
            f"{_SHARD}.{number}": torch.empty(size, *shape, device="meta") for number, size in enumerate(sizes)
        }

    def read(self, path: Path, saved: Mapping[str, Tensor], parts: int) -> None:
        """Fill the bank, row by row; if a row of any rank is damaged, it stays empty.

        Args:
            path: The checkpoint.
            saved: Its tensors.
            parts: Ranks that wrote it.

        Raises:
            DamagedFile: On every rank.
        """
        bank, ranks = self._bank, self._ranks
        own = slice(ranks.rank, None, ranks.count)
        filled, visits = list[int](), saved[_VISITS][own]

        def fill() -> None:
            for row in self._each(path, saved, parts):
                filled.append(row)
                bank.let_go([row])

        try:
            ranks.attempt(fill, DamagedFile)
        except DamagedFile:
            for row in filled:
                bank.row(row).zero_()
            raise
        bank.visits[: len(visits)] = visits
        bank.changed = set(visits.nonzero().flatten().tolist())
        if _ROWS in saved and parts == ranks.count:
            self._rows.index, bank.changed = saved[_ROWS][own].clone(), set()

    def _each(self, path: Path, saved: Mapping[str, Tensor], parts: int) -> Generator[int]:
        """Numbers of the rows that were read."""
        if _ROWS in saved:
            index = saved[_ROWS][self._ranks.rank :: self._ranks.count]
            for part in range(parts):
                rows = [row for row, subject in enumerate(self._own) if subject % parts == part]
                yield from self._rows.read(rows_beside(path, part, parts), index, rows)
            return
        for row, subject in enumerate(self._own):
            if saved[_VISITS][subject]:
                shard, place = divmod(subject, _ROWS_PER_SHARD)
                self._bank.row(row).copy_(saved[f"{_SHARD}.{shard}"][place])
                yield row

    def most_bytes(self, visited: int | None = None) -> int:
        """What the files of all ranks take at most, if all rows change between two checkpoints.

        Args:
            visited: Most subjects that have a row; None for all.
        """
        rows = self._subjects if visited is None else min(visited, self._subjects)
        return 2 * rows * self._bank.row(0).nbytes + 20 * self._subjects  # the index and the visits are of all
