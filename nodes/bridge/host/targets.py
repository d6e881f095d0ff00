"""The layers of a ComfyUI model that can be adapted, under their own names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ....metalora_core.model.families import family_in_comfyui
from ....metalora_core.model.targets import Part, Target

PREFIX = "diffusion_model."


def family_of(model: Any) -> str:
    """Architecture of a MODEL, as priors record it."""
    return family_in_comfyui(type(model.model).__name__)


def compile_wrappers(patcher: Any) -> dict[str, dict[str, list[Any]]]:
    """What core's Torch Compile Model has put around a model, as transformer options take it; empty for nothing."""
    from comfy.patcher_extension import WrappersMP
    from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

    found = patcher.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    return {WrappersMP.APPLY_MODEL: {COMPILE_KEY: list(found)}} if found else {}


def compute_dtype(model: Any) -> torch.dtype:
    """The dtype that a MODEL computes in, which is not that of packed or 8-bit weights."""
    base = model.model
    return getattr(base, "manual_cast_dtype", None) or base.get_dtype()


def targets_of(model: Any) -> tuple[Target, ...]:
    """Every linear and ungrouped 2-D convolution layer of a MODEL."""
    found = ((name, _shape(module)) for name, module in model.model.diffusion_model.named_modules())
    return tuple(Target(name, shape, (Part(name, 0, shape[0]),)) for name, shape in found if shape is not None)


def _shape(module: nn.Module) -> tuple[int, ...] | None:
    # Read from the layer, not from its weight: packed weights (GGUF, 4 bit) have a storage shape of their own.
    if getattr(module, "weight", None) is None:
        return None
    inside, out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inside, int) and isinstance(out, int):  # core's quantised layers are no torch Linear
        return (out, inside)
    if isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
        return (module.out_channels, module.in_channels, *module.kernel_size)
    return None


def describe(model: Any) -> str:
    """A MODEL in words for a message, e.g. "Flux with 100 layers, hidden size 3072"."""
    network = model.model.diffusion_model
    hidden = getattr(network, "hidden_size", None) or getattr(network, "model_channels", None)
    size = f", hidden size {hidden}" if hidden else ""
    return f"{type(model.model).__name__} with {len(targets_of(model))} layers{size}"
