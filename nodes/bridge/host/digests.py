"""Which MODEL, CLIP and VAE this is, with all that nodes have attached to it; the same before and after loading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ....metalora_core.model.weights_digest import weights_digest
from .carried import carried_wrappers
from .state_hash import StateHash


def model_digest(model: Any) -> str:
    """Digest of whatever decides a MODEL's predictions in a training."""
    return _model_state(model).hexdigest()


def part_digest(part: Any) -> str:
    """Digest of a CLIP or VAE."""
    return _part_state(part).hexdigest()


def uncompared(model: Any, *parts: Any) -> list[str]:
    """What is attached to a MODEL, CLIP or VAE and cannot be compared with another run's, by type."""
    states = [_model_state(model), *map(_part_state, parts)]
    return sorted({name for state in states for name in state.unknown})


def _model_state(model: Any) -> StateHash:
    network = _unpatched(model.model.diffusion_model, model.backup, "diffusion_model.")
    state = _patcher_state(model, weights_digest(network))
    state.add(model.get_model_object("model_sampling"))
    return state.add(type(model.model).__qualname__)


def _part_state(part: Any) -> StateHash:
    patcher = part.patcher
    state = _patcher_state(patcher, weights_digest(_unpatched(patcher.model, patcher.backup, "")))
    # Of a CLIP: where to stop, and the tokenizer's options.
    for name in ("layer_idx", "tokenizer_options", "use_clip_schedule", "apply_hooks_to_conds"):
        state.add(getattr(part, name, None))
    return state


def _patcher_state(patcher: Any, weights: str) -> StateHash:
    """Patches, replaced parts, attention and block patches, wrappers, and what is computed beside the weights.

    Keys of injections and wrappers are left out if each node makes new ones.
    """
    state = StateHash().add(weights)
    state.add(patcher.patches).add(patcher.object_patches)
    state.add(getattr(patcher, "weight_wrapper_patches", {}))
    state.add(patcher.model_options.get("transformer_options", {}))
    state.add([list(injections) for injections in patcher.injections.values()])
    wrappers = carried_wrappers(patcher)
    return state.add([[kind, list(by_key.values())] for kind, by_key in wrappers.items()])


def _unpatched(network: nn.Module, backup: dict[str, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        kept = backup.get(prefix + name)
        yield name, parameter if kept is None else kept.weight
