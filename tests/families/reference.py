"""Gradients in float64 with W + ΔW written out: neither the pack's hooks nor its recomputation nor its batches."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from checks.support import pack, random_factors
from families.building import build
from torch import Tensor, nn


def cosine(a: Tensor, b: Tensor) -> float:
    return nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item()


def reference_gradients(case: Any, noisy: Tensor, wanted: Tensor, levels: Tensor, captions: Any) -> dict[str, Tensor]:
    """Gradient of the mean squared error to mid and up of every target."""
    gradients = pack("nodes.bridge.host.gradients")
    model = _double(case)
    with torch.inference_mode(False):
        factors = random_factors(case.targets)
        for chain in factors.values():
            chain.meta_down = chain.meta_down.double()
            chain.mid, chain.up = chain.mid.double().requires_grad_(), chain.up.double().requires_grad_()
        network = model.diffusion_model
        weights = {f"{n}.weight": network.get_submodule(n).weight + chain.delta() for n, chain in factors.items()}
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(gradients._training_flag())
            stack.enter_context(gradients._plain_formulas())
            stack.enter_context(gradients._saved_copies())
            stack.enter_context(gradients._ResultsApart())
            stack.enter_context(torch.nn.utils.stateless._reparametrize_module(network, weights))
            rows = [_prediction(case, model, noisy, levels, captions, row) for row in range(len(noisy))]
            (torch.cat(rows).double() - wanted.double()).square().mean().backward()
    named = {f"{name}.{part}": getattr(chain, part) for name, chain in factors.items() for part in ("mid", "up")}
    return {name: leaf.grad for name, leaf in named.items() if leaf.grad is not None}


def _prediction(case: Any, model: Any, noisy: Tensor, levels: Tensor, captions: Any, row: int) -> Tensor:
    form = pack("nodes.bridge.host.latents").LatentFormat(model)
    one = {name: value[row : row + 1] for name, value in captions.items()}
    latents, level = form.unfolded(noisy[row : row + 1].double()), levels[row : row + 1]
    options = {
        "optimized_attention_override": pack("nodes.bridge.host.comfy_host")._differentiable_attention,
        "sigmas": level,
        "sample_sigmas": torch.cat([level, level * 0]),
        "patches_replace": {"dit": {"none": None}},
    }
    given = {name: _own(value) for name, value in case.host.captions.joined(one, latents.shape[2:]).items()}
    return form.folded(model.apply_model(latents, level, transformer_options=options, **given))


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _double(case: Any) -> Any:
    """The same weights in float64; layers for which the model goes over to float32 on its way go back."""
    model = build(case.family).model
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    plain = torch.from_numpy(tensor.detach().numpy().copy())
                    plain = plain.double() if plain.is_floating_point() else plain
                    store[name] = nn.Parameter(plain, False) if store is module._parameters else plain
        if getattr(module, "dtype", None) in (torch.float32, torch.float16, torch.bfloat16):
            _set_dtype(module)
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            module.register_forward_pre_hook(_widen)
    model.manual_cast_dtype = None
    model.model_sampling = pack("nodes.bridge.host.sampling_rules").RawPrediction(
        case.model.get_model_object("model_sampling")
    )
    return model


def _set_dtype(module: Any) -> None:
    try:
        module.dtype = torch.float64
    except AttributeError:  # a property that reads the parameters
        return


def _widen(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    weight = getattr(module, "weight", None)
    if not inputs or weight is None or weight.dtype != torch.float64 or inputs[0].dtype != torch.float32:
        return None
    return (inputs[0].double(), *inputs[1:])
