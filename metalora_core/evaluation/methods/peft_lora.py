"""Plain LoRA by peft on the same layers: what Meta-LoRA is compared with."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import POSITIVE, RANK, optional, refuse
from ...errors import TrainingDiverged
from ...files.atomic import atomic_save_safetensors
from ...model.host import Host
from ...model.targets import Target
from ...photos.training_set import TrainingSet
from ...training.adaptation_options import AdaptationOptions
from ...training.batches import denoising_losses
from ...training.optimizers import make_optimizer, scale_learning_rates
from ...training.photo_batches import PhotoBatches
from ...training.progress import AdaptationProgress
from ...training.schedule import warmup_cosine

__all__ = ["PlainLoRAOptions", "PlainLoRAResult", "applied_plain_lora", "train_plain_lora"]

_ADAPTER = "plain"


@dataclass(frozen=True)
class PlainLoRAOptions:
    """Plain LoRA's settings beyond those it shares with an adaptation.

    Args:
        learning_rate: Of A and B; `bench tune` finds it on validation subjects.
        rank: Of every layer.
        alpha: The delta is scaled by alpha / rank.
    """

    learning_rate: float = 3e-3
    rank: int = 8
    alpha: float = 8.0

    def check(self) -> None:
        """Raise ``InvalidOptions`` with all findings at once."""
        refuse("plain LoRA", POSITIVE.findings(self, "learning_rate", "alpha") + RANK.findings(self, "rank"))


@dataclass(frozen=True)
class PlainLoRAResult:
    """A learned plain LoRA.

    Args:
        tensors: peft's state: ``<module>.lora_A.weight`` (rank, in) and ``<module>.lora_B.weight`` (out, rank).
        modules: The adapted modules of the host.
        options: Rank, alpha and learning rate.
        losses: One per step.
        seconds: Of the training, encoding included.
    """

    tensors: Mapping[str, Tensor]
    modules: tuple[str, ...]
    options: PlainLoRAOptions
    losses: tuple[float, ...]
    seconds: float

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def save(self, path: Path) -> int:
        """Write the LoRA under peft's names; returns the size in bytes.

        Raises:
            UnwritableFile: If the file cannot be written.
        """
        atomic_save_safetensors(path, self.tensors, {"plain_lora": json.dumps(asdict(self.options))})
        return path.stat().st_size


@torch.inference_mode(False)
@torch.enable_grad()
def train_plain_lora(
    host: Host,
    training_set: TrainingSet,
    targets: Sequence[Target],
    shared: AdaptationOptions | None = None,
    options: PlainLoRAOptions | None = None,
    *,
    on_progress: Callable[[AdaptationProgress], None] | None = None,
) -> PlainLoRAResult:
    """Learn a subject with plain LoRA: ``ΔW = alpha / rank · B A``, A random, B zero, both trained.

    Photos, noise, noise levels, warm-up and decay of the rate are those of an adaptation with the same settings and
    seed, so that only the parametrisation differs.

    Args:
        host: The base model; it is left unchanged.
        training_set: Photos and captions.
        targets: Layers, those of a prior for a fair comparison.
        shared: Steps, batch, optimizer, augmentation, schedule, seed. Ranks, rates, start, validation, previews and
            checkpoints of an adaptation have no meaning here.
        options: Rank, alpha and learning rate.
        on_progress: Called every ``shared.read_every`` steps; it may raise.

    Raises:
        InvalidOptions: If the settings cannot work.
        UnusableReferences: If the photos are not usable.
        TrainingDiverged: If the loss becomes NaN or infinite.

    Source: Hu et al., arXiv 2106.09685, equation 3.
    """
    shared, options = shared or AdaptationOptions(), options or PlainLoRAOptions()
    shared.check()
    options.check()
    training_set.check(host.downscale, shared.batch_size)
    modules = tuple(part.module for target in targets for part in target.parts)
    began, losses = time.monotonic(), list[Tensor]()
    batches = PhotoBatches(host, training_set, shared)
    with host.training(), _adapters(host.model, modules, options, shared.seed) as parameters:
        groups = [{"params": list(parameters.values()), "lr": options.learning_rate}]
        optimizer = make_optimizer(shared.optimizer, groups, weight_decay=shared.weight_decay)
        for step in range(shared.steps):
            factor = warmup_cosine(step, shared.steps, shared.warmup_steps, shared.final_rate)
            scale_learning_rates(optimizer, [options.learning_rate], factor)
            batch = batches.draw(step)
            loss = denoising_losses(host, batch) @ batch.weights
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            if (step + 1) % shared.read_every == 0 or step + 1 == shared.steps:
                recent = _finite(losses[-shared.read_every :], step + 1)
                if on_progress is not None:
                    on_progress(AdaptationProgress(step + 1, shared.steps, recent, time.monotonic() - began))
        tensors = {name: parameter.detach().float().cpu().clone() for name, parameter in parameters.items()}
    return PlainLoRAResult(tensors, modules, options, tuple(torch.stack(losses).tolist()), time.monotonic() - began)


@contextmanager
def applied_plain_lora(host: Host, learned: PlainLoRAResult) -> Generator[None, None, None]:
    """Put a learned plain LoRA into the host's model for the length of a block."""
    with _adapters(host.model, learned.modules, learned.options, seed=0) as parameters:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(learned.tensors[name])
        yield


@contextmanager
def _adapters(
    model: nn.Module, modules: Sequence[str], options: PlainLoRAOptions, seed: int
) -> Generator[dict[str, nn.Parameter], None, None]:
    peft = optional("peft", "A plain LoRA to compare with")
    config = peft.LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=list(modules))
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft initialises A from the global generator
        tuner: Any = peft.LoraModel(model, config, _ADAPTER)
    try:
        marker = f".{_ADAPTER}."
        yield {n.replace(marker, "."): p for n, p in model.named_parameters() if marker in n}
    finally:
        tuner.unload()
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)


def _finite(losses: Sequence[Tensor], step: int) -> float:
    loss = float(torch.stack(list(losses)).mean())
    if not math.isfinite(loss):
        raise TrainingDiverged(f"Plain LoRA's loss became {loss} by step {step}. Lower its learning rate.", step=step)
    return loss
