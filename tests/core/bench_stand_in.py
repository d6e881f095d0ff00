"""A pocket world without trained weights: the benchmark's machinery runs on it in seconds."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metalora_core.evaluation.runner import Bench
from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.model.host import Conditioning
from metalora_core.model.targets import fingerprint
from metalora_core.pocket.readers import FactorReader
from metalora_core.pocket.world.factors import DOMAINS


class StandInHost(DiffusersHost):
    """A tiny untrained Flux whose latents are the picture, coarsely: 32 px to a side of 4."""

    downscale = 32  # pyright: ignore[reportAssignmentType]

    def encode_images(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, images.shape[-1] // 32).repeat(1, 6, 1, 1)[:, :16] * 2 - 1

    def decode_latents(self, latents: Tensor) -> Tensor:
        return (F.interpolate(latents[:, :3], scale_factor=32) / 2 + 0.5).clamp(0, 1)

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        rows = [torch.Generator().manual_seed(sum(map(ord, prompt))) for prompt in prompts]
        return {
            "context": torch.stack([torch.randn(3, 16, generator=row) for row in rows]),
            "pooled": torch.stack([torch.randn(8, generator=row) for row in rows]),
        }


def stand_in_host() -> StandInHost:
    from core.tiny_models import tiny_flux

    return StandInHost(tiny_flux())


def stand_in_prior(host: Any, seed: int = 0, domain: str = "avatars") -> Prior:
    generator, targets = torch.Generator().manual_seed(seed), host.targets()
    layers = {
        target.name: PriorLayer(
            torch.randn(16, *target.shape[1:], generator=generator) / target.shape[1] ** 0.5,
            torch.randn(8, 16, generator=generator) / 4,
            0.01 * torch.randn(target.shape[0], 8, generator=generator),
        )
        for target in targets
        if target.name.endswith(("img_attn.qkv", "linear2"))
    }
    chosen = [target for target in targets if target.name in layers]
    metadata = PriorMetadata(
        name="stand-in", family="flux", base_fingerprint=fingerprint(chosen), domain=domain, r_meta=16, r_mid=8
    )
    return Prior(layers, metadata)


def stand_in_bench() -> Bench:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    readers = {domain: FactorReader(domain).eval().requires_grad_(False) for domain in DOMAINS}
    host = stand_in_host()
    return Bench(host, {domain: stand_in_prior(host, i, domain) for i, domain in enumerate(DOMAINS)}, readers)
