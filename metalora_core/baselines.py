"""Plain LoRA by peft on the same layers: what Meta-LoRA is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .adaptation import TrainingSet
from .batches import CaptionCache, denoising_losses
from .errors import InvalidOptions, TrainingDiverged
from .files.atomic import atomic_save_safetensors
from .host import Host
from .objective import StratifiedTimesteps
from .optimizers import make_optimizer, scale_learning_rates
from .schedule import step_generator, warmup_cosine
from .targets import Target

_ADAPTER = "plain"


@dataclass(frozen=True)
class PlainLoRAOptions:
    """Settings of the comparison.

    Args:
        steps: Optimizer steps.
        learning_rate: Of AdamW; tuned on validation subjects, see docs/pocket.md.
        rank: Of every layer.
        alpha: peft's alpha; the delta is scaled by alpha / rank.
        batch: Samples a step.
        warmup_steps: Linear warm-up.
        final_rate: Rate at the end as a share of the full one; cosine in between.
        seed: Of the factors' start and of all draws.
    """

    steps: int = 100
    learning_rate: float = 2e-3
    rank: int = 8
    alpha: float = 8.0
    batch: int = 1
    warmup_steps: int = 5
    final_rate: float = 0.1
    seed: int = 0

    def check(self) -> None:
        """Raise ``InvalidOptions`` unless every number can work."""
        wrong = [name for name in ("steps", "rank", "batch") if getattr(self, name) < 1]
        wrong += [name for name in ("learning_rate", "alpha") if not getattr(self, name) > 0]
        if wrong:
            raise InvalidOptions(f"Plain LoRA cannot work with these options not above zero: {', '.join(wrong)}.")


@dataclass(frozen=True)
class PlainLoRAProgress:
    """What a listener is told after a step.

    Args:
        step: Steps done.
        steps: Steps in all.
        loss: Loss of this step.
        seconds: Since the training began.
    """

    step: int
    steps: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class PlainLoRAResult:
    """A trained plain LoRA.

    Args:
        tensors: peft's state: ``<module>.lora_A.weight`` (rank, in) and ``<module>.lora_B.weight`` (out, rank).
        modules: The adapted modules of the host.
        options: As it was trained.
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
        metadata = {"format": "pt", "options": str(asdict(self.options))}
        atomic_save_safetensors(path, self.tensors, metadata)
        return path.stat().st_size


def train_plain_lora(
    host: Host,
    training_set: TrainingSet,
    targets: Sequence[Target],
    options: PlainLoRAOptions | None = None,
    *,
    on_progress: Callable[[PlainLoRAProgress], None] | None = None,
) -> PlainLoRAResult:
    """Learn a subject with plain LoRA: ``ΔW = alpha / rank · B A``, A random, B zero, both trained.

    Args:
        host: The base model; it leaves as it came.
        training_set: Photos and captions.
        targets: Layers, the same as a Meta-LoRA prior's for a fair comparison.
        options: Settings.
        on_progress: Called after each step; it may raise.

    Raises:
        InvalidOptions: If the settings cannot work.
        TrainingDiverged: If the loss becomes NaN or infinite.

    Source: Hu et al., arXiv 2106.09685, equation 3.
    """
    options = options or PlainLoRAOptions()
    options.check()
    modules = tuple(part.module for target in targets for part in target.parts)
    began, losses = time.monotonic(), list[float]()
    timesteps = StratifiedTimesteps(host.objective, options.batch, options.seed)
    captions = CaptionCache(host)
    with torch.no_grad():
        photos = (image[None].to(host.device, host.dtype) for image in training_set.images)
        latents = torch.cat([host.encode_images(photo) for photo in photos])
    with host.training(), _adapters(host, modules, options) as parameters:
        optimizer = make_optimizer("adamw", [{"params": list(parameters.values()), "lr": options.learning_rate}])
        for step in range(options.steps):
            factor = warmup_cosine(step, options.steps, options.warmup_steps, options.final_rate)
            scale_learning_rates(optimizer, [options.learning_rate], factor)
            generator = step_generator(options.seed, "plain LoRA", step)
            chosen = [(step * options.batch + i) % len(latents) for i in range(options.batch)]
            noise = torch.randn(len(chosen), *latents.shape[1:], generator=generator)
            conditioning = captions.encode([training_set.captions[i] for i in chosen])
            loss = denoising_losses(host, latents[chosen], noise, timesteps.at(step), conditioning).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(_finite(float(loss.detach()), step))
            if on_progress is not None:
                on_progress(PlainLoRAProgress(step + 1, options.steps, losses[-1], time.monotonic() - began))
        tensors = {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
    return PlainLoRAResult(tensors, modules, options, tuple(losses), time.monotonic() - began)


@contextmanager
def applied_plain_lora(host: Host, learned: PlainLoRAResult) -> Generator[None, None, None]:
    """Put a trained plain LoRA into the host's model for the length of a block."""
    with _adapters(host, learned.modules, learned.options) as parameters:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(learned.tensors[name])
        yield


@contextmanager
def _adapters(
    host: Host, modules: Sequence[str], options: PlainLoRAOptions
) -> Generator[dict[str, torch.nn.Parameter], None, None]:
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=list(modules), lora_dropout=0.0)  # type: ignore[arg-type]
    flags = {name: parameter.requires_grad for name, parameter in host.model.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)  # peft draws A from the global generator
        tuner: Any = LoraModel(host.model, config, _ADAPTER)
    try:
        yield {
            name.replace(f".{_ADAPTER}.", "."): parameter
            for name, parameter in host.model.named_parameters()
            if f".{_ADAPTER}." in name
        }
    finally:
        tuner.unload()
        for name, parameter in host.model.named_parameters():
            parameter.requires_grad_(flags[name])
            parameter.grad = None


def _finite(loss: float, step: int) -> float:
    if loss != loss or loss in (float("inf"), float("-inf")):
        raise TrainingDiverged(f"Plain LoRA's loss became {loss} at step {step}. Lower its learning rate.", step=step)
    return loss
