"""Compiled passes in bfloat16: the same numbers to three digits, and nothing of it left behind."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from core.bench_stand_in import stand_in_host, stand_in_prior
from torch import Tensor

from metalora_core.adaptation import adapt
from metalora_core.hosts import diffusers as hosts
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.hosts.flux import pack, unpack
from metalora_core.model.compiled_pass import compiled_pass, fast_pass, fast_products
from metalora_core.model.host import Conditioning
from metalora_core.photos.training_set import TrainingSet
from metalora_core.pocket.flux import make_base_model
from metalora_core.training.adaptation_options import AdaptationOptions

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


@pytest.mark.parametrize("native", [True, False])
def test_products_are_in_bfloat16_only_where_the_processor_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: native, raising=False)
    x = torch.randn(4, 4)
    with fast_products():
        assert (x @ x).dtype == (torch.bfloat16 if native else torch.float32)
    assert (x @ x).dtype == torch.float32


def test_a_host_is_as_before_after_a_fast_training():
    host = DiffusersHost(make_base_model())
    plain = host.denoise
    with pytest.raises(RuntimeError, match="enough"), host.fast_training():
        assert host.denoise is not plain
        raise RuntimeError("enough")
    assert host.denoise is plain


@pytest.fixture
def learned():
    """Learn a subject by a piece of a small Flux, the passes compiled or not; returns factors and notes, and the host.

    The whole Flux takes the compiler long; it is compiled in the checks inside ComfyUI.
    """
    host = stand_in_host()

    def piece(model: Any, noisy: Tensor, _t: Tensor, _conditioning: Conditioning) -> Tensor:
        tokens = model.transformer_blocks[0].attn.to_q(model.x_embedder(pack(noisy)))
        return unpack(tokens[..., :64], *noisy.shape[-2:])

    host.denoise = piece

    def learn(*, compiled: bool) -> tuple[Tensor, tuple[str, ...]]:
        host.compiled = compiled
        photos = TrainingSet((torch.full((3, 128, 128), 0.5),), ("photo of a ohwx person",), "person", "ohwx")
        options = AdaptationOptions(steps=3, read_every=1)
        result = adapt(host, stand_in_prior(host), photos, options)
        layers = result.identity.layers.values()
        return torch.cat([factor.flatten() for layer in layers for factor in (layer.mid, layer.up)]), result.notes

    return learn, host


def test_a_compiled_adaptation_learns_the_same(learned, monkeypatch: pytest.MonkeyPatch):
    graphs: list[int] = []

    def traced_only(graph: torch.fx.GraphModule, _inputs: object):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    learn, host = learned
    plain = host.denoise
    factors, _ = learn(compiled=False)
    monkeypatch.setattr(hosts, "compiled_pass", lambda function: torch.compile(function, backend=traced_only))
    for _ in range(2):  # the second run must not meet the first one's chains in what is compiled
        compiled, notes = learn(compiled=True)
        assert graphs and not notes and host.denoise is plain
        torch.testing.assert_close(compiled, factors, rtol=1e-4, atol=1e-6)


@needs_compiler
def test_what_is_compiled_sees_the_chains_of_a_later_injection():
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)).requires_grad_(False)
    run, x = compiled_pass(layers), torch.randn(2, 4)
    plain = run(x)
    scales = [torch.ones((), requires_grad=True) for _ in range(2)]
    for count in (1, 2):  # as many layers with a hook
        hooks = [
            layer.register_forward_hook(lambda _m, _i, out, s=scale: out * (1 + s))
            for layer, scale in zip(layers[:count], scales, strict=False)
        ]
        hooked = run(x)
        torch.testing.assert_close(hooked, layers(x))
        assert not torch.equal(hooked, plain)
        for hook in hooks:
            hook.remove()
    assert torch.equal(run(x), plain)


def test_a_machine_without_a_compiler_learns_the_same_uncompiled(learned, tmp_path):
    learn, _ = learned
    without = {"cpp.cxx": (None, str(tmp_path / "no-compiler")), "force_disable_caches": True}
    with torch._inductor.config.patch(without):
        factors, notes = learn(compiled=True)
    assert len(notes) == 1 and notes[0].startswith("The passes could not be compiled (")
    assert torch.equal(factors, learn(compiled=False)[0])
