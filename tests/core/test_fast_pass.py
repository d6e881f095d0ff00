"""Compiled passes in bfloat16: the same numbers to three digits, and nothing of it left behind."""

from __future__ import annotations

import shutil

import pytest
import torch
from core.bench_stand_in import stand_in_host, stand_in_prior
from torch import Tensor

from metalora_core.adaptation import AdaptationOptions, TrainingSet, adapt
from metalora_core.fast_pass import fast_pass
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.pocket.base_model import make_base_model

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "c++", "clang++")),
    reason="no C++ compiler, which torch.compile needs",
)


@needs_compiler
def test_a_fast_pass_agrees_with_the_plain_one_and_so_do_its_gradients():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(32, 32), torch.randn(4, 7, 32)

    def attend(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(layer(x), x, x)

    def result(function) -> tuple[torch.Tensor, torch.Tensor]:
        given = x.clone().requires_grad_()
        out = function(given)
        out.square().sum().backward()
        assert given.grad is not None
        return out.detach(), given.grad

    for plain, fast in zip(result(attend), result(fast_pass(attend)), strict=True):
        assert fast.dtype == torch.float32
        assert float((plain - fast).norm() / plain.norm()) < 2e-2


def test_a_host_is_as_before_after_a_fast_training():
    host = DiffusersHost(make_base_model())
    plain = host.denoise
    with pytest.raises(RuntimeError, match="enough"), host.fast_training():
        assert host.denoise is not plain
        raise RuntimeError("enough")
    assert host.denoise is plain


@pytest.fixture
def learned():
    """Learn a subject on a small Flux, the passes compiled or not; returns factors, notes and the host."""
    host = stand_in_host()

    def learn(*, compiled: bool) -> tuple[Tensor, list[str]]:
        host.compiled = compiled
        notes: list[str] = []
        photos = TrainingSet((torch.full((3, 128, 128), 0.5),), ("photo of a ohwx person",), "person", "ohwx")
        options = AdaptationOptions(steps=3, read_every=1)
        layers = adapt(host, stand_in_prior(host), photos, options, on_note=notes.append).identity.layers
        return torch.cat([factor.flatten() for layer in layers.values() for factor in (layer.mid, layer.up)]), notes

    return learn, host


@needs_compiler
def test_a_compiled_adaptation_learns_the_same_to_rounding(learned):
    learn, host = learned
    plain, passes = host.denoise, learn(compiled=False)
    compiled, notes = learn(compiled=True)
    assert not notes and host.denoise is plain
    assert not torch.equal(compiled, passes[0])  # or nothing was compiled
    torch.testing.assert_close(compiled, passes[0], rtol=1e-3, atol=1e-5)


def test_a_machine_without_a_compiler_learns_the_same_uncompiled(learned, tmp_path):
    learn, _ = learned
    without = {"cpp.cxx": (None, str(tmp_path / "no-compiler")), "force_disable_caches": True}
    with torch._inductor.config.patch(without):
        factors, notes = learn(compiled=True)
    assert len(notes) == 1 and notes[0].startswith("The passes could not be compiled (")
    assert torch.equal(factors, learn(compiled=False)[0])
