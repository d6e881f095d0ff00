"""What the speed benchmarks train on: a Flux with random weights, a random prior, one photo's latent and caption."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from metalora_core.files.prior import Prior, PriorLayer, PriorMetadata, load_prior, save_prior
from metalora_core.hosts.diffusers import DiffusersHost
from metalora_core.model.families import default_patterns
from metalora_core.model.targets import Target, choose_targets, fingerprint
from metalora_core.photos.training_set import TrainingSet

R_META, R_MID, PLAIN_RANK, CHANNELS = 64, 4, 8, 16


@dataclass(frozen=True)
class Size:
    """A Flux: heads of 128, double and single blocks, text widths; the latent's side and the caption's tokens."""

    heads: int
    double: int
    single: int
    context: int
    pooled: int
    side: int = 16
    words: int = 20

    def config(self) -> dict[str, Any]:
        return {
            "patch_size": 1,
            "in_channels": 4 * CHANNELS,
            "num_layers": self.double,
            "num_single_layers": self.single,
            "attention_head_dim": 128,
            "num_attention_heads": self.heads,
            "joint_attention_dim": self.context,
            "pooled_projection_dim": self.pooled,
            "axes_dims_rope": (16, 56, 56),
            "guidance_embeds": False,
        }


SIZES = {"pocket": Size(1, 2, 4, 64, 32), "300m": Size(8, 4, 9, 512, 256)}
PHOTOS = TrainingSet((torch.full((3, 128, 128), 0.5),), ("photo of a ohwx person",), "person", "ohwx")


def make_case(folder: Path, size: Size, seed: int = 0) -> None:
    """Write model, prior with a random warm start, and sample; everything from a seed."""
    from diffusers import FluxTransformer2DModel

    generator = torch.Generator().manual_seed(seed)
    model = FluxTransformer2DModel(**size.config())
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1600
            parameter.normal_(0, fan_in**-0.5, generator=generator)
            if parameter.ndim == 1 and parameter.numel() == 128:
                parameter.add_(1)  # scales of the query and key norms
    save_file(model.state_dict(), folder / "model.safetensors")
    targets = targets_of(DiffusersHost(model))

    def draw(*shape: int, fan_in: float) -> Tensor:
        return torch.randn(shape, generator=generator) / fan_in**0.5

    layers = {
        t.name: PriorLayer(
            draw(R_META, t.shape[1], fan_in=t.shape[1]),
            draw(R_MID, R_META, fan_in=R_META),
            draw(t.shape[0], R_MID, fan_in=400 * R_MID),
        )
        for t in targets
    }
    metadata = PriorMetadata(
        name="random", family="flux", base_fingerprint=fingerprint(targets), domain="none", r_meta=R_META, r_mid=R_MID,
        scale=1.0,
    )  # fmt: skip
    save_prior(folder / "prior.safetensors", Prior(layers, metadata))
    latent = (1, CHANNELS, size.side, size.side)
    sample = {
        "latent": draw(*latent, fan_in=1),
        "noise": draw(*latent, fan_in=1),
        "t": torch.tensor([0.6]),
        "context": draw(1, size.words, size.context, fan_in=1),
        "pooled": draw(1, size.pooled, fan_in=1),
    }
    save_file(sample, folder / "sample.safetensors")
    (folder / "size.json").write_text(json.dumps(asdict(size)))


def targets_of(host: Any) -> tuple[Target, ...]:
    """All attention and MLP layers."""
    return choose_targets(host.targets(), default_patterns("flux"))


class CaseHost(DiffusersHost):
    """A diffusers host that hands out the case's latent and caption in place of an autoencoder and text encoder."""

    sample: dict[str, Tensor]
    downscale = 8

    def encode_images(self, images: Tensor) -> Tensor:
        return self.sample["latent"].to(self.device)

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        rows = {name: self.sample[name].to(self.device, self.dtype) for name in ("context", "pooled")}
        return {name: row.expand(len(prompts), *row.shape[1:]) for name, row in rows.items()}


def load_case(folder: Path) -> tuple[dict[str, Tensor], Prior]:
    """Sample and prior."""
    return load_file(folder / "sample.safetensors"), load_prior(folder / "prior.safetensors")


def load_case_host(folder: Path, dtype: torch.dtype = torch.float32) -> CaseHost:
    """The case's model in diffusers."""
    from diffusers import FluxTransformer2DModel

    size = Size(**json.loads((folder / "size.json").read_text()))
    with torch.device("meta"):
        model: Any = FluxTransformer2DModel(**size.config())
    model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    host = CaseHost(model.to(dtype).eval().requires_grad_(False))
    host.sample = load_file(folder / "sample.safetensors")
    return host
