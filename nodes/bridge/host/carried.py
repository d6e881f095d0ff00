"""What a MODEL carries beside its weights and takes into a training: wrappers, and LoRAs in bypass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .gradients import ordinary


def carried_wrappers(patcher: Any) -> dict[str, dict[str, list[Any]]]:
    """Wrappers around the model's call, by kind and key, without core's compiler, which a training handles itself."""
    from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

    kinds = {kind: {key: list(calls) for key, calls in by_key.items()} for kind, by_key in patcher.wrappers.items()}
    for by_key in kinds.values():
        by_key.pop(COMPILE_KEY, None)
    return {kind: by_key for kind, by_key in kinds.items() if any(by_key.values())}


@contextmanager
def ordinary_adapters(patcher: Any) -> Iterator[None]:
    """Let autograd save the weights of core's bypass LoRAs, which a loader makes in inference mode."""
    from comfy.weight_adapter import WeightAdapterBase

    calls = [injection.inject for injections in patcher.injections.values() for injection in injections]
    held = [cell.cell_contents for call in calls for cell in getattr(call, "__closure__", None) or ()]
    hooks = [hook for manager in held for hook in getattr(manager, "hooks", ())]
    adapters = [hook.adapter for hook in hooks if isinstance(hook.adapter, WeightAdapterBase)]
    before = [adapter.weights for adapter in adapters]
    try:
        for adapter in adapters:
            adapter.weights = _ordinary(adapter.weights)
        yield
    finally:
        for adapter, weights in zip(adapters, before, strict=True):
            adapter.weights = weights


def _ordinary(weights: Any) -> Any:
    if isinstance(weights, Tensor):
        return ordinary(weights)
    return type(weights)(map(_ordinary, weights)) if isinstance(weights, (list, tuple)) else weights
