"""Which weights a network has, as a short digest that takes milliseconds at any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["sampled_bytes", "weights_digest"]

_SAMPLES_PER_TENSOR = 16


def weights_digest(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over name, shape, dtype and sixteen evenly spaced values of every tensor.

    Two models of one architecture differ in it, which `fingerprint` cannot see. It is the same on every device. One
    file that was loaded in two dtypes has two digests: a run could not resume with the same bits in the other one.

    Args:
        parameters: Name and tensor pairs in a fixed order, such as ``named_parameters()``.

    Returns:
        Hexadecimal.
    """
    digest = hashlib.sha256()
    for name, tensor in parameters:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sampled_bytes(tensor))
    return digest.hexdigest()


@torch.no_grad()
def sampled_bytes(tensor: Tensor) -> bytes:
    """Evenly spaced values of a tensor as float32 bytes; none of a packed or absent one."""
    if type(tensor.data) is not Tensor or tensor.is_meta or tensor.numel() == 0:
        return b""  # packed weights have no plain numbers; names and shapes must do
    flat = tensor.detach().reshape(-1)
    stride = max(1, flat.numel() // _SAMPLES_PER_TENSOR)
    places = torch.arange(0, flat.numel(), stride)[:_SAMPLES_PER_TENSOR]
    return flat[places.to(flat.device)].to("cpu", torch.float32).contiguous().numpy().tobytes()
