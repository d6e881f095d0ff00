"""Ways of putting an identity into a model agree, stack, and leave the base as it was."""

from __future__ import annotations

from typing import Any

import torch

from checks.small_models import build, inputs
from checks.support import (
    adapt,
    captions_of,
    close,
    conditioning,
    message_of,
    pack,
    pocket,
    random_factors,
    sampled,
)

TIMES = torch.tensor([0.3, 0.8])


def _applied(model: Any, factors: Any, strength: float = 1.0, mode: str = "patch", **window: float) -> Any:
    apply = pack("nodes.bridge.patching")
    with torch.inference_mode():
        return apply.apply_identity(model, factors, strength, apply.Window(**window), mode, "The identity 'test'")


def _output(model: Any, family: str, times: torch.Tensor = TIMES) -> torch.Tensor:
    from comfy import model_management

    data = inputs(family, batch=len(times))
    with torch.inference_mode():
        model_management.load_models_gpu([model])
        options = {**model.model_options["transformer_options"]}
        options["wrappers"] = {kind: dict(by_key) for kind, by_key in model.wrappers.items()}
        return model.model.apply_model(data.pop("x"), times, transformer_options=options, **data).clone()


def check_patch_and_bypass_agree() -> dict[str, float]:
    """In every family, and both differ from the base."""
    figures: dict[str, float] = {}
    for family in ("flux", "sd3", "unet", "sdxl"):
        model = build(family)
        base = _output(model, family)
        factors = random_factors(_targets(model))
        patched, coverage = _applied(model, factors)
        bypassed, _ = _applied(model, factors, mode="bypass")
        assert coverage.applied == len(factors), coverage.text
        first, second = _output(patched, family), _output(bypassed, family)
        assert close(first, base) > 1e-3, "the identity changed nothing"
        assert torch.equal(_output(model, family), base), "the base model was changed"
        figures[family] = close(first, second) / float(first.abs().max())
    assert max(figures.values()) < 1e-5, figures
    return figures


def _targets(model: Any) -> Any:
    return pack("nodes.bridge.host.targets").targets_of(model)


def check_strength_zero_is_no_node() -> None:
    model = build("flux")
    for mode in ("patch", "bypass", "auto"):
        assert _applied(model, random_factors(_targets(model)), 0.0, mode)[0] is model


def check_bypasses_stack_and_come_off_in_any_order() -> dict[str, float]:
    model = build("flux")
    base = _output(model, "flux")
    one, other = random_factors(_targets(model), 1), random_factors(_targets(model), 2)
    by_patch = _output(_applied(_applied(model, one)[0], other)[0], "flux")
    single, _ = _applied(model, one, mode="bypass")
    double, _ = _applied(single, other, mode="bypass")
    mixed, _ = _applied(_applied(model, one)[0], other, mode="bypass")
    figures = {"two bypasses": close(_output(double, "flux"), by_patch)}
    figures["patch and bypass"] = close(_output(mixed, "flux"), by_patch)
    # Back and forth: each model loads after another has been on the same network.
    alone = _output(_applied(model, one)[0], "flux")
    figures["one again"] = close(_output(single, "flux"), alone)
    assert torch.equal(_output(model, "flux"), base), "the base model was changed"
    figures["two again"] = close(_output(double, "flux"), by_patch)
    assert torch.equal(_output(model, "flux"), base), "the base model was changed"
    assert max(figures.values()) < 1e-4, figures
    return figures


def check_window_limits_the_identity() -> None:
    model = build("flux")
    base = _output(model, "flux", torch.tensor([0.2]))
    late = _output(model, "flux", torch.tensor([0.9]))
    factors = random_factors(_targets(model))
    first_half, _ = _applied(model, factors, start=0.0, end=0.5)
    assert torch.equal(_output(first_half, "flux", torch.tensor([0.2])), base), "it acts after its end"
    whole = _output(_applied(model, factors, mode="bypass")[0], "flux", torch.tensor([0.9]))
    acting = _output(first_half, "flux", torch.tensor([0.9]))
    assert torch.equal(acting, whole), "it does not act before its end"
    assert close(acting, late) > 1e-3


def check_eight_bit_weights_keep_the_identity() -> dict[str, float]:
    """auto goes beside 8-bit weights; a patch would round a small delta away."""
    model = build("flux")
    factors = random_factors(_targets(model), size=0.002)
    with torch.inference_mode():
        for name in factors:
            layer = model.model.diffusion_model.get_submodule(name)
            layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
            layer.comfy_cast_weights = True
        base = _output(model, "flux")
        wanted = build("flux")
        for name, chain in factors.items():
            rounded = model.model.diffusion_model.get_submodule(name).weight.float()
            wanted.model.diffusion_model.get_submodule(name).weight.copy_(rounded + chain.delta())
    truth = _output(wanted, "flux") - base
    auto = _output(_applied(model, factors, mode="auto")[0], "flux") - base
    patched = _output(_applied(model, factors, mode="patch")[0], "flux") - base
    figures = {"bypass": _cosine(auto, truth), "patch": _cosine(patched, truth)}
    assert figures["bypass"] > 0.9999, figures
    return figures


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


class PackedWeight(torch.Tensor):
    """A weight in a storage form of its own, as GGUF loaders keep it: scaled 8-bit numbers, expanded when used."""


class PackedLinear(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain = torch.Tensor.as_subclass(self.weight, torch.Tensor)
        return torch.nn.functional.linear(x, plain.to(x.dtype) / 100, self.bias)


def check_packed_weights_train_and_apply() -> dict[str, Any]:
    model = build("flux")
    network = model.model.diffusion_model
    with torch.inference_mode():
        for block in network.single_blocks:
            old = block.linear1
            packed = PackedLinear(old.in_features, old.out_features, device="meta")
            numbers = (old.weight * 100).round().to(torch.int8)
            packed.weight = torch.nn.Parameter(numbers.as_subclass(PackedWeight), requires_grad=False)
            packed.bias = old.bias
            block.linear1 = packed
    targets = [target for target in _targets(model) if target.name.endswith("linear1")]
    factors = random_factors(targets)
    bypassed, coverage = _applied(model, factors, mode="auto")
    assert close(_output(bypassed, "flux"), _output(model, "flux")) > 1e-4
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(model, resolution=64)
    data = inputs("flux")
    with torch.inference_mode(False):
        trained = random_factors(targets)
        for chain in trained.values():
            chain.up.requires_grad_()
    with torch.inference_mode(), host.training(), pack("metalora_core.inject").Injection(host.model, targets, trained):
        host.predict(data.pop("x"), TIMES, captions_of(host, data)).square().mean().backward()
    assert all(float(chain.up.grad.abs().sum()) > 0 for chain in trained.values())
    return {"coverage": coverage.text}


def check_another_finetune_is_told_in_one_line() -> str:
    """But a LoRA that is loaded into the model's weights does not pass for one."""
    model, learned = pocket()[0], adapt(steps=2, seed=91)[0]
    apply, names = pack("nodes.apply").ApplyIdentity.execute, [f"{name}.weight" for name in learned.identity.layers]
    assert "differ" not in apply(model, learned, 1.0).args[1]
    with torch.inference_mode():
        sampled(_applied(model, random_factors(_targets(model), size=0.5))[0], conditioning("photo"))
        assert "differ" not in apply(model, learned, 1.0).args[1]
        above = _applied(model, random_factors(_targets(model), size=0.05))[0]
        assert "differ" not in apply(above, adapt(model=above, steps=2, seed=92)[0], 1.0).args[1]
        sampled(model, conditioning("photo"))
        parameters = [model.model.diffusion_model.get_parameter(name) for name in names]
        before = [parameter.clone() for parameter in parameters]
        for parameter in parameters:
            parameter.mul_(1.2)
        told = apply(model, learned, 1.0).args[1]
        for parameter, kept in zip(parameters, before, strict=True):
            parameter.copy_(kept)
    lines = told.splitlines()
    assert len(lines) == 2 and lines[0].startswith("applied ") and "differ by 20 %" in lines[1], told
    return told


def check_wrong_base_is_refused_in_words() -> dict[str, str]:
    factors = random_factors(_targets(build("flux")))
    told = {"architecture": message_of(lambda: _applied(build("unet"), factors))}
    smaller = {name: chain for name, chain in factors.items() if "single_blocks.1" in name}
    for chain in smaller.values():
        chain.up = chain.up[:-8]
    told["size"] = message_of(lambda: _applied(build("flux"), smaller))
    assert "IncompatibleBaseModel" in told["architecture"] and "does not exist" in told["architecture"], told
    assert "The identity 'test' does not fit the connected model (Flux with 37 layers" in told["size"], told
    assert "Connect the model that it was made for" in told["size"], told
    return told
