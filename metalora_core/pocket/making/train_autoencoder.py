"""Make the pocket autoencoder: the encoder from patch components, the decoder trained on crops of photos."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn import functional as F

from ...photos.pictures import from_uint8
from ...training.schedule import warmup_cosine
from ..autoencoder import SLIM_WIDTHS, decode, encode, make_autoencoder, to_taesd_names, widen
from ..load import AUTOENCODER_FILE, PocketMetadata, save_part
from ..world.factors import DOMAINS, SPLIT_BASE, draw_subjects
from ..world.render import render
from ..world.scenes import draw_scenes
from .dataset import PhotoPlan, rendered_photos
from .latents_cache import encoded_photos
from .patch_start import start_from_patches

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutoencoderOptions:
    """How the decoder is trained."""

    steps: int = 4500
    batch_size: int = 8  # crops
    crop_px: int = 64  # a multiple of 8
    learning_rate: float = 1e-3
    latent_noise: float = 0.05  # standard deviation added to latents, so that the decoder forgives a sampler
    report_every: int = 100  # steps
    seed: int = 0


def _picture_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Absolute and squared difference, and the absolute difference of the picture's edges."""
    difference = found - wanted
    edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return difference.abs().mean() + 4 * difference.square().mean() + edges


def start_autoencoder(folder: Path, options: AutoencoderOptions = AutoencoderOptions()) -> Any:
    """The slim autoencoder before training: its encoder is done, its decoder knows nothing yet."""
    torch.manual_seed(options.seed)
    model = make_autoencoder(SLIM_WIDTHS)
    start_from_patches(model, torch.cat([from_uint8(photos[:600:4]) for photos in _photos(folder)]))
    model.encoder.requires_grad_(False)
    return model


def train_decoder(
    model: Any,
    folder: Path,
    options: AutoencoderOptions = AutoencoderOptions(),
    *,
    on_snapshot: Callable[[Any], None] | None = None,
) -> None:
    """Train the decoder of a slim autoencoder on crops of both domains' photos.

    Args:
        model: From :func:`start_autoencoder`; changed in place.
        folder: Where rendered photos are kept.
        options: How long and how.
        on_snapshot: Gets the model with every report.
    """
    photos, parameters = _photos(folder), list(model.decoder.parameters())
    latents = [encoded_photos(PhotoPlan(domain), folder, model) for domain in DOMAINS]
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=1e-4, betas=(0.9, 0.98))
    began, mean_error = time.perf_counter(), 0.0
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warmup_cosine(step, options.steps, 50, 0.02)
        crops, wanted = _crops(latents, photos, options, generator)
        noise = options.latent_noise * torch.randn(crops.shape, generator=generator)
        found = decode(model, crops + noise)
        loss = _picture_loss(found, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean_error += (F.mse_loss(found.detach(), wanted).item() - mean_error) * max(0.02, 1 / (step + 1))
        if (step + 1) % options.report_every == 0 or step + 1 == options.steps:
            _LOG.info(f"step {step + 1} {-10 * math.log10(mean_error):.2f} dB {time.perf_counter() - began:.0f} s")
            if on_snapshot is not None:
                on_snapshot(model)


def _photos(folder: Path) -> list[Any]:
    return [rendered_photos(PhotoPlan(domain), folder) for domain in DOMAINS]


def psnr_db(found: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio of pictures in [0, 1], in dB."""
    return -10 * math.log10(max(F.mse_loss(found.clamp(0, 1), wanted).item(), 1e-12))


@torch.no_grad()
def validation_psnr_db(model: Any, subjects: int = 16) -> dict[str, float]:
    """Reconstruction of validation photos, four of each subject, by domain."""
    found: dict[str, float] = {}
    for domain in DOMAINS:
        who = [subject for subject in draw_subjects(domain, "validation", subjects) for _ in range(4)]
        pictures = render(who, draw_scenes(domain, len(who), SPLIT_BASE["validation"]))
        found[domain] = round(psnr_db(decode(model, encode(model, pictures)), pictures), 2)
    return found


def save_autoencoder(model: Any, options: AutoencoderOptions) -> None:
    """Write the shipped file: full width, TAESD's names, half precision."""
    training: dict[str, JsonValue] = {"settings": asdict(options), "validation_psnr_db": {**validation_psnr_db(model)}}
    metadata = PocketMetadata(part="autoencoder", name="Pocket autoencoder (TAESD form)", training=training)
    save_part(AUTOENCODER_FILE, to_taesd_names(widen(model)), metadata)


def _crops(
    latents: list[Tensor], photos: list[Any], options: AutoencoderOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Latents and pictures of random crops, half of each domain, most of them from the middle, where the subject is."""
    inputs: list[Tensor] = []
    wanted: list[Tensor] = []
    side = options.crop_px // 8
    for i in range(options.batch_size):
        source, picture = latents[i % len(latents)], photos[i % len(photos)]
        row = int(torch.randint(len(source), (), generator=generator))
        room = source.shape[-1] - side
        top, left = (torch.rand(2, 2, generator=generator).mean(0) * (room + 1)).int().tolist()
        inputs.append(source[row, :, top : top + side, left : left + side].float())
        rows, columns = slice(8 * top, 8 * (top + side)), slice(8 * left, 8 * (left + side))
        wanted.append(from_uint8(picture[row, :, rows, columns]))
    return torch.stack(inputs), torch.stack(wanted)
