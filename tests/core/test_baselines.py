"""Laws of the plain LoRA that Meta-LoRA is compared with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metalora_core.errors import InvalidOptions, TrainingDiverged
from metalora_core.evaluation.methods.peft_lora import PlainLoRAOptions, applied_plain_lora, train_plain_lora
from metalora_core.photos.training_set import TrainingSet
from metalora_core.training.adaptation_options import AdaptationOptions

from .toy_host import ToyHost

SHARED = AdaptationOptions(steps=6, warmup_steps=1, read_every=2)
OPTIONS = PlainLoRAOptions(learning_rate=1e-2, rank=2, alpha=2.0)


def photos() -> TrainingSet:
    images = tuple(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)))
    return TrainingSet(images, ("photo of a ohwx mug", "photo of a ohwx mug, red"), "mug", "ohwx")


def prediction(host: ToyHost) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    noisy = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.no_grad():
        return host.predict(noisy, torch.tensor([0.5]), host.encode_prompts(["photo of a ohwx mug"]))


def test_the_base_model_is_bit_identical_afterwards() -> None:
    host = ToyHost()
    names, before = list(host.model.state_dict()), prediction(host)
    flags = [parameter.requires_grad for parameter in host.model.parameters()]
    learned = train_plain_lora(host, photos(), host.targets(), SHARED, OPTIONS)
    with applied_plain_lora(host, learned):
        assert not torch.equal(prediction(host), before)
    assert torch.equal(prediction(host), before)
    assert list(host.model.state_dict()) == names
    assert [parameter.requires_grad for parameter in host.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in host.model.parameters())


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (train_plain_lora(h, photos(), h.targets(), SHARED, OPTIONS) for h in (ToyHost(), ToyHost()))
    assert first.losses == second.losses
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    host = ToyHost()
    torch.manual_seed(11)
    train_plain_lora(host, photos(), host.targets(), replace(SHARED, steps=1), OPTIONS)
    assert torch.equal(torch.rand(3), expected)


def test_applied_equals_the_closed_form() -> None:
    host = ToyHost()
    learned = train_plain_lora(host, photos(), host.targets(), SHARED, OPTIONS)
    down, up = learned.tensors["out.lora_A.weight"], learned.tensors["out.lora_B.weight"]
    x = torch.randn(3, down.shape[1])
    wanted = host.model.out(x) + OPTIONS.alpha / OPTIONS.rank * x @ down.T @ up.T
    with applied_plain_lora(host, learned):
        torch.testing.assert_close(host.model.out(x), wanted)


def test_it_learns() -> None:
    host = ToyHost()
    options = replace(SHARED, steps=120)
    losses = torch.tensor(train_plain_lora(host, photos(), host.targets(), options, OPTIONS).losses)
    assert losses[-20:].mean() < losses[:20].mean()


def test_parameters_and_file_agree(tmp_path) -> None:
    host = ToyHost()
    learned = train_plain_lora(host, photos(), host.targets(), SHARED, OPTIONS)
    rows = sum(part.stop - part.start for target in host.targets() for part in target.parts)
    columns = sum(torch.Size(t.shape[1:]).numel() * len(t.parts) for t in host.targets())
    assert learned.parameters == OPTIONS.rank * (rows + columns)
    assert learned.save(tmp_path / "plain.safetensors") > 4 * learned.parameters


def test_an_exception_takes_the_adapters_out() -> None:
    host = ToyHost()
    before = prediction(host)

    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_plain_lora(host, photos(), host.targets(), SHARED, OPTIONS, on_progress=stop)
    assert torch.equal(prediction(host), before)


def test_a_diverging_rate_is_named() -> None:
    host = ToyHost()
    options = replace(OPTIONS, learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match="learning rate"):
        train_plain_lora(host, photos(), host.targets(), SHARED, options)


def test_bad_options_are_named() -> None:
    host = ToyHost()
    with pytest.raises(InvalidOptions, match="rank is 0"):
        train_plain_lora(host, photos(), host.targets(), SHARED, replace(OPTIONS, rank=0))
