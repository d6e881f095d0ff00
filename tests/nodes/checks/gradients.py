"""Gradients through the bridge against float64."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch

from checks.small_models import build, inputs
from checks.support import captions_of, pack, random_factors

FAMILIES = ("flux", "sd3", "unet", "sdxl")


def check_gradients() -> dict[str, Any]:
    """Worst cosine over all trained tensors, per family and with checkpointing off and on."""
    return {family: _worst_cosines(family) for family in FAMILIES}


def _worst_cosines(family: str) -> dict[str, float]:
    model = build(family)
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(model, resolution=64)
    data = inputs(family)
    latents = data.pop("x")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    t = host.objective.timesteps_from_uniform(torch.tensor([0.3, 0.8]))
    noisy = host.objective.make_noisy(latents, noise, t)
    wanted = host.objective.target(latents, noise, t)
    truth = _reference(model, host, noisy, t, data, wanted)
    figures = {"targets": len(host.targets())}
    for checkpointing in (False, True):
        host.checkpointing = checkpointing
        found = _through_bridge(host, noisy, t, data, wanted)
        cosines = {name: _cosine(found[name], truth[name]) for name in truth}
        name = "checkpointed" if checkpointing else "plain"
        figures[name] = min(cosines.values())
        figures[f"{name}_worst"] = min(cosines, key=cosines.__getitem__)
    figures["finite_difference"] = _slope_error(model, host, noisy, t, data, wanted, truth)
    return figures


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item()


def _through_bridge(host: Any, noisy: Any, t: Any, data: Any, wanted: Any) -> dict[str, torch.Tensor]:
    with torch.inference_mode(False):
        factors = random_factors(host.targets())
        for chain in factors.values():
            chain.mid.requires_grad_()
            chain.up.requires_grad_()
    injection = pack("metalora_core.inject").Injection
    scale = pack("metalora_core.model.objective").loss_scale(host.dtype)
    with torch.inference_mode(), host.training(), injection(host.model, host.targets(), factors):
        loss = (host.predict(noisy, t, captions_of(host, data)).float() - wanted).square().mean()
        (loss * scale).backward()
    named = {f"{name}.{part}": getattr(chain, part) for name, chain in factors.items() for part in ("mid", "up")}
    return {name: leaf.grad / scale for name, leaf in named.items()}


def check_gradients_in_half_precision() -> dict[str, float]:
    """16-bit bases against float32 on the same numbers: nothing is lost below the smallest number of float16."""
    figures: dict[str, float] = {}
    for dtype in (torch.bfloat16, torch.float16):
        half, whole = build("sdxl", dtype=dtype), build("sdxl")
        with torch.inference_mode():
            for name, parameter in half.model.diffusion_model.named_parameters():
                whole.model.diffusion_model.get_parameter(name).copy_(parameter)
        found, truth = (_one_step(model) for model in (half, whole))
        cosines = [_cosine(found[name], truth[name]) for name in truth]
        figures[str(dtype)] = min(cosines)
    assert min(figures.values()) > 0.99, figures
    return figures


def _one_step(model: Any) -> dict[str, torch.Tensor]:
    host = pack("nodes.bridge.host.comfy_host").ComfyHost(model, resolution=64)
    data = inputs("sdxl")
    latents, t = data.pop("x"), host.objective.timesteps_from_uniform(torch.tensor([0.3, 0.8]))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    noisy, wanted = host.objective.make_noisy(latents, noise, t), host.objective.target(latents, noise, t)
    return _through_bridge(host, noisy, t, data, wanted)


def _reference(model: Any, host: Any, noisy: Any, t: Any, data: Any, wanted: Any) -> dict[str, torch.Tensor]:
    """Gradients in float64 with W + ΔW written out: neither the hooks nor the recomputation of the bridge."""
    factors = _doubled(host)
    for chain in factors.values():
        chain.mid.requires_grad_()
        chain.up.requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        _loss64(model, host, factors, noisy, t, data, wanted).backward()
    return {f"{name}.{part}": getattr(chain, part).grad for name, chain in factors.items() for part in ("mid", "up")}


def _slope_error(model: Any, host: Any, noisy: Any, t: Any, data: Any, wanted: Any, truth: Any) -> float:
    """Relative difference of the float64 gradient to a central difference along one direction through every tensor."""
    generator = torch.Generator().manual_seed(11)
    directions = {name: torch.randn(g.shape, generator=generator, dtype=torch.float64) for name, g in truth.items()}
    losses: list[float] = []
    for sign in (1, -1):
        factors = _doubled(host)
        for name, direction in directions.items():
            target, part = name.rsplit(".", 1)
            getattr(factors[target], part).add_(sign * 1e-5 * direction)
        with torch.inference_mode(False), torch.no_grad():
            losses.append(float(_loss64(model, host, factors, noisy, t, data, wanted)))
    expected = sum(float((truth[name] * directions[name]).sum()) for name in truth)
    return abs((losses[0] - losses[1]) / 2e-5 - expected) / abs(expected)


def _doubled(host: Any) -> dict[str, Any]:
    with torch.inference_mode(False):
        factors = random_factors(host.targets())
        for chain in factors.values():
            chain.meta_down, chain.mid, chain.up = chain.meta_down.double(), chain.mid.double(), chain.up.double()
    return factors


def _loss64(model: Any, host: Any, factors: Any, noisy: Any, t: Any, data: Any, wanted: Any) -> torch.Tensor:
    from comfy import model_management

    network = _double_network(model)
    weights = {f"{n}.weight": network.get_submodule(n).weight + chain.delta() for n, chain in factors.items()}
    model_time = model.model.model_sampling.timestep(t).double()
    arguments = {name: value.double() for name, value in data.items() if name != "c_crossattn"}
    arguments |= {"context": data["c_crossattn"].double(), "transformer_options": {}}
    had_flag = hasattr(model_management, "in_training")
    if had_flag:
        model_management.in_training = True
    try:
        output = torch.func.functional_call(network, weights, (noisy.double(), model_time), arguments)
    finally:
        if had_flag:
            model_management.in_training = False
    return (output - wanted.double()).square().mean()


@functools.lru_cache(maxsize=1)
def _double_network(model: Any) -> torch.nn.Module:
    network = copy.deepcopy(model.model.diffusion_model)
    for module in network.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    plain = torch.from_numpy(tensor.detach().numpy().copy()).double()
                    store[name] = torch.nn.Parameter(plain, False) if store is module._parameters else plain
        if "Norm" in type(module).__name__ and not list(module.children()):
            # The in-place sums that follow would spoil what the norm has saved; without recomputing, torch notices.
            module.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))
    network.dtype = torch.float64
    return network
