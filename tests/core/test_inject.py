"""Laws of putting chains into a model and taking them out."""

from __future__ import annotations

import gc

import pytest
import torch
from core.tiny_models import tiny_flux
from core.toy_host import WIDTH, ToyHost
from torch import Tensor, nn

from metalora_core.chain import ChainFactors
from metalora_core.errors import IncompatibleBaseModel, RankMismatch
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.inject import Injection
from metalora_core.model.families import default_patterns
from metalora_core.model.targets import Part, Target, choose_targets


def random_factors(targets: tuple[Target, ...], dtype=torch.float32, zero_up=False, batch: tuple[int, ...] = ()):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return (0.3 * torch.randn(shape, generator=generator)).to(dtype)

    return {
        t.name: ChainFactors(draw(6, *t.shape[1:]), draw(*batch, 3, 6), draw(*batch, t.shape[0], 3) * (not zero_up))
        for t in targets
    }


def run(host, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    noisy = torch.randn(batch, host.latent_channels, 4, 4, generator=generator).to(host.dtype)
    if host.family == "flux":
        text = {"context": torch.randn(1, 5, 16, generator=generator), "pooled": torch.randn(1, 8, generator=generator)}
    else:
        text = {"text": torch.randn(1, WIDTH, generator=generator)}
    conditioning = {key: value.expand(batch, *value.shape[1:]).to(host.dtype) for key, value in text.items()}
    return host.predict(noisy, torch.full((batch,), 0.4), conditioning)


def hosts():
    flux = DiffusersHost(tiny_flux())
    return [(toy := ToyHost(), toy.targets()), (flux, choose_targets(flux.targets(), default_patterns("flux")))]


@pytest.fixture(params=[0, 1], ids=["toy", "flux"])
def case(request):
    return hosts()[request.param]


def merged(host, targets: tuple[Target, ...], factors: dict[str, ChainFactors]) -> None:
    for target in targets:
        delta = factors[target.name].delta()
        for part in target.parts:
            host.model.get_submodule(part.module).weight.data += delta[part.start : part.stop]


@torch.no_grad()
def test_zero_up_and_zero_strength_leave_the_output(case):
    host, targets = case
    before = run(host)
    with Injection(host.model, targets, random_factors(targets, zero_up=True)):
        assert torch.equal(run(host), before)
    silent = random_factors(targets)
    for chain in silent.values():
        chain.strength = 0.0
    with Injection(host.model, targets, silent):
        assert torch.equal(run(host), before)


@torch.no_grad()
def test_injected_equals_merged_and_eject_restores_bits(case):
    host, targets = case
    factors, before = random_factors(targets), run(host)
    state = {name: value.clone() for name, value in host.model.state_dict().items()}
    names = [name for name, _ in host.model.named_modules()]
    injection = Injection(host.model, targets, factors)
    injected = run(host)
    assert names == [name for name, _ in host.model.named_modules()]
    injection.eject()
    injection.eject()
    assert torch.equal(run(host), before)
    assert all(torch.equal(value, state[name]) for name, value in host.model.state_dict().items())
    merged(host, targets, factors)
    assert not torch.allclose(injected, before, atol=1e-3)
    torch.testing.assert_close(run(host), injected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_strength_and_scale_act_alike_and_may_change_while_injected():
    host = ToyHost(torch.float64)
    factors = random_factors(host.targets(), torch.float64)
    with Injection(host.model, host.targets(), factors):
        for chain in factors.values():
            chain.strength, chain.scale = 0.5, 1.0
        by_strength = run(host)
        for chain in factors.values():
            chain.strength, chain.scale = 1.0, 0.5
        torch.testing.assert_close(run(host), by_strength)
        for chain in factors.values():
            chain.up = torch.zeros_like(chain.up)
        silent = run(host)
    torch.testing.assert_close(silent, run(host))


@torch.no_grad()
@pytest.mark.parametrize("first_out", [0, 1])
def test_two_injections_add_up_and_eject_in_any_order(first_out: int):
    host = ToyHost(torch.float64)
    one, two = random_factors(host.targets(), torch.float64), random_factors(host.targets(), torch.float64)
    for chain in two.values():
        chain.up = chain.up.flip(0)
    before = run(host)
    injections = [Injection(host.model, host.targets(), one), Injection(host.model, host.targets(), two)]
    both = run(host)
    injections.pop(first_out).eject()
    alone = run(host)
    injections.pop().eject()
    assert torch.equal(run(host), before)
    left = two if first_out == 0 else one
    with Injection(host.model, host.targets(), left):
        assert torch.equal(run(host), alone)
    merged(host, host.targets(), one)
    merged(host, host.targets(), two)
    torch.testing.assert_close(run(host), both)


@torch.no_grad()
def test_slots_per_sample_equal_one_run_per_subject(case):
    host, targets = case
    together = random_factors(targets, batch=(2,))
    with Injection(host.model, targets, together):
        batch = run(host)
    for i in range(2):
        own = {n: ChainFactors(f.meta_down, f.mid[i], f.up[i]) for n, f in together.items()}
        with Injection(host.model, targets, own):
            torch.testing.assert_close(run(host)[i], batch[i], rtol=1e-4, atol=1e-4)


def test_gradients_agree_with_float64_and_none_reach_the_base(case):
    host, targets = case
    factors = random_factors(targets)

    def gradients() -> Tensor:
        leaves = [f for chain in factors.values() for f in (chain.mid, chain.up)]
        for leaf in leaves:
            leaf.requires_grad_()
        with host.training(), Injection(host.model, targets, factors):
            run(host).square().mean().backward()
        return torch.cat([leaf.grad.flatten().double() for leaf in leaves])

    single = gradients()
    assert all(p.grad is None for p in host.model.parameters())
    assert all(chain.meta_down.grad is None for chain in factors.values())
    host.model.double()
    if isinstance(host, ToyHost):
        host.dtype = torch.float64
    for chain in factors.values():
        chain.meta_down, chain.mid, chain.up = (f.detach().double() for f in (chain.meta_down, chain.mid, chain.up))
    double = gradients()
    assert torch.cosine_similarity(single, double, dim=0) > 0.99999
    torch.testing.assert_close(single.norm(), double.norm(), rtol=1e-4, atol=0)


def test_nothing_before_the_first_target_needs_grad():
    host = ToyHost()
    factors = random_factors(host.targets())
    for chain in factors.values():
        chain.mid.requires_grad_()
    seen: dict[str, bool] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.requires_grad))
        for name, module in host.model.named_children()
    ]
    with host.training(), Injection(host.model, host.targets(), factors):
        run(host)
    assert not seen["embed"]
    assert seen["out"] and seen["head"]
    for hook in hooks:
        hook.remove()


def test_parts_share_one_projection_and_keep_nothing(monkeypatch: pytest.MonkeyPatch):
    import metalora_core.inject as inject

    host, calls = ToyHost(), []
    for name in ("middle_of", "project_down"):
        project = getattr(inject, name)
        monkeypatch.setattr(inject, name, lambda *a, project=project: calls.append(1) or project(*a))
    factors = random_factors(host.targets())
    with torch.no_grad(), Injection(host.model, host.targets(), factors):
        run(host)
        assert len(calls) == len(host.targets())
        first = run(host)
        for chain in factors.values():
            chain.mid = chain.mid * 2
        assert not torch.equal(run(host), first)
    del first
    gc.collect()


class Twice(nn.Module):
    """Calls its parts with one and the same tensor object in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)], -1)


def test_same_input_object_in_two_passes_sees_new_factors_and_can_go_backward_twice():
    model, x = Twice(), torch.randn(5, 4)
    target = Target("ab", (6, 4), (Part("b", 3, 6), Part("a", 0, 3)))
    chain = random_factors((target,))["ab"]
    with Injection(model, (target,), {"ab": chain}):
        for _ in range(2):
            chain.mid = torch.randn(3, 6, requires_grad=True)
            out = model(x)
            wanted = torch.cat([model.a.weight, model.b.weight]) + chain.delta()
            bias = torch.cat([model.a.bias, model.b.bias])
            torch.testing.assert_close(out, x @ wanted.mT + bias)
            out.sum().backward()
            assert chain.mid.grad is not None


def test_coverage_says_what_was_found():
    host = ToyHost()
    factors = random_factors(host.targets())
    factors["nowhere"] = next(iter(factors.values()))
    with Injection(host.model, host.targets(), factors) as injection:
        coverage = injection.coverage
    assert (coverage.applied, coverage.total, coverage.missing) == (3, 4, ("nowhere",))
    assert coverage.text == "applied 3 of 4 targets; missing: nowhere"


def test_misfits_are_refused_and_leave_no_hook():
    host = ToyHost()
    factors = random_factors(host.targets())
    factors["attn.proj"].up = torch.zeros(WIDTH + 1, 3)
    with pytest.raises(IncompatibleBaseModel, match=r"attn\.proj.*13"):
        Injection(host.model, host.targets(), factors)
    factors["attn.proj"].up = torch.zeros(WIDTH, 4)
    with pytest.raises(RankMismatch, match=r"attn\.proj"):
        Injection(host.model, host.targets(), factors)
    gap = Target("attn.proj", (WIDTH, WIDTH), (Part("out", 1, WIDTH),))
    with pytest.raises(IncompatibleBaseModel, match="without gaps"):
        Injection(host.model, (gap,), random_factors((gap,)))
    assert not any(module._forward_hooks for module in host.model.modules())
