"""Everything that a step of an adaptation changes, and the identity that is made of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..chain import ChainFactors
from ..files.checkpoint import Checkpoint, keep_checkpoint, load_checkpoint, refusing_damage, require_tensors
from ..files.identity import Identity, IdentityLayer, IdentityMetadata
from ..files.prior import Prior, prior_sha256
from ..model.host import Host
from ..photos.training_set import TrainingSet
from .adaptation_options import AdaptationOptions
from .optimizers import evaluation_mode, make_optimizer, restore_optimizer, scale_learning_rates, training_mode
from .schedule import warmup_cosine
from .starts import ChainStart
from .trained_vector import TrainedVector

__all__ = ["AdaptationState"]

_KIND = "adaptation"


class AdaptationState:
    """Factors of one subject in two flat vectors, their optimizer and what was measured on the way.

    Args:
        host: Gives device and dtype.
        start: Frozen factors, and first values of the trained ones.
        options: Settings.
    """

    def __init__(self, host: Host, start: ChainStart, options: AdaptationOptions) -> None:
        self.options, self.layout, self._dtype = options, start.layout, host.dtype
        self.step = 0
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        flat = start.flat.to(host.device, torch.float32)
        self._trained = TrainedVector(self.layout, flat, host.dtype)
        self.best: Tensor | None = None
        self._rates = [options.mid_learning_rate, options.up_learning_rate]
        groups = [{"params": [p], "lr": rate} for p, rate in zip(self._trained.parameters, self._rates, strict=True)]
        self._optimizer = make_optimizer(options.optimizer, groups, weight_decay=options.weight_decay)
        training_mode(self._optimizer)
        self.factors = {
            name: ChainFactors(_ready(down, host), flat, flat, start.scale) for name, down in start.downs.items()
        }
        self._at_trained = False
        self.use()
        self._unread: list[Tensor] = []

    def use(self, flat: Tensor | None = None) -> None:
        """Point the injected chains at the trained vectors, or at another flat vector of all factors."""
        if flat is not None:
            self._point_at(*self.layout.unpack(flat.to(self._dtype)))
        elif not self._at_trained:
            self._point_at(*self._trained.factors)
        self._at_trained = flat is None
        if flat is None:
            self._trained.cast()

    def _point_at(self, mids: Mapping[str, Tensor], ups: Mapping[str, Tensor]) -> None:
        for name, chain in self.factors.items():
            chain.mid, chain.up = mids[name], ups[name]

    @property
    def loss_scale(self) -> float:
        """What the loss has to be multiplied by before its backward pass."""
        return self._trained.loss_scale

    def update(self, loss: Tensor) -> None:
        """One optimizer step with the gradients that are there; nothing is read from the device."""
        options = self.options
        factor = warmup_cosine(self.step, options.steps, options.warmup_steps, options.final_rate)
        scale_learning_rates(self._optimizer, self._rates, factor)
        self._trained.gather_gradients()
        self._optimizer.step()
        self._trained.zero_gradients()
        self.step += 1
        self._unread.append(loss.detach())

    def read_losses(self) -> float:
        """Fetch the losses since the last look; returns their mean (one sync with the device)."""
        fresh = torch.stack(self._unread).tolist()
        self._unread.clear()
        self.losses += fresh
        return sum(fresh) / len(fresh)

    def flat(self) -> Tensor:
        """All factors in one vector, a copy."""
        return self._trained.flat.clone()

    def result(self) -> Tensor:
        """The factors to keep by now; a schedule-free optimizer's are its average."""
        evaluation_mode(self._optimizer)
        flat = self.flat()
        training_mode(self._optimizer)
        return flat

    def snapshot(self, digest: str) -> Checkpoint:
        """A copy of the whole state between two steps."""
        copies = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        state = {
            "optimizer": _copied(self._optimizer.state_dict()),
            "losses": list(self.losses),
            "validation": [list(pair) for pair in self.validation],
        }
        return Checkpoint(_KIND, self.step, digest, copies, state)

    def _tensors(self) -> dict[str, Tensor]:
        """What changes beside the optimizer; the tensors are the state's own."""
        mids, ups = self._trained.parameters
        tensors = {"mids": mids, "ups": ups, "best": self.best}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint takes on the disk, nearly: the factors, their moments and their best."""
        return self._trained.flat.nbytes * (3 + (self.best is not None))

    def save(self, path: Path, snapshot: Checkpoint) -> None:
        """Write a snapshot; a full disk costs it, not the run."""
        keep_checkpoint(path, snapshot)

    def load(self, path: Path, digest: str) -> int:
        """Continue from a file; returns the steps done.

        Raises:
            DamagedFile: If it is damaged, or its tensors are not those of this run.
        """
        saved = load_checkpoint(path, kind=_KIND, digest=digest, usual_bytes=self.checkpoint_bytes)
        require_tensors(saved, path, self._tensors(), may={"best": self._trained.flat})
        with refusing_damage(path):
            self.restore(saved)
            measured = [step for step, _ in self.validation]
            if not 0 < self.step <= self.options.steps or len(self.losses) != self.step:
                raise ValueError(f"step {self.step} of {self.options.steps} with {len(self.losses)} losses")
            if not all(map(math.isfinite, (*self.losses, *(loss for _, loss in self.validation)))):
                raise ValueError("a loss is not finite")
            if measured != sorted({step for step in measured if 0 < step <= self.step}):
                raise ValueError(f"measured on held-out photos at the steps {measured[:5]}, at step {self.step}")
        return self.step

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a snapshot."""
        tensors = saved.tensors
        self._trained.flat.copy_(torch.cat([tensors["mids"], tensors["ups"]]))
        self._trained.zero_gradients()
        self.best = tensors["best"].to(self._trained.flat.device) if "best" in tensors else None
        restore_optimizer(self._optimizer, saved.state["optimizer"], saved.step)
        self.losses = [float(loss) for loss in saved.state["losses"]]
        self.validation = [(int(step), float(loss)) for step, loss in saved.state["validation"]]
        self._unread.clear()
        self.step = saved.step

    def identity(self, flat: Tensor, host: Host, prior: Prior, photos: TrainingSet, steps: int) -> Identity:
        """An identity from a flat vector of factors."""
        mids, ups = self.layout.unpack(flat.detach().float().cpu())
        layers = {name: IdentityLayer(mids[name].clone(), ups[name].clone()) for name in sorted(self.layout.names)}
        metrics: dict[str, Any] = {"final_loss": sum(self.losses[-10:]) / max(len(self.losses[-10:]), 1)}
        if self.validation:
            metrics["held_out_loss"] = min(loss for _, loss in self.validation)
        metadata = IdentityMetadata(
            prior_sha256=prior_sha256(prior),
            prior_name=prior.metadata.name,
            base_fingerprint=prior.metadata.base_fingerprint,
            family=host.family,
            trigger=photos.trigger,
            class_word=photos.class_word,
            settings=json.loads(json.dumps(dataclasses.asdict(self.options))),
            seed=self.options.seed,
            steps=steps,
            metrics=metrics,
            photo_hashes=list(photos.photo_hashes),
            created_with=f"metalora_core {__version__}",
        )
        return Identity(layers, metadata)


def _ready(down: Tensor, host: Host) -> Tensor:
    # An inference tensor cannot be saved for the backward pass.
    return (down.clone() if down.is_inference() else down).to(host.device, host.dtype)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
