"""Subjects learned side by side end where they would end alone, and every method starts from the untouched model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from core.toy_host import ToyHost

from metalora_core.adaptation import adapt
from metalora_core.chain import ChainFactors
from metalora_core.evaluation.methods.cohort import draw_pictures, train_cohort
from metalora_core.evaluation.methods.peft_lora import PlainLoRAOptions, train_plain_lora
from metalora_core.evaluation.methods.registry import CORE, METHODS, PLAIN, RANK, chain_of
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata, targets_of_prior
from metalora_core.inject import Injection
from metalora_core.model.host import Host
from metalora_core.model.targets import fingerprint
from metalora_core.photos.training_set import TrainingSet
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.starts import ChainStart

RATE = 3e-3
OPTIONS = AdaptationOptions(
    steps=6, warmup_steps=2, final_rate=1.0, mid_learning_rate=RATE, up_learning_rate=RATE, read_every=2
)


def toy_prior(host: Host) -> Prior:
    generator, targets = torch.Generator().manual_seed(3), host.targets()
    layers = {
        t.name: PriorLayer(
            torch.randn(6, *t.shape[1:], generator=generator) / 4,
            torch.randn(RANK, 6, generator=generator) / 4,
            0.05 * torch.randn(t.shape[0], RANK, generator=generator),
        )
        for t in targets
    }
    metadata = PriorMetadata(
        name="toy", family="toy", base_fingerprint=fingerprint(targets), domain="blobs", r_meta=6, r_mid=RANK, scale=0.7
    )
    return Prior(layers, metadata)


def photos(seed: int) -> TrainingSet:
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return TrainingSet((picture,), (f"photo of a ohwx blob, view {seed}",), "blob", "ohwx")


def delta(start: ChainStart, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    mids, ups = start.layout.unpack(flat)
    return {n: ChainFactors(d, mids[n], ups[n], start.scale).delta() for n, d in start.downs.items()}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", ["meta_cold", "meta_warm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_cohort_of_one_is_an_adaptation_bit_for_bit(dtype: torch.dtype, name: str, flip: bool) -> None:
    host = ToyHost(dtype)
    prior = toy_prior(host)
    start = chain_of(name, host, prior, 0)
    flats = train_cohort(host, start, [photos(1)], replace(OPTIONS, flip=flip), [6])[0].flats
    options = replace(OPTIONS, start="warm" if name == "meta_warm" else "cold", r_mid=0, flip=flip)
    learned = adapt(host, prior, photos(1), options).identity
    mids, ups = start.layout.unpack(flats[0])
    for target, layer in learned.layers.items():
        assert torch.equal(mids[target], layer.mid) and torch.equal(ups[target], layer.up)


def test_the_plain_chain_is_plain_lora_by_peft() -> None:
    host = ToyHost()
    prior = toy_prior(host)
    targets = targets_of_prior(prior, host.targets())
    start = chain_of(PLAIN, host, prior, 0)
    shared = replace(OPTIONS, steps=1)
    begun = train_plain_lora(host, photos(1), targets, shared, PlainLoRAOptions(1e-30, RANK, RANK)).tensors
    mids = {t.name: begun[f"{t.name}.lora_A.weight"].flatten(1) for t in start.targets}
    ups = {t.name: begun[f"{t.name}.lora_B.weight"].flatten(1) * 0 for t in start.targets}
    start = replace(start, flat=start.layout.pack(mids, ups))
    learned = train_plain_lora(host, photos(1), targets, OPTIONS, PlainLoRAOptions(RATE, RANK, RANK)).tensors
    flats = train_cohort(host, start, [photos(1)], OPTIONS, [6])[0].flats
    mids, ups = start.layout.unpack(flats[0])
    for t in start.targets:
        torch.testing.assert_close(mids[t.name], learned[f"{t.name}.lora_A.weight"].flatten(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ups[t.name], learned[f"{t.name}.lora_B.weight"].flatten(1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["plain_lora", "pissa", "t_lora", "meta_warm"])
def test_subjects_do_not_see_each_other(name: str) -> None:
    host = ToyHost()
    start = chain_of(name, host, toy_prior(host), 0)
    together = train_cohort(host, start, [photos(1), photos(2)], OPTIONS, [2, 6], seeds=[5, 9])
    for i, (number, seed) in enumerate(((1, 5), (2, 9))):
        alone = train_cohort(host, start, [photos(number)], OPTIONS, [2, 6], seeds=[seed])
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole.flats[i], one.flats[0], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {CORE, "meta_warm", "meta_warm_outside"}))
def test_methods_without_a_learned_start_begin_with_the_untouched_model(name: str) -> None:
    host = ToyHost()
    start = chain_of(name, host, toy_prior(host), 0)
    for change in delta(start, start.flat).values():
        assert float(change.abs().max()) < 1e-4


@pytest.mark.parametrize("name", sorted(set(METHODS) - {CORE}))
def test_frozen_numbers_stay_and_the_others_move(name: str) -> None:
    host = ToyHost()
    start = chain_of(name, host, toy_prior(host), 0)
    flat = train_cohort(host, start, [photos(1)], OPTIONS, [6])[0].flats[0]
    moved = flat != start.flat
    assert not bool(moved[start.rates == 0].any())
    assert float(moved[start.rates != 0].float().mean()) > 0.8
    assert start.trained == int((start.rates != 0).sum())


def test_pictures_of_the_start_are_those_of_the_model_with_the_start_injected() -> None:
    host = ToyHost()
    start = chain_of("meta_warm", host, toy_prior(host), 0)
    asked = [["photo of a blob", "photo of a red blob"]] * 2
    flats = start.flat.expand(2, -1)
    drawn = draw_pictures(host, start, flats, asked, size_px=8, steps=3, seeds=[4, 5])
    mids, ups = start.layout.unpack(start.flat)
    chains = {n: ChainFactors(d, mids[n], ups[n], start.scale) for n, d in start.downs.items()}
    untouched = chain_of(PLAIN, host, toy_prior(host), 0)
    with Injection(host.model, start.targets, chains):
        same = draw_pictures(host, untouched, untouched.flat.expand(2, -1), asked, size_px=8, steps=3, seeds=[4, 5])
    torch.testing.assert_close(drawn, same, atol=1e-5, rtol=1e-4)


def test_the_timestep_mask_keeps_all_columns_at_no_noise_and_half_at_pure_noise() -> None:
    host = ToyHost()
    start = chain_of("t_lora", host, toy_prior(host), 0)
    kept = start.column_mask(torch.tensor([0.0, 0.5, 1.0]), RANK).sum(1)
    assert kept.tolist() == [RANK, RANK * 3 // 4, RANK // 2]
