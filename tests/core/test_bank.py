"""Laws of the identity bank."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from core.disk_limits import file_size_limit
from torch import Tensor

from metalora_core.errors import InvalidOptions
from metalora_core.files.atomic import UnwritableFile
from metalora_core.training.bank import IdentityBank, SlotRates

RATES = SlotRates(mid=0.1, up=0.01, decay=0.2)


def filled(folder: Path | None = None) -> IdentityBank:
    bank = IdentityBank(5, 3, 7, folder, rows_per_shard=2)
    generator = torch.Generator().manual_seed(0)
    for rows in ([0, 3], [4, 3], [1, 4]):
        bank.update(rows, torch.randn(2, 7, generator=generator), RATES)
    return bank


def state(bank: IdentityBank) -> list[Tensor]:
    """Its whole state, as it is in memory."""
    return [*map(bank.row, range(bank.count)), bank.visits]


def test_a_row_moves_as_its_own_adamw_would():
    bank, generator = IdentityBank(4, 3, 7), torch.Generator().manual_seed(1)
    mid, up = torch.zeros(3, requires_grad=True), torch.zeros(4, requires_grad=True)
    groups = [{"params": [mid], "lr": RATES.mid}, {"params": [up], "lr": RATES.up}]
    optimizer = torch.optim.AdamW(groups, weight_decay=RATES.decay)
    for _ in range(5):
        gradients = torch.randn(2, 7, generator=generator)
        bank.update([2, 0], gradients, RATES)
        mid.grad, up.grad = gradients[0, :3].clone(), gradients[0, 3:].clone()
        optimizer.step()
    torch.testing.assert_close(bank.gather([2])[0], torch.cat([mid, up]).detach(), rtol=1e-5, atol=1e-7)


def test_only_the_batch_moves_and_the_mean_is_over_visited_rows():
    bank = filled()
    assert bank.visits.tolist() == [1, 1, 0, 2, 2]
    assert not bank.gather([2]).any()
    torch.testing.assert_close(bank.mean(), bank.gather([0, 1, 3, 4]).mean(0))
    assert not IdentityBank(2, 1, 2).mean().any()


def test_mapped_bank_equals_the_one_in_memory_and_starts_empty(tmp_path: Path):
    for _ in range(2):
        mapped = filled(tmp_path)
        assert torch.equal(mapped.gather(range(5)), filled().gather(range(5)))


def test_a_mapped_bank_has_its_room_on_the_disk_before_it_is_used(tmp_path: Path):
    IdentityBank(5, 300, 7000, tmp_path, rows_per_shard=2)
    files = sorted(tmp_path.iterdir())
    assert [file.stat().st_size for file in files] == [4 * rows * 3 * 7000 for rows in (2, 2, 1)]
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in files)


@pytest.mark.parametrize("available", [True, False], ids=["reserves", "writes zeros"])
def test_a_disk_without_room_is_said_before_work_and_left_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: bool
):
    if not available:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with file_size_limit(60_000), pytest.raises(UnwritableFile, match="84,000 bytes"):
        IdentityBank(3, 300, 3500, tmp_path, rows_per_shard=2)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_cannot_reserve_room_gets_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    assert torch.equal(filled(tmp_path).gather(range(5)), filled().gather(range(5)))
    assert [file.stat().st_size for file in sorted(tmp_path.iterdir())] == [168, 168, 84]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what a process holds")
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "in memory"])
def test_only_what_was_visited_takes_memory_and_mapped_files_take_none(mapped: bool, tmp_path: Path):
    total, whole = 5_000, 2_000 * 3 * 5_000 * 4
    before = _resident_bytes()
    bank = IdentityBank(2_000, 1_000, total, tmp_path if mapped else None)
    assert _resident_bytes() - before < whole / 10, "nobody was visited"
    for first in range(0, 2_000 if mapped else 200, 8):
        bank.update(range(first, first + 8), torch.ones(8, total), RATES)
    bank.mean()
    assert _resident_bytes() - before < whole / 4
    assert bank.gather([0, 199]).any(1).all()


def test_rows_and_visits_are_its_whole_state():
    source, copy = filled(), IdentityBank(5, 3, 7, rows_per_shard=2)
    for tensor, value in zip(state(copy), state(source), strict=True):
        tensor.copy_(value)
    for bank in (source, copy):
        bank.update([1, 2], torch.ones(2, 7), RATES)
    assert torch.equal(source.gather(range(5)), copy.gather(range(5)))


def test_a_bank_of_nobody_is_refused():
    with pytest.raises(InvalidOptions, match="at least one"):
        IdentityBank(0, 3, 7)


@pytest.mark.parametrize("mapped", [False, True])
def test_going_back_undoes_every_update_since_the_state_was_kept(mapped: bool, tmp_path: Path):
    bank = filled(tmp_path if mapped else None)
    bank.keep()
    before = [tensor.clone() for tensor in state(bank)]
    for subjects in ([0, 4], [4, 1]):
        bank.update(subjects, torch.ones(2, 7), SlotRates(0.1, 0.1))
    assert bank.kept_bytes == 3 * 3 * 7 * 4
    assert not all(map(torch.equal, state(bank), before))
    bank.go_back()
    assert all(map(torch.equal, state(bank), before))
    assert bank.kept_bytes == 0
