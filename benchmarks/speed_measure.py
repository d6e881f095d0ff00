"""How a step's time, its memory and its gradient are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metalora_core.files.prior import targets_of_prior
from metalora_core.training.adaptation_options import AdaptationOptions
from metalora_core.training.batches import Batch, denoising_losses
from metalora_core.training.chain_trainer import ChainTrainer
from metalora_core.training.progress import AdaptationProgress
from metalora_core.training.starts import start_of_prior


def look_every(steps: int) -> int:
    """Steps between two readings of the clock, as often as the loop looks up."""
    return 5 if steps > 10 else 1


def options(steps: int) -> AdaptationOptions:
    return AdaptationOptions(steps=steps, read_every=look_every(steps), validate_every=10**9, checkpoint_every=10**9)


class Clock:
    """Milliseconds a step; on a CPU in processor time, which other programs disturb less than the clock's."""

    def __init__(self) -> None:
        self.readings: list[tuple[int, float]] = []

    def __call__(self, step: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.readings.append((step, time.perf_counter() if torch.cuda.is_available() else time.process_time()))

    def on_progress(self, progress: AdaptationProgress) -> None:
        self(progress.step)

    @property
    def step_ms(self) -> list[float]:
        pairs = zip(self.readings, self.readings[1:], strict=False)
        return [(b[1] - a[1]) / (b[0] - a[0]) * 1000 for a, b in pairs]


def peak_extra_bytes(work: Callable[[], object]) -> int:
    """Most bytes of tensors that were alive at once during the work, beyond those alive before it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    alive = peak = 0
    events: Any = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def gradient_of(host: Any, prior: Any, sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of every mid and up at the prior's start, as an adaptation computes it."""
    targets = targets_of_prior(prior, host.targets())
    trainer = ChainTrainer(host, start_of_prior(prior, targets, options(1)), options(1))
    weights = torch.ones_like(sample["t"])
    batch = Batch(sample["latent"], sample["noise"], sample["t"], host.encode_prompts(["photo"]), weights)
    with host.training(), trainer.chains.inject():
        denoising_losses(host, batch).sum().backward()
    gradients = {}
    for name, chain in trainer.chains.factors.items():
        assert chain.mid.grad is not None and chain.up.grad is not None
        gradients |= {f"{name}.mid": chain.mid.grad, f"{name}.up": chain.up.grad}
    return gradients


def reference_gradient(host: Any, prior: Any, sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same in float64, by autograd through whole weights ``W + up · mid · meta_down``."""
    targets = targets_of_prior(prior, host.targets())
    trained: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for target in targets:
        layer = prior.layers[target.name]
        mid = trained[f"{target.name}.mid"] = layer.mid_init.double().requires_grad_()
        up = trained[f"{target.name}.up"] = layer.up_init.double().requires_grad_()
        delta = prior.metadata.scale * up @ mid @ layer.meta_down.double()
        for part in target.parts:
            base = host.model.get_submodule(part.module).weight.detach()
            weights[f"{part.module}.weight"] = base + delta[part.start : part.stop]

    class Merged:
        config, pos_embed = host.model.config, host.model.pos_embed

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(host.model, weights, args, kwargs)

    from metalora_core.hosts.flux import denoise

    conditioning = {name: value.double() for name, value in host.encode_prompts(["photo"]).items()}
    latent, noise = sample["latent"].double(), sample["noise"].double()
    t = sample["t"].double()
    predicted = denoise(Merged(), torch.lerp(latent, noise, t.view(-1, 1, 1, 1)), t, conditioning)
    loss = (predicted - (noise - latent)).square().mean()
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def cosine(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Of all gradients as one vector."""
    a, b = (
        torch.cat([part[name].double().flatten().cpu() for name in sorted(reference)]) for part in (ours, reference)
    )
    return float(a @ b / (a.norm() * b.norm()))
