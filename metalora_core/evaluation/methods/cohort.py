"""Several subjects learned side by side: one forward pass, one optimizer, as many separate identities as subjects.

Every number of a subject depends on its own photos only, so a cohort ends where its subjects, learned one after the
other by `adapt`, would end, up to rounding; it takes about a third of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...chain import ChainFactors
from ...errors import TrainingDiverged
from ...functional import add_up, apply_mid
from ...inject import Injection
from ...model.host import Conditioning, Host, stack_conditioning
from ...model.objective import loss_scale
from ...model.sampling import sample
from ...photos.training_set import TrainingSet
from ...training.adaptation_options import AdaptationOptions
from ...training.batches import Batch, denoising_losses
from ...training.optimizers import make_optimizer, scale_learning_rates
from ...training.photo_batches import PhotoBatches
from ...training.schedule import warmup_cosine
from ...training.seeds import step_generator
from ...training.starts import ChainStart

__all__ = ["Snapshot", "draw_pictures", "starting_noise", "train_cohort"]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All subjects after some steps.

    Args:
        step: Steps done.
        flats: Factors, (subjects, layout.total).
        seconds: Training time so far, shared evenly between the subjects.
    """

    step: int
    flats: Tensor
    seconds: float


class _CohortFactors:
    """The chains of several subjects in the model, one subject for every ``repeats`` samples of a batch."""

    def __init__(self, host: Host, start: ChainStart) -> None:
        self.start, self._host = start, host
        ready = {name: down.to(host.device, host.dtype) for name, down in start.downs.items()}
        empty = torch.empty(0, device=host.device)
        self.chains = {name: ChainFactors(down, empty, empty, start.scale) for name, down in ready.items()}

    @contextmanager
    def inject(self) -> Generator[None]:
        mids, ups = self.start.layout.unpack(self.start.flat.to(self._host.device, self._host.dtype))
        for name, chain in self.chains.items():
            chain.mid, chain.up = mids[name], ups[name]
        direct = [target for target in self.start.targets if target.name in self.start.direct]
        others = {name: chain for name, chain in self.chains.items() if name not in self.start.direct}
        handles = [
            self._host.model.get_submodule(target.parts[0].module).register_forward_hook(self._adder(target.name))
            for target in direct
        ]
        try:
            with Injection(self._host.model, self.start.targets, others):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _adder(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """Hook of a layer whose down is the identity: mid sees the input itself, which spares a product."""
        chain = self.chains[name]
        return lambda _, inputs, output: add_up(output, apply_mid(inputs[0], chain.mid), chain.up, chain.scale)

    def use(self, mids: Tensor, ups: Tensor, repeats: int, noise_level: Tensor) -> None:
        """Point the chains at (subjects, ·) vectors; noise_level is (subjects · repeats,)."""
        by_name = self.start.layout.unpack_mids(mids), self.start.layout.unpack_ups(ups)
        for name, chain in self.chains.items():
            mid, up = (found[name].to(self._host.dtype).repeat_interleave(repeats, 0) for found in by_name)
            if self.start.least_rank < 1:
                up = up * self.start.column_mask(noise_level.to(up.device), up.shape[-1])[:, None].to(up.dtype)
            chain.mid, chain.up = mid, up


@torch.inference_mode(False)
@torch.enable_grad()
def train_cohort(
    host: Host,
    start: ChainStart,
    photos: Sequence[TrainingSet],
    options: AdaptationOptions,
    snapshots: Sequence[int],
    seeds: Sequence[int] | None = None,
) -> list[Snapshot]:
    """Learn several subjects at once.

    Photos, noise, noise levels and warm-up of each subject are those of `adapt` with its seed. One learning rate,
    ``options.mid_learning_rate``, times the start's rates serves mid and up.

    Args:
        host: The base model; it leaves as it came.
        start: The method.
        photos: One training set a subject, all pictures of one size.
        options: Steps, batch, optimizer, schedule.
        snapshots: Steps after which the factors are kept, rising; 0 for the start.
        seeds: Of each subject's draws; ``options.seed`` for all if None.

    Raises:
        UnusableReferences: If photos cannot be learned from.
        TrainingDiverged: If a subject's factors become NaN or infinite.
    """
    own = [replace(options, seed=seed) for seed in seeds or [options.seed] * len(photos)]
    for one in photos:
        one.check(host.downscale, options.batch_size)
    batches = [PhotoBatches(host, one, each) for one, each in zip(photos, own, strict=True)]
    trained = _Trained(host, start, len(photos), options)
    factors, began, kept = _CohortFactors(host, start), time.monotonic(), list[Snapshot]()
    with host.training(), factors.inject():
        for step in range(max(snapshots) + 1):
            if step in snapshots:
                kept.append(Snapshot(step, trained.flats(step), (time.monotonic() - began) / len(photos)))
            if step < max(snapshots):
                trained.step(factors, batches, step)
    return kept


class _Trained:
    """Vectors of all subjects and their optimizer."""

    def __init__(self, host: Host, start: ChainStart, subjects: int, options: AdaptationOptions) -> None:
        self.host, self.options, self.cut = host, options, start.layout.mid_total
        flats = start.flat.to(host.device, torch.float32).expand(subjects, -1)
        self.mids = flats[:, : self.cut].clone().requires_grad_()
        self.ups = flats[:, self.cut :].clone().requires_grad_()
        rates = start.rates.to(host.device)
        self.rates = (rates[: self.cut], rates[self.cut :])
        groups = [{"params": [self.mids, self.ups], "lr": options.mid_learning_rate}]
        self.optimizer = make_optimizer(options.optimizer, groups, weight_decay=options.weight_decay)

    def step(self, factors: _CohortFactors, batches: Sequence[PhotoBatches], step: int) -> None:
        """One optimizer step of every subject."""
        options = self.options
        latents, noise, t, conditioning, weights = _joined([one.draw(step) for one in batches])
        factors.use(self.mids, self.ups, len(t) // len(batches), _noise_level(self.host, t))
        losses = denoising_losses(self.host, latents, noise, t, conditioning)
        scale = loss_scale(self.host.dtype)
        (losses @ weights * scale).backward()
        for vector in (self.mids, self.ups):
            if scale != 1 and vector.grad is not None:
                vector.grad.div_(scale)
        factor = warmup_cosine(step, options.steps, options.warmup_steps, options.final_rate)
        scale_learning_rates(self.optimizer, [options.mid_learning_rate], factor)
        before = [vector.detach().clone() for vector in (self.mids, self.ups)]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for vector, old, rates in zip((self.mids, self.ups), before, self.rates, strict=True):
                vector.copy_(old + rates * (vector - old))

    def flats(self, step: int) -> Tensor:
        """A copy of all factors, (subjects, total)."""
        flats = torch.cat([self.mids.detach(), self.ups.detach()], dim=1)
        if not bool(flats.isfinite().all()):
            rate = self.options.mid_learning_rate
            raise TrainingDiverged(f"A factor became NaN by step {step} at learning rate {rate}; lower it.", step=step)
        return flats


def _joined(draws: Sequence[tuple[Batch, Conditioning, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Conditioning, Tensor]:
    found = [batch for batch, _, _ in draws]
    latents, noise, t = (torch.cat([getattr(batch, name) for batch in found]) for name in ("latents", "noise", "t"))
    return latents, noise, t, stack_conditioning([row for _, row, _ in draws]), torch.cat([w for _, _, w in draws])


def _noise_level(host: Host, t: Tensor) -> Tensor:
    return t if host.objective.name == "flow" else (t + 1) / 1000


@torch.no_grad()
def draw_pictures(
    host: Host,
    start: ChainStart,
    flats: Tensor,
    prompts: Sequence[Sequence[str]],
    *,
    size_px: int,
    steps: int,
    guidance: float = 1.0,
    seeds: Sequence[int],
) -> Tensor:
    """Draw every subject under its prompts, all in one batch.

    Args:
        host: The base model; it leaves as it came.
        start: The method that the factors belong to.
        flats: (subjects, layout.total).
        prompts: As many for each subject.
        size_px: Width and height.
        steps: Sampling steps.
        guidance: Classifier-free guidance; 1 is none.
        seeds: Of each subject's starting noise, which so does not depend on who is drawn with it.

    Returns:
        (subjects, prompts, 3, size_px, size_px) in [0, 1], on the CPU.
    """
    subjects, each = len(prompts), len(prompts[0])
    count, noise = subjects * each, starting_noise(host, seeds, each, size_px).flatten(0, 1)
    factors, cut = _CohortFactors(host, start), start.layout.mid_total
    mids, ups = flats.to(host.device).split([cut, flats.shape[1] - cut], dim=1)

    def use(done: int, total: int) -> None:
        factors.use(mids, ups, each, torch.full((count,), 1 - done / total))

    with factors.inject():
        use(0, steps)
        latents = sample(
            host,
            host.encode_prompts([prompt for one in prompts for prompt in one]),
            None if guidance == 1 else host.encode_prompts([""] * count),
            shape=noise.shape,
            steps=steps,
            guidance=guidance,
            noise=noise,
            on_step=use if start.least_rank < 1 else None,
        )
    pictures = [host.decode_latents(part).float().cpu() for part in latents.split(16)]
    return torch.cat(pictures).unflatten(0, (subjects, each))


def starting_noise(host: Host, seeds: Sequence[int], each: int, size_px: int) -> Tensor:
    """Noise of ``each`` pictures of every subject, (subjects, each, C, h, w)."""
    side = size_px // host.downscale
    shape = (each, host.latent_channels, side, side)
    return torch.stack([torch.randn(shape, generator=step_generator(seed, "benchmark pictures")) for seed in seeds])
