"""Which weights a MODEL, CLIP or VAE holds, as a short digest that costs milliseconds at any size."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES_PER_TENSOR = 16


def model_digest(model: Any) -> str:
    """Digest of a MODEL with the patches on it; the unpatched weights count, so it does not change when loaded."""
    digest = hashlib.sha256(_network_digest(model.model.diffusion_model, model.backup, "diffusion_model.").encode())
    for key, patches in sorted(model.patches.items()):
        for patch in patches:
            digest.update(f"{key} {patch[0]} {patch[2]} {patch[3]}".encode())
            for tensor in _tensors_in(getattr(patch[1], "weights", patch[1])):
                digest.update(_sample(tensor))
    return digest.hexdigest()


def part_digest(part: Any) -> str:
    """Digest of the network in a CLIP or VAE."""
    patcher = part.patcher
    return _network_digest(patcher.model, patcher.backup, "")


def _network_digest(network: nn.Module, backup: dict[str, Any], prefix: str) -> str:
    digest = hashlib.sha256()
    for name, parameter in network.named_parameters():
        kept = backup.get(prefix + name)
        tensor = parameter if kept is None else kept.weight
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_sample(tensor))
    return digest.hexdigest()


def _sample(tensor: Tensor) -> bytes:
    if type(tensor.data) is not Tensor or tensor.is_meta or tensor.numel() == 0:
        return b""  # packed weights have no plain numbers to look at; names and shapes have to do
    with torch.no_grad():
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // SAMPLES_PER_TENSOR)
        places = torch.arange(0, flat.numel(), stride)[:SAMPLES_PER_TENSOR]
        values = flat[places.to(flat.device)].to("cpu", torch.float32).contiguous()
        return values.numpy().tobytes()


def _tensors_in(weights: Any) -> list[Tensor]:
    if isinstance(weights, Tensor):
        return [weights]
    return [tensor for item in weights for tensor in _tensors_in(item)] if isinstance(weights, (list, tuple)) else []
