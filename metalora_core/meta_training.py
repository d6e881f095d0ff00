"""Stage 1: learn what the subjects of a domain share.

Each target's chain is ``scale · up_s · mid_s · meta_down``: meta_down is shared, (mid_s, up_s) is subject s's slot. A
slot is ``common + residual_s``; the residuals live in the bank, the common identity is the warm start. At the end the
slots are thrown away.

Source: Meta-LoRA, arXiv 2503.22352, section 3.2; the warm start goes beyond it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .errors import TrainingDiverged
from .files.atomic import require_writable
from .files.checkpoint import resumed
from .files.prior import Prior
from .inject import Injection
from .model.base_weights import SAMPLE, weights_sample
from .model.families import default_patterns
from .model.host import Host, passes_of
from .model.objective import loss_scale
from .model.targets import Target, choose_targets, fingerprint
from .training.bank import SlotRates
from .training.batches import Batch, CaptionCache, denoising_losses
from .training.meta_options import MetaTrainingOptions
from .training.meta_state import MetaState, gradient_of
from .training.optimizers import scale_learning_rates
from .training.progress import MetaTrainingProgress
from .training.schedule import warmup_cosine
from .training.subject_batches import SubjectBatches, SubjectDataset

__all__ = ["meta_train"]

_LEFT_OUT = "step_sizes=False, step_size_learning_rate=0.01, support_query_split=False, "
"""Settings of earlier releases, and zeros for the step sizes: with these in its hash their checkpoints resume."""


# A caller may sit in inference mode, as ComfyUI's executor does.
@torch.inference_mode(False)
@torch.enable_grad()
def meta_train(
    host: Host,
    subjects: SubjectDataset,
    options: MetaTrainingOptions | None = None,
    *,
    earlier: Prior | None = None,
    on_progress: Callable[[MetaTrainingProgress], None] | None = None,
    checkpoint: Path | None = None,
) -> Prior:
    """Train a prior for a domain.

    Args:
        host: The base model; it leaves as it came.
        subjects: Subjects of one domain, as latents and captions.
        options: Settings.
        earlier: A prior to go on from, with other settings or more subjects; its ranks and layers must be the same.
        on_progress: Called every ``read_every`` steps; it may raise ``TrainingCancelled``.
        checkpoint: Written every ``checkpoint_every`` steps and on cancelling; where it exists the run continues
            from it and ends bit-identical to an unbroken one.

    Returns:
        The prior, not yet saved.

    Raises:
        InvalidOptions: If the settings contradict each other or the data.
        UnwritableFile: If the checkpoint's folder is not writable or too full.
        TrainingDiverged: If the loss or a shared factor becomes NaN or infinite; the checkpoint keeps the last good
            state.
    """
    options = options or MetaTrainingOptions()
    options.check()
    targets = choose_targets(host.targets(), options.include or default_patterns(host.family), options.exclude)
    batches = SubjectBatches(subjects, options, host.objective)
    state, start = MetaState(targets, options, len(subjects), host.device, earlier), 0
    digest = _digest(host, options, targets, subjects, state)
    if checkpoint is not None:
        require_writable(checkpoint, state.checkpoint_bytes)
        if checkpoint.exists() and not (start := resumed(checkpoint, partial(state.load, digest=digest))):
            state = MetaState(targets, options, len(subjects), host.device, earlier)
    began = time.monotonic()

    def at_stop(step: int, loss: float) -> None:
        if checkpoint is not None and (step % options.checkpoint_every == 0 or step == options.steps):
            state.save(checkpoint, step, digest)
        if on_progress is None:
            return
        try:
            on_progress(MetaTrainingProgress(step, options.steps, loss, time.monotonic() - began))
        except BaseException:  # whatever the listener raises, a host's interrupt included, finished steps are kept
            if checkpoint is not None:
                state.save(checkpoint, step, digest)
            raise

    captions = CaptionCache(host, torch.device("cpu"))
    captions.prepare(caption for subject in range(len(subjects)) for caption in subjects.captions_of(subject))
    with host.training(), Injection(host.model, targets, state.factors) as injection:
        injection.require_all()
        _train(host, state, batches, captions, start, at_stop)
    picture_px = subjects.latents_of(0).shape[-1] * host.downscale
    made = state.prior(host.family, subjects.domain, len(subjects), targets, picture_px)
    made.metadata.training[SAMPLE] = [*weights_sample(host.model, targets, made.layers)]
    return made


def _train(
    host: Host,
    state: MetaState,
    batches: SubjectBatches,
    captions: CaptionCache,
    start: int,
    at_stop: Callable[[int, float], None],
) -> None:
    """The loop: slots of the batch learn from support photos, shared factors from query photos, or both at once."""
    options, unread = state.options, list[Tensor]()
    rounds = options.rounds
    if start == options.steps:  # the file of a run that was stopped at its very end
        at_stop(start, state.losses[-1][1])
    for step in range(start, options.steps):
        factor = warmup_cosine(step, options.steps, options.warmup_steps, options.final_rate)
        rates = SlotRates(options.mid_learning_rate * factor, options.up_learning_rate * factor, options.slot_decay)
        scale_learning_rates(state.optimizer, state.base_rates, factor)
        chosen = batches.subjects_at(step)
        bank, rows = state.bank_for(chosen)

        passes = step * sum(rounds)
        for query, support_steps in enumerate(rounds, start=step * len(rounds)):
            for support in range(passes, passes + support_steps):
                batch = batches.draw(chosen, support, "support", step)
                slots = state.slots(bank, rows)
                _backward(host, state, slots, batch, captions, train_shared=False)
                bank.update(rows, gradient_of(slots), rates)
            passes += support_steps
            batch = batches.draw(chosen, query, "query", step)
            slots = state.slots(bank, rows)
            unread.append(_backward(host, state, slots, batch, captions, train_shared=True))
            state.update_shared(slots)
            if not support_steps:
                bank.update(rows, gradient_of(slots), rates)

        done = step + 1
        if done % options.read_every == 0 or done % options.checkpoint_every == 0 or done == options.steps:
            loss = _read(unread, done)
            state.require_finite(done)
            state.losses.append([float(done), loss])
            at_stop(done, loss)


def _backward(
    host: Host, state: MetaState, slots: Tensor, batch: Batch, captions: CaptionCache, *, train_shared: bool
) -> Tensor:
    """Gradients of the summed loss to the slots and, if asked, to meta_down; returns the mean loss, unread."""
    for down in state.meta_downs.values():
        down.requires_grad_(train_shared)
    repeats = len(batch.captions) // len(slots)
    conditioning = captions.encode(batch.captions)
    scale, losses = loss_scale(host.dtype), list[Tensor]()
    for rows in passes_of(host, conditioning, len(batch.captions)):
        _use(state, slots, [row // repeats for row in rows])
        given = {name: value[rows] for name, value in conditioning.items()}
        losses.append(denoising_losses(host, batch.latents[rows], batch.noise[rows], batch.t[rows], given))
        # The sum gives each slot the gradient that an adaptation with batch 1 would see; Adam does not mind the factor.
        (losses[-1].sum() * scale).backward()
    if scale != 1:
        for leaf in (slots, *state.meta_downs.values()):
            if leaf.grad is not None:
                leaf.grad.div_(scale)
    return torch.cat([loss.detach() for loss in losses]).mean()


def _use(state: MetaState, slots: Tensor, rows: list[int]) -> None:
    """Let the chains be those of these slots."""
    # One alone has no batch axis: a layer may then lay out its rows as it likes.
    alone = slots[rows[0]] if len(rows) == 1 else None
    every = rows == list(range(len(slots)))
    mids, ups = state.layout.unpack(alone if alone is not None else slots if every else slots[rows])
    for name, chain in state.factors.items():
        chain.mid, chain.up = mids[name], ups[name]


def _read(unread: list[Tensor], step: int) -> float:
    loss = float(torch.stack(unread).mean())
    unread.clear()
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"The loss became {loss} at or before step {step}. Lower the learning rates (meta_learning_rate first) or "
            "raise warmup_steps; the last checkpoint holds the last good state.",
            step=step,
        )
    return loss


def _digest(
    host: Host,
    options: MetaTrainingOptions,
    targets: Sequence[Target],
    subjects: SubjectDataset,
    start: MetaState,
) -> str:
    decisive = (options, fingerprint(targets), host.weights_digest(), len(subjects), subjects.domain)
    text = repr(decisive).replace("support_photos=", f"{_LEFT_OUT}support_photos=", 1)
    digest = hashlib.sha256(text.encode())
    for tensor in (*start.meta_downs.values(), start.common, torch.zeros(len(targets), 2)):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for subject in range(len(subjects)):
        digest.update(subjects.latents_of(subject).float().cpu().contiguous().numpy().tobytes())
        digest.update("\n".join(subjects.captions_of(subject)).encode())
    return digest.hexdigest()
