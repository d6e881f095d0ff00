"""The rows of a bank, in files beside its checkpoint: a checkpoint writes only those that changed since the last one.

A row goes into a free slot of the file, never over the version that the last checkpoint refers to. The checkpoint
itself is small and replaced as a whole; for each row it has the slot and a checksum. So whatever breaks off the
writing, the last checkpoint stays whole. The file holds no more than the bank and what changes between two checkpoints.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from ..checks import plain_line
from ..errors import DamagedFile
from .atomic import UnwritableFile, explained
from .bounded import bytes_of

__all__ = ["RowFile", "row_files", "rows_beside"]


def rows_beside(path: Path, part: int = 0, parts: int = 1) -> Path:
    """The file of rows that belongs to a checkpoint.

    Args:
        path: The checkpoint.
        part: Number of the file, from 0.
        parts: Files that hold the rows together.
    """
    return path.with_name(f"{path.name}.rows-{part + 1}-of-{parts}")


def row_files(path: Path) -> list[Path]:
    """All files of rows that are there beside a checkpoint."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.rows-*-of-*[0-9]"))


class RowFile:
    """Which version of each row the last checkpoint refers to.

    Args:
        count: Rows of the bank.
        row_of: A row's own memory, contiguous and of the same size for all.
    """

    def __init__(self, count: int, row_of: Callable[[int], Tensor]) -> None:
        self.index = torch.full((count, 2), -1, dtype=torch.int64)
        """Slot and checksum of each row in the last checkpoint, (count, 2); slot -1 for a row without a version."""
        self._unsure, self._row_of = list[Tensor](), row_of
        """Later ones, after which the run was interrupted: the checkpoint on the disk may refer to one of them."""

    @contextmanager
    def writing(
        self,
        path: Path,
        changed: Iterable[int],
        attempt: Callable[[Callable[[], None]], None] = lambda write: write(),
    ) -> Generator[Tensor]:
        """Write the rows that changed; they count once the block, which saves a checkpoint with their index, ends well.

        Args:
            path: The file.
            changed: Their numbers.
            attempt: Calls what it is given, which writes; it may raise `UnwritableFile` for reasons of its own.

        Yields:
            The new `index`.

        Raises:
            UnwritableFile: If the folder is missing, unwritable or full; what was written is taken back then.
        """
        index, rows = self.index.clone(), sorted(changed)
        self._unsure.append(index)
        try:
            attempt(lambda: self._write(path, rows, index))
            yield index
        except UnwritableFile:
            self._unsure.pop()
            if rows:
                self._cut(path)
            raise
        self.index = index
        self._unsure.clear()

    def _write(self, path: Path, rows: list[int], index: Tensor) -> None:
        if not len(index):  # of a rank without subjects
            return
        slots = torch.cat([self.index[:, 0], *(one[:, 0] for one in self._unsure)])
        used = torch.zeros(int(slots.max()) + 1 + len(rows), dtype=torch.bool)
        used[slots[slots >= 0]] = True
        free = (~used).nonzero().flatten().tolist()
        there = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            there = path.exists()
            # A file that was deleted meanwhile starts over: the rows that did not change get their old slots again.
            lost = [] if there else sorted({*(self.index[:, 0] >= 0).nonzero().flatten().tolist()} - {*rows})
            if not rows and not lost:
                return
            with path.open("r+b" if there and int(slots.max()) >= 0 else "wb") as file:
                for row, slot in zip(lost + rows, self.index[lost, 0].tolist() + free, strict=False):
                    content = bytes_of(self._row_of(row))
                    file.seek(slot * len(content))
                    file.write(content)
                    index[row] = torch.tensor([slot, _checksum(content)])
                file.flush()
                os.fsync(file.fileno())
            there = True
        except OSError as error:
            raise UnwritableFile(explained(path, error)) from error
        finally:
            if not there:  # half of a new file would count as the whole one the next time
                with suppress(OSError):
                    path.unlink()

    def _cut(self, path: Path) -> None:
        """Give back the room behind the last version that counts."""
        slots = max(int(one[:, 0].max()) for one in (self.index, *self._unsure)) + 1
        with suppress(OSError):
            if slots:
                os.truncate(path, min(path.stat().st_size, slots * self._row_of(0).nbytes))
            else:
                path.unlink()

    def read(self, path: Path, index: Tensor, rows: Iterable[int]) -> Generator[int]:
        """Read rows into their own memory, one after the other; yields the number of each that was read.

        Args:
            path: The file.
            index: Of the checkpoint; rows without a version stay as they are.
            rows: Their numbers.

        Raises:
            DamagedFile: If the file is missing or cut off, or a row was changed after it was written or is not finite.
        """
        versions = [(row, *index[row].tolist()) for row in rows]
        versions = [version for version in versions if version[1] >= 0]
        if not versions:
            return
        try:
            with path.open("rb") as file:
                for row, slot, checksum in versions:
                    _fill(self._row_of(row), file, slot, checksum)
                    yield row
        except OSError as error:
            found = plain_line(str(error.strerror or error), 200)
            raise DamagedFile(
                f"{plain_line(path.name, 120)} could not be read ({found}). A checkpoint needs the files beside it "
                "that begin with its name. Put it back, or delete them all to start over."
            ) from error


def _fill(row: Tensor, file: BufferedReader, slot: int, checksum: int) -> None:
    content = bytes_of(row)
    file.seek(slot * len(content))
    if file.readinto(content) != len(content) or _checksum(content) != checksum or not bool(row.isfinite().all()):
        row.zero_()
        raise DamagedFile(
            f"{plain_line(Path(file.name).name, 120)} was changed after it was written: a row's checksum is wrong. "
            "Delete it to start over."
        )


def _checksum(content: memoryview) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)
