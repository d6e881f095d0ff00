"""Laws of the rows beside a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from core.disk_limits import file_size_limit
from torch import Tensor

from metalora_core.errors import DamagedFile
from metalora_core.files.atomic import UnwritableFile
from metalora_core.files.row_file import RowFile, row_files, rows_beside

COUNT, LENGTH = 12, 50
ROW_BYTES = LENGTH * 4


def bank(seed: int = 0) -> Tensor:
    return torch.randn(COUNT, LENGTH, generator=torch.Generator().manual_seed(seed))


def saved(rows: RowFile, path: Path, changed: Iterable[int]) -> Tensor:
    with rows.writing(path, changed) as index:
        pass
    return index


def read(path: Path, index: Tensor) -> Tensor:
    found = torch.zeros(COUNT, LENGTH)
    assert list(RowFile(COUNT, found.__getitem__).read(path, index, range(COUNT))) == [
        row for row in range(COUNT) if index[row, 0] >= 0
    ]
    return found


def test_only_rows_that_changed_are_written_and_a_file_never_grows_beyond_two_versions(tmp_path: Path):
    path, values = tmp_path / "rows", torch.zeros(COUNT, LENGTH)
    rows, random = RowFile(COUNT, values.__getitem__), torch.Generator().manual_seed(1)
    saved(rows, path, [3, 5])
    assert path.stat().st_size == 2 * ROW_BYTES
    for _ in range(60):
        changed = torch.randperm(COUNT, generator=random)[:5].tolist()
        values[changed] = torch.randn(5, LENGTH, generator=random)
        before = rows.index.clone()
        index = saved(rows, path, changed)
        assert (index != before).any(1).nonzero().flatten().tolist() == sorted(changed)
        assert torch.equal(read(path, index), values)
    assert path.stat().st_size <= (COUNT + 5) * ROW_BYTES


def test_nothing_that_a_checkpoint_on_the_disk_may_refer_to_is_written_over(tmp_path: Path):
    path, values = tmp_path / "rows", bank()
    rows = RowFile(COUNT, values.__getitem__)
    known = [(saved(rows, path, range(8)), values[:8].clone())]
    for seed in (1, 2, 3):
        values.copy_(bank(seed))
        with pytest.raises(KeyboardInterrupt), rows.writing(path, range(8)) as index:
            known.append((index, values[:8].clone()))
            raise KeyboardInterrupt
        assert all(torch.equal(read(path, one)[:8], content) for one, content in known)
    size = path.stat().st_size
    for _ in range(3):
        assert torch.equal(read(path, saved(rows, path, range(8)))[:8], values[:8])
    assert path.stat().st_size <= size + 8 * ROW_BYTES


def test_a_full_disk_costs_only_what_was_to_be_written(tmp_path: Path):
    path, values = tmp_path / "rows", bank()
    rows = RowFile(COUNT, values.__getitem__)
    with file_size_limit(100), pytest.raises(UnwritableFile):
        saved(rows, path, [0, 1])
    assert not list(tmp_path.iterdir()) and (rows.index == -1).all()
    index, before = saved(rows, path, [0, 1]), values.clone()
    values.copy_(bank(1))
    with file_size_limit(3 * ROW_BYTES + 10), pytest.raises(UnwritableFile):
        saved(rows, path, [0, 1, 2])
    assert torch.equal(rows.index, index) and torch.equal(read(path, index)[:2], before[:2])
    assert path.stat().st_size == 2 * ROW_BYTES


def test_a_deleted_file_starts_over_with_every_row(tmp_path: Path):
    path, values = tmp_path / "rows", bank()
    rows = RowFile(COUNT, values.__getitem__)
    saved(rows, path, range(8))
    path.unlink()
    values[[2, 9]] = bank(1)[[2, 9]]
    with file_size_limit(3 * ROW_BYTES), pytest.raises(UnwritableFile):
        saved(rows, path, [2, 9])
    for changed in ([2, 9], [4], []):
        index = saved(rows, path, changed)
        assert torch.equal(read(path, index)[:8], values[:8]) and torch.equal(read(path, index)[9], values[9])
    path.unlink()
    assert torch.equal(read(path, saved(rows, path, []))[9], values[9])


@pytest.mark.parametrize("damage", ["changed", "cut off", "missing", "not finite"])
def test_damage_is_noticed_and_leaves_an_empty_row(tmp_path: Path, damage: str):
    path, values = tmp_path / "rows", bank()
    values[4] = float("nan") if damage == "not finite" else values[4]
    index = saved(RowFile(COUNT, values.__getitem__), path, [*range(5)])
    content = bytearray(path.read_bytes())
    content[-1] ^= damage == "changed"
    path.write_bytes(content[:-1] if damage == "cut off" else content)
    if damage == "missing":
        path.unlink()
    found = torch.zeros(COUNT, LENGTH)
    with pytest.raises(DamagedFile, match="could not be read" if damage == "missing" else "checksum"):
        list(RowFile(COUNT, found.__getitem__).read(path, index, range(COUNT)))
    assert not found[4:].any()


def test_files_of_rows_are_found_beside_their_checkpoint_alone(tmp_path: Path):
    path = tmp_path / "run[1].safetensors"
    for part in range(2):
        rows_beside(path, part, 2).touch()
    for name in ("run1.safetensors.rows-1-of-1", "run[1].safetensors.rows-1-of-2.damaged", "run[1].safetensors"):
        (tmp_path / name).touch()
    assert row_files(path) == [rows_beside(path, 0, 2), rows_beside(path, 1, 2)]
