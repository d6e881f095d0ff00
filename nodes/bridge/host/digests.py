"""Which weights a MODEL, CLIP or VAE has; the same before and after loading."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ....metalora_core.model.weights_digest import sampled_bytes, weights_digest


def model_digest(model: Any) -> str:
    """Digest of a MODEL with the patches on it; the unpatched weights count, so it does not change when loaded."""
    network = _unpatched(model.model.diffusion_model, model.backup, "diffusion_model.")
    digest = hashlib.sha256(weights_digest(network).encode())
    for key, patches in sorted(model.patches.items()):
        for patch in patches:
            digest.update(f"{key} {patch[0]} {patch[2]} {patch[3]}".encode())
            for tensor in _tensors_in(getattr(patch[1], "weights", patch[1])):
                digest.update(sampled_bytes(tensor))
    return digest.hexdigest()


def part_digest(part: Any) -> str:
    """Digest of the network in a CLIP or VAE."""
    patcher = part.patcher
    return weights_digest(_unpatched(patcher.model, patcher.backup, ""))


def _unpatched(network: nn.Module, backup: dict[str, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in network.named_parameters():
        kept = backup.get(prefix + name)
        yield name, parameter if kept is None else kept.weight


def _tensors_in(weights: Any) -> list[Tensor]:
    if isinstance(weights, Tensor):
        return [weights]
    return [tensor for item in weights for tensor in _tensors_in(item)] if isinstance(weights, (list, tuple)) else []
