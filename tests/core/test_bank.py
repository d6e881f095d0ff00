"""Laws of the identity bank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metalora_core.bank import IdentityBank, SlotRates
from metalora_core.errors import InvalidOptions

RATES = SlotRates(mid=0.1, up=0.01, decay=0.2)


def filled(folder: Path | None = None) -> IdentityBank:
    bank = IdentityBank(5, 3, 7, folder, rows_per_shard=2)
    generator = torch.Generator().manual_seed(0)
    for rows in ([0, 3], [4, 3], [1, 4]):
        bank.update(rows, torch.randn(2, 7, generator=generator), RATES)
    return bank


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


def test_load_restores_everything_and_refuses_another_shape():
    source, copy = filled(), IdentityBank(5, 3, 7, rows_per_shard=2)
    copy.load({name: tensor.clone() for name, tensor in source.tensors().items()})
    for bank in (source, copy):
        bank.update([1, 2], torch.ones(2, 7), RATES)
    assert torch.equal(source.gather(range(5)), copy.gather(range(5)))
    with pytest.raises(InvalidOptions, match="other subjects or ranks"):
        IdentityBank(5, 3, 8, rows_per_shard=2).load(source.tensors())
    with pytest.raises(InvalidOptions, match="at least one"):
        IdentityBank(0, 3, 7)
