"""Train the pocket text encoder and the pocket Flux together, by flow matching on latents of training photos."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from ..schedule import warmup_cosine
from .base_model import image_ids, make_base_model, pack
from .dataset import PhotoPlan
from .factors import DOMAINS
from .latents_cache import encoded_photos
from .load import BASE_FILE, TEXT_FILE, PocketMetadata, load_autoencoder, load_part, save_part
from .text import PAD, SPARE_FIRST, SPARE_PLACES, TOKENS, WordTextEncoder, token_of, tokenize


@dataclass(frozen=True)
class BaseOptions:
    """How the base model is trained."""

    steps: int = 4500
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 150
    ema_decay: float = 0.998
    drop_caption: float = 0.1  # share of samples that see the empty prompt, for guidance
    add_trigger: float = 0.4  # share of samples whose class word gets an unknown word before it
    report_every: int = 100  # steps
    seed: int = 0


class PocketBase(nn.Module):
    """Text encoder and transformer, trained as one."""

    def __init__(self) -> None:
        super().__init__()
        self.text = WordTextEncoder()
        self.transformer: Any = make_base_model()

    def forward(self, packed: Tensor, t: Tensor, tokens: Tensor, ids: Tensor) -> Tensor:
        """Velocity of packed noisy latents (B, 64, 64) at times t (B,) under token numbers (B, 20)."""
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


def _insert_triggers(tokens: Tensor, options: BaseOptions, generator: torch.Generator) -> Tensor:
    """Put a random unknown word after "photo of a" in a share of the rows; empty another share."""
    rows = tokens.clone()
    place = 3
    lot = torch.rand(len(rows), generator=generator)
    spare = torch.randint(SPARE_FIRST, SPARE_FIRST + SPARE_PLACES, (len(rows),), generator=generator)
    chosen = lot < options.add_trigger
    shifted = torch.cat([rows[:, :place], spare[:, None], rows[:, place:-1]], dim=1)
    rows = torch.where(chosen[:, None], shifted, rows)
    return torch.where((lot > 1 - options.drop_caption)[:, None], torch.full_like(rows, PAD), rows)


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


def train_base(
    latents: Tensor,
    captions: Sequence[str],
    options: BaseOptions = BaseOptions(),
    *,
    start: PocketBase | None = None,
    report: Callable[[str], None] = print,
    on_snapshot: Callable[[PocketBase], None] | None = None,
) -> PocketBase:
    """Train and return the moving average of the weights.

    Args:
        latents: Latents of all training photos, (N, 16, 16, 16), unit variance; a half-precision store is fine.
        captions: N captions.
        options: How long and how.
        start: Weights of an earlier training to go on from; None for random ones.
        report: Gets a line of text now and then.
        on_snapshot: Gets the moving average with every report, to be looked at or stored.
    """
    if len(latents) != len(captions):
        raise ValueError(f"Found {len(latents)} latents and {len(captions)} captions; give one caption a latent.")
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    all_tokens = torch.tensor([tokenize(caption) for caption in captions])
    if int((all_tokens[:, 2] != token_of("a")).sum()):
        raise ValueError('Every caption has to begin with "photo of a", where triggers are inserted.')
    model = PocketBase() if start is None else copy.deepcopy(start).requires_grad_(True)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizers = _optimizers(model, options)
    ids = image_ids(*latents.shape[-2:])
    began, mean_loss = time.perf_counter(), 0.0
    for step in range(options.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * warmup_cosine(step, options.steps, options.warmup_steps, 0.02)
        rows = torch.randint(len(latents), (options.batch_size,), generator=generator)
        clean = pack(latents[rows].float())
        noise = torch.randn(clean.shape, generator=generator)
        # One time in each of batch_size equal slices, so that every step sees all noise levels.
        t = (torch.rand(len(rows), generator=generator) + torch.randperm(len(rows), generator=generator)) / len(rows)
        noisy = clean + (noise - clean) * t[:, None, None]
        tokens = _insert_triggers(all_tokens[rows], options, generator)
        loss = (model(noisy, t, tokens, ids) - (noise - clean)).square().mean()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(options.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        mean_loss += (loss.item() - mean_loss) * max(0.01, 1 / (step + 1))
        if (step + 1) % options.report_every == 0 or step + 1 == options.steps:
            report(f"step {step + 1} loss {mean_loss:.4f} {time.perf_counter() - began:.0f} s")
            if on_snapshot is not None:
                on_snapshot(average)
    return average


def training_latents(folder: Path) -> tuple[Tensor, list[str]]:
    """Latents and captions of both domains' training photos, encoded by the shipped autoencoder."""
    autoencoder = load_autoencoder()
    plans = [PhotoPlan(domain) for domain in DOMAINS]
    latents = torch.cat([encoded_photos(plan, folder, autoencoder) for plan in plans])
    return latents, [caption for plan in plans for caption in plan.captions()]


def load_base() -> tuple[PocketBase, list[JsonValue]]:
    """The shipped base model as one module, and the stages it has been trained in, to go on from."""
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
    metadata = PocketMetadata(part="base", name="Pocket Flux", training=training)
    save_part(BASE_FILE, model.transformer.state_dict(), metadata)
    metadata = PocketMetadata(part="text", name="Pocket text encoder", training=training)
    save_part(TEXT_FILE, model.text.state_dict(), metadata)
