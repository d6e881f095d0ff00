"""Train the pocket text encoder and the pocket Flux together, by flow matching on latents of training photos."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...hosts.flux import pack, positions
from ...model.compiled_pass import fast_pass
from ...training.schedule import warmup_linear
from ..flux import make_base_model
from ..load import BASE_FILE, NAME, TEXT_FILE, PocketMetadata, load_part, save_part
from ..text import TOKENS, WordTextEncoder
from ..world.factors import DOMAINS
from .base_photos import TrainingPhotos
from .caption_rows import CaptionOptions, CaptionRows
from .dataset import PhotoPlan

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaseOptions:
    """How the base model is trained."""

    steps: int = 7000
    batch_size: int = 128
    learning_rate: float = 1.8e-3
    warmup_steps: int = 150
    held: float = 0.35  # share of the steps at the full rate; then it falls in a straight line
    final_rate: float = 0.02  # rate at the end as a share of the full one
    ema_decay: float = 0.999
    captions: CaptionOptions = field(default_factory=CaptionOptions)
    time_spread: float = 1.3  # standard deviation of the logit of the noise level
    time_centre: float = 0.4  # its mean: above 0, levels where structure is decided come up more often
    channel_power: float = 0.75  # of the channels' weights: 0 counts all alike, 1 counts as the picture does
    focus: float = 4.0  # weight of the place where a face changes most, beyond the 1 of a place where it never does
    product_share: float = 0.6  # of the photos in a batch; the rest are avatars
    fast: bool = False  # compiled passes in bfloat16, see fast_pass: 5.5 instead of 13 ms a photo with AMX
    report_every: int = 100  # steps
    seed: int = 0


class PocketBase(nn.Module):
    """Text encoder and transformer, trained as one."""

    def __init__(self) -> None:
        super().__init__()
        self.text = WordTextEncoder()
        self.transformer: Any = make_base_model()

    def forward(self, packed: Tensor, t: Tensor, tokens: Tensor, ids: Tensor) -> Tensor:
        """Velocity of packed noisy latents (B, 64, 64) at times t (B,) under token numbers (B, 26)."""
        context, pooled = self.text(tokens)
        return self.transformer(
            hidden_states=packed,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=t,
            img_ids=ids,
            txt_ids=torch.zeros(TOKENS, 3),
            return_dict=False,
        )[0]


def _optimizers(model: PocketBase, options: BaseOptions) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest; Muon's steps are scaled to AdamW's size."""
    matrices = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and ("blocks." in name or "layers." in name) and "norm" not in name
    ]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [
        torch.optim.Muon(matrices, options.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01),
    ]


def noise_levels(count: int, centre: float, spread: float, generator: torch.Generator) -> Tensor:
    """Logit-normal times (count,), one in each of ``count`` equally likely slices."""
    levels = (torch.rand(count, generator=generator) + torch.randperm(count, generator=generator)) / count
    return torch.sigmoid(centre + spread * torch.special.ndtri(levels.clamp(1e-6, 1 - 1e-6)))


def _channel_weights(photos: TrainingPhotos, power: float) -> Tensor:
    """Weights of the packed channels, (4 · C,), mean 1.

    A flow's optimum is the same under any weights, but a small model's capacity goes where they are: without them most
    of it is spent on the many faint channels of fine detail.
    """
    gains = torch.ones(photos.latents.shape[1]) if photos.gains is None else photos.gains.pow(power)
    return (gains / gains.mean()).repeat_interleave(4)


def place_weights(photos: TrainingPhotos, rows: Tensor, focus: float) -> Tensor:
    """Weights of the tokens of some photos, (B, T, 1), mean 1 for each photo."""
    if photos.focus is None:
        return torch.ones(1, 1, 1)
    weights = 1 + focus * photos.focus[rows]
    return (weights / weights.mean(1, keepdim=True))[..., None]


class _BaseTraining:
    """Weights, their moving average and their optimizers."""

    def __init__(self, options: BaseOptions, start: PocketBase | None) -> None:
        self.options = options
        self.model = PocketBase() if start is None else copy.deepcopy(start).requires_grad_(True)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = _optimizers(self.model, options)
        self.velocity = fast_pass(self.model) if options.fast else self.model

    def update(self, step: int) -> None:
        """One step of the optimizers with the gradients that are there, and of the average."""
        options = self.options
        rate = options.learning_rate * warmup_linear(
            step, options.steps, options.warmup_steps, options.held, options.final_rate
        )
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(options.ema_decay, (step + 1) / (step + 10))
        move = get_ema_multi_avg_fn(decay)
        move(list(self.average.parameters()), list(self.model.parameters()), step)


def train_base(
    photos: TrainingPhotos,
    options: BaseOptions = BaseOptions(),
    *,
    start: PocketBase | None = None,
    on_snapshot: Callable[[PocketBase], None] | None = None,
) -> PocketBase:
    """Train and return the moving average of the weights.

    Args:
        photos: What to train on.
        options: How long and how.
        start: Weights of an earlier training to start from; None for random ones.
        on_snapshot: Gets the moving average with every report, to be looked at or stored.
    """
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    rows_of = CaptionRows(photos.captions, photos.looks, options.captions)
    training = _BaseTraining(options, start)
    rows, columns = (side // 2 for side in photos.latents.shape[-2:])
    ids, weights = positions(rows, columns, torch.device("cpu")), _channel_weights(photos, options.channel_power)
    began, mean_loss = time.perf_counter(), 0.0
    for step in range(options.steps):
        rows = photos.draw(options.batch_size, options.product_share, generator)
        clean = pack(photos.latents[rows].float())
        noise = torch.randn(clean.shape, generator=generator)
        t = noise_levels(len(rows), options.time_centre, options.time_spread, generator)
        noisy = clean + (noise - clean) * t[:, None, None]
        velocity = training.velocity(noisy, t, rows_of.draw(rows, generator), ids)
        places = place_weights(photos, rows, options.focus)
        loss = ((velocity - (noise - clean)).square() * weights * places).mean()
        mean_loss += (loss.item() - mean_loss) * max(0.01, 1 / (step + 1))
        loss.backward()
        training.update(step)
        if (step + 1) % options.report_every == 0 or step + 1 == options.steps:
            _LOG.info(f"step {step + 1} loss {mean_loss:.4f} {time.perf_counter() - began:.0f} s")
            if on_snapshot is not None:
                on_snapshot(training.average)
    return training.average


def load_base() -> tuple[PocketBase, list[JsonValue]]:
    """The shipped base model as one module, and the stages it was trained in, as a start."""
    model = PocketBase()
    state, metadata = load_part(BASE_FILE)
    model.transformer.load_state_dict(state)
    model.text.load_state_dict(load_part(TEXT_FILE)[0])
    stages = metadata.training["stages"]
    return model, list(stages) if isinstance(stages, list) else [stages]


def save_base(model: PocketBase, options: BaseOptions, earlier: Sequence[JsonValue] = ()) -> None:
    """Write the two shipped files: transformer and text encoder.

    Args:
        model: What was trained.
        options: How.
        earlier: Stages before this one.
    """
    stages: list[JsonValue] = [*earlier, asdict(options)]
    training: dict[str, JsonValue] = {"stages": stages, "photos": [asdict(PhotoPlan(domain)) for domain in DOMAINS]}
    metadata = PocketMetadata(part="base", name=NAME, training=training)
    save_part(BASE_FILE, model.transformer.state_dict(), metadata)
    metadata = PocketMetadata(part="text", name="Pocket text encoder", training=training)
    save_part(TEXT_FILE, model.text.state_dict(), metadata)
