"""Stage 1: learn what the subjects of a domain share.

Each target's chain is ``scale · up_s · mid_s · meta_down``: meta_down is shared, (mid_s, up_s) are subject s's own
factors. They are ``common + residual_s``; the residuals are in the bank, the common identity is the warm start. At the
end the per-subject factors are discarded.

Source: Meta-LoRA, arXiv 2503.22352, section 3.2; the warm start goes beyond it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from .checks import plain_line
from .errors import InvalidOptions
from .files.atomic import UnwritableFile, require_writable
from .files.checkpoint import resumed
from .files.prior import Prior
from .files.row_file import row_files
from .inject import Injection
from .model.base_weights import SAMPLE, weights_sample
from .model.families import default_patterns
from .model.host import Host
from .model.targets import Target, choose_targets, fingerprint
from .training.batches import Batch, denoising_losses
from .training.checkpoint_clock import CheckpointClock
from .training.meta_options import MetaTrainingOptions
from .training.meta_state import MetaState, gradient_of
from .training.progress import MetaTrainingProgress
from .training.ranks import Ranks
from .training.retries import StepPlan, kept_on_failure, train_with_retries
from .training.subject_batches import SubjectBatches, SubjectDataset

__all__ = ["meta_train"]

_Made = TypeVar("_Made")
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
    save: Callable[[Prior], Prior] | None = None,
) -> Prior:
    """Train a prior for a domain.

    What had to be changed on the way, such as recomputing blocks where a step did not fit into memory, is logged.

    In an initialised ``torch.distributed`` group, all processes make one prior together: each trains the factors of its
    own subjects, and the shared factors' gradients are averaged. Call it in all of them, with the same arguments and a
    folder for the checkpoint that all of them see; each returns the same prior. Another number of ranks can resume;
    it has as many subjects per rank, so another total batch.

    Args:
        host: The base model; it is left unchanged.
        subjects: Subjects of one domain, as latents and captions.
        options: Settings.
        earlier: A prior to start from, with other settings or more subjects; its ranks and layers must be the same.
        on_progress: Called every ``read_every`` steps, on the first rank; it may raise ``TrainingCancelled``.
        checkpoint: Written every ``checkpoint_every`` steps or 30 s, at the end and whenever the run is stopped from
            outside; if it exists, the run resumes from it and ends bit-identical to an uninterrupted one. What belongs
            to single subjects is in a file beside it, to which each checkpoint writes only what changed.
        save: Saves the prior and returns it as saved; on the first rank. It is called instead of the checkpoint at the
            end: on a disk that fills up the result comes first. If it raises, that checkpoint is written; else the
            checkpoint is removed.

    Returns:
        The prior.

    Raises:
        InvalidOptions: If the settings contradict each other or the data, or ranks differ in them or in whether they
            see the checkpoint.
        UnwritableFile: If the checkpoint's folder is not writable or too full.
        IncompatibleBaseModel: If a layer of the host's targets is not in its model.
        TrainingDiverged: If the loss or a shared factor becomes NaN or infinite; ``last_good`` is the prior of the last
            good step.
        OutOfMemory: If a pass over one sample does not fit even with every saving.
    """
    options = options or MetaTrainingOptions()
    options.check()
    targets = choose_targets(host.targets(), options.include or default_patterns(host.family), options.exclude)
    ranks = Ranks.present(host.device)
    _require_one_run(ranks, options, targets, subjects)
    batches = SubjectBatches(host, subjects, options, ranks)
    state = MetaState(host, targets, options, len(subjects), earlier, ranks)
    # Each rank encoded the photos itself, and cards of different kinds differ in the last bits.
    state.digest = ranks.of_first(_digest(host, options, targets, subjects, state))
    if checkpoint is not None:
        _resume(state, checkpoint)
    run = _Run(host, targets, state, batches, on_progress, checkpoint)
    if state.step == options.steps:  # the checkpoint of a run that was stopped at its very end
        run.report(state.losses[-1][1])
    batches.encode_captions()

    def trained() -> Prior:
        picture_px = subjects.latents_of(0).shape[-1] * host.downscale
        made = state.prior(host.family, subjects.domain, len(subjects), targets, picture_px)
        made.metadata.training[SAMPLE] = [*weights_sample(host.model, targets, made.layers)]
        return made

    # A checkpoint is kept even if the run diverges: it may hold hours of work, and a card's error may not happen again.
    kept = kept_on_failure(
        state, checkpoint, trained, forget=False, saves=save is not None, can_save=lambda: run.stopped_together
    )
    with kept:
        if ranks.count > 1:  # a step that fails on one rank alone cannot be repeated
            run.train(StepPlan.of(host))
        else:
            train_with_retries(host, batches.samples, run.train, state)
        made = trained()
        return run.on_first(lambda: save(made)) or made if save is not None else made


@dataclass
class _Run:
    """The loop, and what it does at every report."""

    host: Host
    targets: Sequence[Target]
    state: MetaState
    batches: SubjectBatches
    on_progress: Callable[[MetaTrainingProgress], None] | None
    checkpoint: Path | None
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Start the clock of the checkpoints."""
        self.clock = CheckpointClock(self.state.options.checkpoint_every)
        self.stopped_together = self.state.ranks.count == 1
        """Whether all ranks left the loop at the same place, and can still save together."""

    def train(self, plan: StepPlan) -> None:
        """Train to the last step: per-subject factors on support, shared factors on query photos, or both at once."""
        state, options, batches = self.state, self.state.options, self.batches
        with self.host.training(), Injection(self.host.model, self.targets, state.factors) as injection:
            injection.require_all()
            for step in range(state.step, options.steps):
                rates, chosen = state.rates_at(step), batches.subjects_at(step)
                bank, rows = state.bank_for(chosen)
                for supports, query in options.passes(step):
                    for support in supports:
                        slots = state.slots(bank, rows)
                        self._pass(plan, slots, batches.draw(chosen, support, "support", step))
                        bank.update(rows, gradient_of(slots), rates)
                    slots = state.slots(bank, rows)
                    loss = self._pass(plan, slots, batches.draw(chosen, query, "query", step), shared=True)
                    state.unread.append(loss)
                    state.update_shared(slots)
                    if not supports:
                        bank.update(rows, gradient_of(slots), rates)
                state.step += 1
                if options.stops_at(state.step):
                    self._look()
                state.keep_if_large()

    def _pass(self, plan: StepPlan, slots: Tensor, batch: Batch, *, shared: bool = False) -> Tensor:
        """Gradients of a batch's loss for per-subject factors and, if asked, meta_down; returns the unread mean."""
        losses = list[Tensor]()
        self.state.train_shared(shared)
        owners = [sample * len(slots) // len(batch) for sample in range(len(batch))]
        for part, own in zip(plan.cut(batch), plan.cut(owners), strict=True):
            for rows in self.host.passes(part.conditioning):
                self.state.use(slots, [own[row] for row in rows])
                losses.append(denoising_losses(self.host, part[rows]))
                self.state.backward(losses[-1] @ part.weights[rows])
                losses[-1] = losses[-1].detach()
        self.state.unscale(slots)
        return torch.cat(losses).mean()

    def _look(self) -> None:
        state, ends = self.state, self.state.step == self.state.options.steps
        loss = state.read()
        state.keep()
        ranks = state.ranks
        due = self.checkpoint is not None and not ends and self.clock.due(state.step)
        if self.checkpoint is not None and ranks.any(ranks.first and due):
            state.save(self.checkpoint)
        self.report(loss)

    def report(self, loss: float) -> None:
        """Report progress to the listener; if it raises, all ranks stop."""
        seconds, losses = time.monotonic() - self.began, [value for _, value in self.state.losses]
        progress = MetaTrainingProgress(self.state.step, self.state.options.steps, loss, seconds, losses)
        tell = self.on_progress
        self.on_first(lambda: tell(progress) if tell else None)

    def on_first(self, work: Callable[[], _Made]) -> _Made | None:
        """Do something on the first rank; what it raises stops all of them."""
        try:
            return self.state.ranks.attempt(lambda: work() if self.state.ranks.first else None, Exception)
        except Exception:
            self.stopped_together = True
            raise


def _require_one_run(
    ranks: Ranks, options: MetaTrainingOptions, targets: Sequence[Target], subjects: SubjectDataset
) -> None:
    """Refuse on all ranks if one was started with something else; the folder of its bank is its own affair."""
    if ranks.count == 1:
        return
    decisive = (replace(options, bank_folder=None), fingerprint(targets), len(subjects), subjects.domain)
    own, photos = hashlib.sha256(repr(decisive).encode()), 0
    for subject in range(len(subjects)):
        captions = subjects.captions_of(subject)
        photos += len(captions)
        own.update(repr((captions, tuple(subjects.latents_of(subject).shape))).encode())
    if ranks.any(own.hexdigest() != ranks.of_first(own.hexdigest())):
        raise InvalidOptions(
            f"The ranks do not all have the same options, photos and captions; this one has {len(subjects)} subjects "
            f"with {photos} photos. Start all of them with the same command and the same folder of subjects."
        )


def _resume(state: MetaState, checkpoint: Path) -> None:
    """Restore the state in a checkpoint, if there is one; all ranks do, or none."""
    ranks, there = state.ranks, sum(one.stat().st_size for one in row_files(checkpoint))
    ranks.attempt(lambda: require_writable(checkpoint, state.needed_bytes - there), UnwritableFile)
    found = checkpoint.exists()
    if ranks.any(found) and ranks.any(not found):
        raise InvalidOptions(
            f"Not every rank sees the checkpoint in {plain_line(str(checkpoint.parent), 300)}; put --output on a disk "
            "that all of them share."
        )
    if found and not resumed(checkpoint, state.load, moves=ranks.first):
        state.go_back()


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
