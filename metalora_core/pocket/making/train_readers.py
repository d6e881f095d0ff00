"""Train a domain's scorer on training photos, as they are and after the autoencoder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn import functional as F

from ...model.compiled_pass import fast_products
from ...photos.pictures import from_uint8, to_uint8
from ...training.schedule import warmup_cosine
from ..autoencoder import decode
from ..load import PocketMetadata, load_autoencoder, reader_file, save_part
from ..readers import FactorReader, error_floor, score
from ..world.factors import FACTORS, SPLIT_BASE, Domain, draw_subjects, slices
from ..world.render import render
from ..world.scenes import SCENE_GROUPS, SCENE_NAMES, draw_scenes, scene_truth
from .dataset import PhotoPlan, rendered_photos
from .latents_cache import encoded_photos

_LOG = logging.getLogger(__name__)

_RESTORED_EVERY = 5


@dataclass(frozen=True)
class ReaderOptions:
    """How a scorer is trained."""

    steps: int = 9000
    batch_size: int = 64
    learning_rate: float = 2e-3
    noise: float = 0.03  # largest standard deviation of the pixel noise
    shift: int = 5  # pixels by which a batch is moved at most; no caption speaks of where a subject stands
    fast: bool = False  # passes in bfloat16: 2.1 instead of 3.3 ms a photo with AMX
    seed: int = 0


def _identity_loss(logits: Tensor, truth: Tensor, reader: FactorReader) -> Tensor:
    total = torch.zeros(())
    for factor, place in zip(FACTORS[reader.domain], slices(reader.domain).values(), strict=True):
        if factor.kind == "category":
            total = total + 0.15 * factor.weight * F.cross_entropy(logits[:, place], truth[:, place].argmax(1))
        else:
            total = total + factor.weight * F.mse_loss(logits[:, place].sigmoid(), truth[:, place])
    return total


def _disturb(pictures: Tensor, options: ReaderOptions, generator: torch.Generator) -> Tensor:
    """A little blur and noise, so that a generated picture is nothing new."""
    amount = torch.rand(len(pictures), 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blurred = pictures + (soft - pictures) * amount
    noise = torch.randn(pictures.shape, generator=generator) * options.noise
    return blurred + noise * torch.rand(len(pictures), 1, 1, 1, generator=generator)


_MIRRORED = [SCENE_NAMES.index(name) for name in ("yaw", "light_x")]


def _mirror(pictures: Tensor, scenes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror half of the photos: the identity stays, only turn and light change sides."""
    chosen = torch.rand(len(pictures), generator=generator) < 0.5
    pictures = torch.where(chosen[:, None, None, None], pictures.flip(-1), pictures)
    signs = torch.ones(scenes.shape[1])
    signs[_MIRRORED] = -1
    return pictures, torch.where(chosen[:, None], scenes * signs, scenes)


def _shift(pictures: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move all photos by some pixels; what comes in repeats the edge."""
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    height, width = pictures.shape[-2:]
    return F.pad(pictures, (most,) * 4, mode="replicate")[..., down : down + height, right : right + width]


def _exchange_colours(
    pictures: Tensor, identity: Tensor, scenes: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Permute red, green and blue of the photos and of all colours that they show.

    Products are lit by white light and may have any colour, so the result is the photo of another product.
    """
    order = torch.randperm(3, generator=generator)
    identity, scenes = identity.clone(), scenes.clone()
    for factor, place in zip(FACTORS["products"], slices("products").values(), strict=True):
        if factor.kind == "colour":
            identity[:, place] = identity[:, place][:, order]
    background = SCENE_GROUPS["background"]
    scenes[:, background] = scenes[:, background][:, order]
    return pictures[:, order], identity, scenes


def train_reader(
    plan: PhotoPlan,
    picture_rows: Callable[[Tensor], Tensor],
    options: ReaderOptions = ReaderOptions(),
) -> FactorReader:
    """Train from scratch.

    Args:
        plan: Which photos; gives the truth about each.
        picture_rows: Row numbers (B,) → pictures (B, 3, 128, 128) in [0, 1], either photos or reconstructions.
        options: How long and how.
    """
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    reader: Any = FactorReader(plan.domain)  # torch's types do not know of memory formats
    reader.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    identity = torch.stack([s.vector for s in plan.drawn_subjects()]).repeat_interleave(plan.photos, dim=0)
    scenes = torch.stack([scene_truth(scene, plan.domain) for scene in plan.scenes()])
    optimizer = torch.optim.AdamW(reader.parameters(), options.learning_rate, weight_decay=0.05)
    began = time.perf_counter()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warmup_cosine(step, options.steps, 100, 0.01)
        rows = torch.randint(len(identity), (options.batch_size,), generator=generator)
        pictures, shown = _mirror(picture_rows(rows), scenes[rows], generator)
        who = identity[rows]
        if plan.domain == "products":
            pictures, who, shown = _exchange_colours(pictures, who, shown, generator)
        pictures = _disturb(_shift(pictures, options.shift, generator), options, generator)
        with fast_products() if options.fast else nullcontext():
            logits = reader.logits(pictures.contiguous(memory_format=torch.channels_last)).float()
        found = logits[:, -reader.scene_size :]
        loss = _identity_loss(logits, who, reader) + 3 * F.mse_loss(found, shown)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step + 1 == options.steps:
            _LOG.info(f"step {step} loss {loss.item():.4f} {time.perf_counter() - began:.0f} s")
    return reader.eval().to(memory_format=torch.contiguous_format)


def make_reader(domain: Domain, folder: Path, options: ReaderOptions) -> None:
    """Train, measure and write the shipped scorer of a domain.

    Every fifth photo goes through the autoencoder, as a generated picture does.
    """
    plan, autoencoder = PhotoPlan(domain), load_autoencoder()
    photos, latents = rendered_photos(plan, folder), encoded_photos(plan, folder, autoencoder)[::_RESTORED_EVERY]
    with torch.no_grad():
        restored = torch.cat([to_uint8(decode(autoencoder, some.float())) for some in latents.split(24)])

    def picture_rows(rows: Tensor) -> Tensor:
        pictures = from_uint8(photos[rows.numpy()])
        again = rows % _RESTORED_EVERY == 0
        pictures[again] = from_uint8(restored[rows[again] // _RESTORED_EVERY])
        return pictures

    reader = train_reader(plan, picture_rows, options)
    floors: dict[str, JsonValue] = {**reader_floors(reader)}
    training: dict[str, JsonValue] = {"settings": asdict(options), "photos": asdict(plan), "validation": floors}
    metadata = PocketMetadata(part="reader", name=f"Factor reader for {domain}", domain=domain, training=training)
    save_part(reader_file(domain), reader.state_dict(), metadata)
    _LOG.info(f"{domain}: {floors}")


def reader_floors(reader: FactorReader, subjects: int = 64) -> dict[str, float]:
    """Errors on true validation photos, two of each subject, as they are and through the autoencoder."""
    who = [subject for subject in draw_subjects(reader.domain, "validation", subjects) for _ in range(2)]
    scenes = draw_scenes(reader.domain, len(who), SPLIT_BASE["validation"] + 1)
    direct = error_floor(reader, who, scenes)
    autoencoder = load_autoencoder()
    with torch.no_grad():
        again = decode(autoencoder, autoencoder.encoder(render(who, scenes) * 2 - 1))
    through = score(reader, again, torch.stack([subject.vector for subject in who]), scenes)
    return {
        "identity_floor": round(direct.identity, 5),
        "prompt_floor": round(direct.prompt, 5),
        "identity_floor_through_autoencoder": round(through.identity, 5),
        "prompt_floor_through_autoencoder": round(through.prompt, 5),
    }
