"""Progress of an adaptation: what a report measures, saves and returns to, and the identity made from it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from .. import __version__
from ..files.checkpoint import (
    Checkpoint,
    load_checkpoint,
    losing_only_the_checkpoint,
    refusing_damage,
    require_tensors,
    save_checkpoint,
)
from ..files.identity import Identity, IdentityLayer, IdentityMetadata, self_contained
from ..files.prior import Prior, prior_sha256
from ..model.base_weights import SAMPLE, weights_sample
from ..model.host import Host
from ..photos.training_set import TrainingSet
from .adaptation_options import AdaptationOptions
from .chain_trainer import ChainTrainer
from .loss_course import has_risen
from .rate_search import FoundRate
from .starts import ChainStart

__all__ = ["AdaptationState", "LearnedRecord", "learned_identity", "result_step", "risen_note"]

_KIND = "adaptation"
_ROSE_AFTER = "loss_rose_after"


class AdaptationState:
    """The losses of an adaptation, its best factors, and the last state in which everything was finite.

    Args:
        trainer: Of one subject.
        options: Settings.
        digest: Hash of whatever decides the run; only an equal run may continue its checkpoint.
    """

    def __init__(self, trainer: ChainTrainer, options: AdaptationOptions, digest: str) -> None:
        self.trainer, self.options, self._digest = trainer, options, digest
        self.losses: list[float] = []
        """One per step."""
        self.validation: list[tuple[int, float]] = []
        """(step, loss on the held-out photos) pairs."""
        self.found: FoundRate | None = None
        """The learning rate, where it had to be found."""
        self._best: Tensor | None = None
        self._lowest, self._lowest_step = math.inf, 0
        self.keep()

    @property
    def kept_step(self) -> int:
        """Step of the last good state."""
        return self._kept.step

    def read(self) -> float:
        """Fetch the losses since the last look; returns their mean.

        Raises:
            TrainingDiverged: If a loss or a factor became NaN or infinite.
        """
        fresh = self.trainer.read_losses()
        self.losses += fresh
        return sum(fresh) / len(fresh)

    def keep_lowest(self, loss: float) -> None:
        """Remember the factors if the mean loss of this look is the lowest so far, in case that it rises later."""
        if loss < self._lowest:
            self._best, self._lowest, self._lowest_step = self.trainer.result()[0], loss, self.trainer.steps

    def validated(self, loss: float, factors: Tensor) -> None:
        """Note the loss on the held-out photos with these factors, (total,)."""
        if self.options.early_stop_patience and loss < min((v for _, v in self.validation), default=math.inf):
            self._best = factors
        self.validation.append((self.trainer.steps, loss))

    def steps_left(self) -> Iterator[int]:
        """Steps still to take; none once the held-out photos have not improved for long enough."""
        while self.trainer.steps < self.options.steps and not self._is_stale:
            yield self.trainer.steps

    @property
    def stop_reason(self) -> str:
        """Why there are no steps left."""
        if self.trainer.steps == self.options.steps:
            return "finished"
        return f"no improvement on the held-out photos since step {self._best_step}"

    @property
    def _is_stale(self) -> bool:
        patience = self.options.early_stop_patience
        if not patience or not self.validation:
            return False
        return sum(step > self._best_step for step, _ in self.validation) >= patience

    @property
    def _best_step(self) -> int:
        return min(self.validation, key=lambda pair: pair[1])[0]

    @property
    def needs_rate(self) -> bool:
        """Whether the learning rate has still to be found."""
        return self.options.learning_rate == "auto" and not self.options.finds_itself and self.found is None

    def use(self, found: FoundRate) -> None:
        """Train with a rate that was found."""
        self.found = found
        self.trainer.use_rates([found.rate * self.options.rate_factor])

    def keep(self) -> None:
        """Keep the present state as the last good one."""
        copies = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        state = {
            "optimizer": self.trainer.state(),
            "losses": list(self.losses),
            "validation": [list(pair) for pair in self.validation],
            "found_rate": self.found.record() if self.found else None,
            "lowest": [self._lowest, self._lowest_step] if self._lowest_step else [],
        }
        self._kept = Checkpoint(_KIND, self.trainer.steps, self._digest, copies, state)

    def go_back(self) -> None:
        """Resume from the last good state."""
        self._restore(self._kept)

    def save(self, path: Path) -> None:
        """Write the last good state; a full disk loses it, not the run."""
        with losing_only_the_checkpoint():
            save_checkpoint(path, self._kept)

    @property
    def checkpoint_bytes(self) -> int:
        """Approximate size of a checkpoint on disk: the factors, their moments and their best."""
        return self.trainer.vector.flat.nbytes * (3 + (self._best is not None))

    def load(self, path: Path) -> int:
        """Resume from a file; returns the steps done.

        Raises:
            DamagedFile: If it is damaged, or its tensors are not those of this run.
            InvalidOptions: If it belongs to another run.
        """
        saved = load_checkpoint(path, kind=_KIND, digest=self._digest, usual_bytes=self.checkpoint_bytes)
        require_tensors(saved, path, self._tensors(), may={"best": self.trainer.vector.flat})
        with refusing_damage(path):
            self._restore(saved)
        self.keep()
        return self.trainer.steps

    def _tensors(self) -> dict[str, Tensor]:
        """What changes besides the optimizer; the tensors are the state's own."""
        mids, ups = self.trainer.vector.parameters
        tensors = {"mids": mids, "ups": ups, "best": self._best}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def _restore(self, saved: Checkpoint) -> None:
        tensors, state = saved.tensors, saved.state
        self.trainer.restore(tensors["mids"], tensors["ups"], state["optimizer"], saved.step)
        self._best = tensors["best"].to(self.trainer.vector.flat.device) if "best" in tensors else None
        self.losses = [float(loss) for loss in state["losses"]]
        self.validation = [(int(step), float(loss)) for step, loss in state["validation"]]
        if state.get("found_rate"):
            self.use(FoundRate.of(state["found_rate"]))
        lowest, step = state.get("lowest") or (math.inf, 0)  # earlier releases did not keep it
        self._lowest, self._lowest_step = float(lowest), int(step)

    def identity(self, prior: Prior, host: Host, photos: TrainingSet, *, best: bool = True) -> Identity:
        """What was learned.

        Args:
            prior: What it was learned from.
            host: The base model.
            photos: Its training photos.
            best: Take the factors that were best on held-out photos, if there are, or those of before the loss rose;
                else the latest.
        """
        rose = not self.validation and self._lowest_step > 0 and has_risen(self.losses)
        earlier = self._best if best and (self.validation or rose) else None
        flat = self.trainer.result()[0] if earlier is None else earlier
        metrics: dict[str, Any] = {"held_out_loss": min(loss for _, loss in self.validation)} if self.validation else {}
        if rose and best:
            metrics[_ROSE_AFTER] = self._lowest_step
        steps = self.trainer.steps
        record = LearnedRecord(self.options, steps, self.losses, self.found, metrics)
        return learned_identity(host, prior, photos, self.trainer.start, flat, record)


@dataclass(frozen=True)
class LearnedRecord:
    """How a subject was learned, for its file.

    Args:
        options: Settings.
        steps: Taken.
        losses: One per step.
        found: The learning rate, where it had to be found.
        metrics: Other entries of the record.
    """

    options: AdaptationOptions
    steps: int
    losses: Sequence[float]
    found: FoundRate | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])


def learned_identity(
    host: Host, prior: Prior, photos: TrainingSet, start: ChainStart, flat: Tensor, record: LearnedRecord
) -> Identity:
    """An identity from its factors.

    Args:
        host: The base model.
        prior: What it was learned from.
        photos: Its training photos.
        start: The chain's start, which knows where each factor lies.
        flat: The factors, (start.layout.total,).
        record: How it was learned.
    """
    mids, ups = start.layout.unpack(flat.detach().float().cpu())
    layers = {name: IdentityLayer(mids[name].clone(), ups[name].clone()) for name in sorted(mids)}
    metrics: dict[str, Any] = {"final_loss": sum(record.losses[-10:]) / max(len(record.losses[-10:]), 1)}
    metrics |= record.metrics
    if record.found:
        metrics["found_rate"] = record.found.record()
    metrics[SAMPLE] = [*weights_sample(host.model, start.targets, layers)]
    metadata = IdentityMetadata(
        prior_sha256=prior_sha256(prior),
        prior_name=prior.metadata.name,
        base_fingerprint=prior.metadata.base_fingerprint,
        family=host.family,
        trigger=photos.trigger,
        class_word=photos.class_word,
        settings=json.loads(json.dumps(dataclasses.asdict(record.options))),
        seed=record.options.seed,
        steps=record.steps,
        metrics=metrics,
        photo_hashes=list(photos.photo_hashes),
        created_with=f"metalora_core {__version__}",
    )
    learned = Identity(layers, metadata)
    return self_contained(learned, prior) if prior.personal else learned


def result_step(record: IdentityMetadata) -> int:
    """The step that a run's result is of: its last, or the one before the loss rose."""
    return int(cast("int", record.metrics.get(_ROSE_AFTER) or record.steps))


def risen_note(record: IdentityMetadata) -> str:
    """That the loss rose while an identity was learned, and what was kept; empty if it did not."""
    step = record.metrics.get(_ROSE_AFTER)
    return (
        f"The loss rose after step {step}, so what was learned up to there is kept. Lower the learning rate, or stop "
        "there."
        if step
        else ""
    )
