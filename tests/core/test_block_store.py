"""Laws of blocks that are kept elsewhere: same numbers, few copies at a time, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from core.bench_stand_in import StandInHost, stand_in_prior
from core.tiny_models import tiny_flux, tiny_sd3, tiny_unet
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from metalora_core.adaptation import adapt
from metalora_core.applying import apply_identity
from metalora_core.errors import InvalidOptions
from metalora_core.hosts.block_store import BlockPlace, BlockStore, repeated_blocks
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.model.generation import Request, generate_pictures
from metalora_core.photos.training_set import TrainingSet
from metalora_core.training.adaptation_options import AdaptationOptions, AdaptationResult
from metalora_core.training.retries import StepPlan

CPU = torch.device("cpu")


class Swapping(StandInHost):
    """Keeps blocks in main memory although it computes there: the same path without a card."""

    can_swap = True  # pyright: ignore[reportAssignmentType]


def learn(host: StandInHost) -> AdaptationResult:
    photos = TrainingSet((torch.full((3, 128, 128), 0.5),), ("photo of a ohwx person",), "person", "ohwx")
    return adapt(host, stand_in_prior(host), photos, AdaptationOptions(steps=4, read_every=2))


def factors(result: AdaptationResult) -> Tensor:
    layers = result.identity.layers.values()
    return torch.cat([factor.flatten() for layer in layers for factor in (layer.mid, layer.up)])


def test_an_adaptation_with_blocks_kept_elsewhere_is_bit_identical_and_leaves_the_model_as_it_was():
    model = tiny_flux()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    host = Swapping(model, gradient_checkpointing=True, swapped=True)
    result = learn(host)
    assert result.memory == "blocks in main memory, recomputing blocks"
    assert torch.equal(factors(result), factors(learn(StandInHost(tiny_flux()))))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_identity_draws_the_same_wherever_the_blocks_are_kept():
    identity, drawn = learn(StandInHost(tiny_flux())).identity, list[Tensor]()
    for kept_elsewhere in (False, True):
        host = StandInHost(tiny_flux())
        if kept_elsewhere:
            BlockStore(host.model, CPU, CPU)
        with apply_identity(host, identity, stand_in_prior(host), strength=3.0):
            drawn.append(generate_pictures(host, Request(("a person", "a mug"), size_px=128, steps=2, batch=1)))
        drawn.append(generate_pictures(host, Request(("a person", "a mug"), size_px=128, steps=2, batch=1)))
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many blocks' copies are alive whenever one is made ready, by weak references to their last matrix."""
    seen: list[StorageWeakRef] = []
    counts: list[int] = []
    copies = BlockStore._copies

    def counting(self: BlockStore, number: int) -> list[Tensor]:
        made = copies(self, number)
        matrix = max(i for i, copy in enumerate(made) if copy.dim() > 1)
        seen.append(StorageWeakRef(made[matrix].untyped_storage()))
        counts.append(sum(not one.expired() for one in seen))
        return made

    monkeypatch.setattr(BlockStore, "_copies", counting)
    yield counts


def test_with_recomputing_a_block_is_gone_before_the_one_after_the_next(alive: list[int]):
    learn(Swapping(tiny_flux(), gradient_checkpointing=True, swapped=True))
    assert len(alive) == 4 * 2 * 3  # forward and again backward, three blocks, four steps
    assert max(alive) <= 2  # a block's backward pass may still hold it while the next one is made ready


def test_the_next_block_is_copied_ahead_in_both_directions(monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    ready, copies = BlockStore.make_ready, BlockStore._copies
    monkeypatch.setattr(BlockStore, "make_ready", lambda s, n: (events.append(f"use {n}"), ready(s, n))[1])
    monkeypatch.setattr(BlockStore, "_copies", lambda s, n: (events.append(f"copy {n}"), copies(s, n))[1])
    host = StandInHost(tiny_flux(), gradient_checkpointing=True)
    store = BlockStore(host.model, CPU, CPU, prefetch=True)
    result = learn(host)
    assert torch.equal(factors(result), factors(learn(StandInHost(tiny_flux()))))
    forward = ["use 0", "copy 0", "copy 1", "use 1", "copy 2", "use 2"]
    backward = ["use 2", "copy 2", "use 1", "copy 1", "copy 0", "use 0"]
    assert events[: len(forward + backward)] == forward + backward
    store.onload()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_on_a_card_swapped_blocks_learn_the_same():
    def on_card(**settings: bool) -> Tensor:
        return factors(learn(StandInHost(tiny_flux().to("cuda"), gradient_checkpointing=True, **settings)))

    assert torch.equal(on_card(swapped=True), on_card())


def test_a_training_that_fails_leaves_its_blocks_until_the_next_one():
    host = Swapping(tiny_flux(), gradient_checkpointing=True, swapped=True)
    with pytest.raises(KeyError), host.training():
        raise KeyError
    assert any(block._forward_pre_hooks for block in repeated_blocks(host.model))
    host.swapped = False
    with host.training():
        assert not any(block._forward_pre_hooks for block in repeated_blocks(host.model))


def test_blocks_kept_for_good_after_a_failed_training_stay_where_they_are():
    host = Swapping(tiny_flux(), gradient_checkpointing=True, swapped=True)
    with pytest.raises(KeyError), host.training():
        raise KeyError
    host.keep_blocks(BlockPlace(dtype=torch.float8_e4m3fn))
    host.swapped = False
    with host.training():
        assert all(block._forward_pre_hooks for block in repeated_blocks(host.model))


def test_an_interrupt_within_a_block_leaves_no_copy_behind():
    model = tiny_flux()
    stored = [id(parameter) for parameter in model.parameters()]
    store = BlockStore(model, CPU, CPU)
    store.make_ready(1)
    assert [id(parameter) for parameter in model.parameters()] != stored
    store.onload()
    assert [id(parameter) for parameter in model.parameters()] == stored


def test_a_store_that_cannot_be_made_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch):
    model, offload = tiny_flux(), BlockStore._offload

    def full(self: BlockStore, stored: Any, dtype: torch.dtype | None) -> None:
        if len(self._blocks) == 3:
            raise MemoryError
        offload(self, stored, dtype)

    monkeypatch.setattr(BlockStore, "_offload", full)
    with pytest.raises(MemoryError):
        BlockStore(model, CPU, CPU, torch.float8_e4m3fn)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(module._forward_hooks for module in model.modules())


def test_without_recomputing_autograd_keeps_every_block(alive: list[int]):
    learn(Swapping(tiny_flux(), swapped=True))
    assert max(alive) == 3


@pytest.mark.parametrize("make", [tiny_flux, tiny_sd3])
def test_matrices_in_eight_bits_compute_as_the_rounded_model(make):
    model, rounded = make(), make()
    for block in repeated_blocks(rounded):
        for parameter in block.parameters():
            if parameter.dim() > 1:
                parameter.data = parameter.data.to(torch.float8_e4m3fn).float()
    kept = DiffusersHost(model)
    kept.keep_blocks(BlockPlace(dtype=torch.float8_e4m3fn))
    matrices = [p for block in repeated_blocks(model) for p in block.parameters() if p.dim() > 1]
    assert matrices and all(p.dtype == torch.float8_e4m3fn for p in matrices)
    noisy, t = torch.randn(1, 16, 4, 4), torch.tensor([0.5])
    pooled = 24 if kept.family == "sd3" else 8
    conditioning = {"context": torch.randn(1, 5, 16), "pooled": torch.randn(1, pooled)}
    with torch.no_grad():
        assert torch.equal(kept.predict(noisy, t, conditioning), DiffusersHost(rounded).predict(noisy, t, conditioning))
    assert not kept.can_swap
    kept.keep_blocks(BlockPlace())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), rounded.parameters(), strict=True))


def test_a_pass_that_fails_puts_the_stored_weights_back():
    model = tiny_flux()
    stored = [id(parameter) for parameter in model.parameters()]
    BlockStore(model, CPU, CPU)
    with pytest.raises(RuntimeError):
        model.transformer_blocks[0](torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), torch.zeros(1, 3), None)
    assert [id(parameter) for parameter in model.parameters()] == stored


def test_a_unet_is_refused_and_a_processor_has_nothing_to_swap():
    with pytest.raises(InvalidOptions, match="float16"):
        DiffusersHost(tiny_unet()).keep_blocks(BlockPlace(dtype=torch.float8_e4m3fn))
    assert not DiffusersHost(tiny_flux()).can_swap


def test_blocks_go_to_main_memory_last_and_only_when_they_are_recomputed():
    host, plan = Swapping(tiny_flux(), compiled=True), StepPlan.of(Swapping(tiny_flux(), compiled=True))
    ladder = [plan]
    while (plan := plan.smaller(host, 2)) is not None:
        ladder.append(plan)
    assert [p.text for p in ladder] == [
        "compiled, keeping all activations",
        "compiled, recomputing blocks",
        "compiled, recomputing blocks, the batch in 2 pieces",
        "blocks in main memory, recomputing blocks, the batch in 2 pieces",
    ]
