"""Several subjects trained side by side, with exactly the step of an adaptation, and their pictures.

One forward pass, one optimizer, as many separate identities as subjects: a cohort of one is an adaptation, and a larger
one ends where its subjects, learned one after the other, would end, up to rounding; it takes about a third of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import InvalidOptions
from ...model.host import Host
from ...model.sampling import sample
from ...photos.training_set import TrainingSet
from ...training.adaptation_options import AdaptationOptions
from ...training.batches import Batch, denoising_losses
from ...training.chain_trainer import ChainTrainer, SubjectChains
from ...training.photo_batches import HeldOut, PhotoBatches
from ...training.rate_search import HELD_OUT_LEVELS, FoundRate, find_rate
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
        losses: Of each step and subject, (step, subjects).
        found: The rate of each subject, if they had to be found.
    """

    step: int
    flats: Tensor
    seconds: float
    losses: Tensor
    found: Sequence[FoundRate] = ()


@torch.inference_mode(False)
@torch.enable_grad()
def train_cohort(
    host: Host,
    start: ChainStart,
    photos: Sequence[TrainingSet],
    options: AdaptationOptions,
    snapshots: Sequence[int],
    seeds: Sequence[int] | None = None,
    on_look: Callable[[int, float], None] | None = None,
) -> list[Snapshot]:
    """Learn several subjects at once.

    Photos, noise, noise levels and schedule of each subject are those of `adapt` with its seed.

    Args:
        host: The base model; it is left unchanged.
        start: The method.
        photos: One training set a subject, all pictures of one size.
        options: Steps, batch, optimizer, rates, schedule.
        snapshots: Steps after which the factors are kept, rising; 0 for the start.
        seeds: Seed of each subject; ``options.seed`` for all if None.
        on_look: Called every ``read_every`` steps with the step and its mean loss; it may raise.

    Raises:
        InvalidOptions: If the captions of several subjects do not fit into one pass of this model.
        UnusableReferences: If photos are not usable.
        TrainingDiverged: If a loss or a factor becomes NaN or infinite.
    """
    own = [replace(options, seed=seed) for seed in seeds or [options.seed] * len(photos)]
    for one in photos:
        one.check(host.downscale, options.batch_size)
    batches = [PhotoBatches(host, one, each) for one, each in zip(photos, own, strict=True)]
    trainer, began, kept = ChainTrainer(host, start, options, len(photos)), time.monotonic(), list[Snapshot]()
    found, losses = list[FoundRate](), [torch.zeros(0, len(photos))]
    if options.learning_rate == "auto":
        found = [_found_rate(host, start, *each) for each in zip(photos, own, batches, strict=True)]
        trainer.use_rates([one.rate * options.rate_factor for one in found])
    with host.training(), trainer.chains.inject():
        for step in range(max(snapshots) + 1):
            if on_look is not None and step % options.read_every == 0 < step:
                trainer.read_losses()
                on_look(step, float(losses[-1].mean()))
            if step in snapshots:
                trainer.read_losses()
                seconds = (time.monotonic() - began) / len(photos)
                kept.append(Snapshot(step, trainer.result(), seconds, torch.cat(losses).cpu(), found))
            if step < max(snapshots):
                batch = _joined(host, [one.draw(step) for one in batches])
                trainer.spread_over(batch)
                each = denoising_losses(host, batch)
                trainer.backward(each @ batch.weights)
                trainer.step()
                losses.append((each.detach() * batch.weights).view(1, len(photos), -1).sum(2).to(losses[0].device))
    return kept


def _joined(host: Host, batches: Sequence[Batch]) -> Batch:
    if len({tuple(one.latents.shape[1:]) for one in batches}) > 1:
        raise InvalidOptions("The photos of these subjects differ in size, so they do not fit into one pass.")
    batch = Batch.joined(batches)
    if len(batches) > 1 and len(host.passes(batch.conditioning)) > 1:
        raise InvalidOptions("This model takes the captions of several subjects in separate passes.")
    return batch


def _found_rate(
    host: Host, start: ChainStart, photos: TrainingSet, options: AdaptationOptions, batches: PhotoBatches
) -> FoundRate:
    trainer, noise = ChainTrainer(host, start, options), HeldOut(host, photos.part(0, 1), HELD_OUT_LEVELS, options.seed)

    def trial(number: int, rate: float) -> None:
        batch = batches.draw(number)
        trainer.backward(denoising_losses(host, batch) @ batch.weights)
        trainer.trial_step(rate)

    with host.training(), trainer.chains.inject():
        return find_rate(trial, noise.loss, options.steps)


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
    """Sample every subject's prompts, all in one batch.

    Args:
        host: The base model; it is left unchanged.
        start: The method that the factors belong to.
        flats: (subjects, layout.total).
        prompts: As many for each subject.
        size_px: Width and height.
        steps: Sampling steps.
        guidance: Classifier-free guidance; 1 is none.
        seeds: Of each subject's starting noise, which therefore does not depend on the other subjects.

    Returns:
        (subjects, prompts, 3, size_px, size_px) in [0, 1], on the CPU.
    """
    subjects, each = len(prompts), len(prompts[0])
    count, noise = subjects * each, starting_noise(host, seeds, each, size_px).flatten(0, 1)
    chains = SubjectChains(host, start)
    mids, ups = start.layout.unpack(flats.to(host.device))

    def use(done: int, total: int) -> None:
        chains.spread(mids, ups, torch.full((count,), 1 - done / total))

    with chains.inject():
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
