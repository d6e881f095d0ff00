"""Everything that a step of meta-training changes, and the prior made from it at the end."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..chain import ChainFactors, SlotLayout
from ..errors import DamagedFile, InvalidOptions, TrainingDiverged
from ..files.atomic import UnwritableFile
from ..files.checkpoint import (
    Checkpoint,
    load_checkpoint,
    losing_only_the_checkpoint,
    refusing_damage,
    require_tensors,
    save_checkpoint,
)
from ..files.metadata import summarise
from ..files.prior import Prior, PriorLayer
from ..model.host import Host
from ..model.objective import loss_scale
from ..model.targets import Target, rank_for
from .bank import IdentityBank, SlotRates
from .meta_options import MetaTrainingOptions
from .optimizers import copied_state, make_optimizer, restore_optimizer, scale_learning_rates
from .prior_record import prior_record
from .ranks import Ranks
from .saved_bank import SavedBank
from .schedule import warmup_cosine
from .seeds import step_generator

__all__ = ["MetaState", "gradient_of"]

_LOG = logging.getLogger(__name__)
_KIND = "meta-training"
_MOST_KEPT_BYTES = 2 * 1024**3
"""Largest size of the copies of the bank's rows since the last good state."""


class MetaState:
    """The shared factors, the bank and their optimizers.

    Args:
        host: Gives the dtype and the device of the shared factors; the bank stays on the CPU.
        targets: Adapted layers.
        options: Settings.
        subjects: How many there are.
        earlier: Prior to start from; its layers and ranks must be this run's.
        ranks: The processes that train together; the bank has the rows of this one's own subjects.
    """

    def __init__(
        self,
        host: Host,
        targets: Sequence[Target],
        options: MetaTrainingOptions,
        subjects: int,
        earlier: Prior | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        generator, device = step_generator(options.seed, "initial values"), host.device
        self.options, self._loss_scale, self.ranks = options, loss_scale(host.dtype), ranks or Ranks()
        self.meta_downs = {
            t.name: (torch.randn(options.r_meta, *t.shape[1:], generator=generator) / t.shape[1] ** 0.5).to(device)
            for t in targets
        }
        r_mids = {t.name: rank_for(t.name, options.r_mid, options.rank_by_pattern) for t in targets}
        self.layout = SlotLayout.of(self.meta_downs, {t.name: t.shape[0] for t in targets}, r_mids)
        self.common = self.layout.cold_start(generator).to(device)
        self.factors = {
            name: ChainFactors(down, torch.empty(shape), torch.empty(self.layout.up_shapes[name]), options.scale)
            for (name, down), shape in zip(self.meta_downs.items(), self.layout.mid_shapes.values(), strict=True)
        }
        rows, folder = 1 if options.inner_steps else subjects, options.bank_folder
        folder = folder / self.ranks.name.strip() if folder and self.ranks.name else folder
        self.bank = self._new_bank(max(len(self.ranks.own(rows)), 1), folder)
        self._saved_bank = SavedBank(self.bank, rows, self.ranks)
        groups: list[dict[str, Any]] = [
            {"params": list(self.meta_downs.values()), "lr": options.meta_learning_rate,
             "weight_decay": options.meta_weight_decay},
        ]  # fmt: skip
        if options.warm_start == "learned":
            groups.append({"params": [self.common], "lr": options.common_learning_rate, "weight_decay": 0.0})
        self._rates = [float(group["lr"]) for group in groups]
        self.optimizer = make_optimizer("adamw", groups)
        self.step = 0
        """Outer steps done."""
        self.digest = ""
        """Hash of whatever decides the run; only an equal run may continue its checkpoint."""
        self.losses: list[list[float]] = []
        """[step, mean loss since the one before] of every report."""
        self.unread: list[Tensor] = []
        """Losses of the query passes since the last report."""
        self.earlier: dict[str, Any] = {}
        if earlier is not None:
            self._start_from(earlier)
        self.keep()

    def _start_from(self, prior: Prior) -> None:
        """Take over the shared factors of an earlier prior: meta_down, and the warm start if it has one.

        Raises:
            InvalidOptions: If its layers or ranks are not those of this run.
        """
        mids, ups = self.layout.unpack(self.common)
        findings: list[str] = []
        for name, down in self.meta_downs.items():
            layer = prior.layers.get(name)
            given = (layer.meta_down, layer.mid_init, layer.up_init) if layer else (None, None, None)
            for part, own, new in zip(("meta_down", "mid", "up"), (down, mids[name], ups[name]), given, strict=True):
                if new is None and part != "meta_down":
                    continue
                if new is None or new.shape != own.shape:
                    found = "nothing" if new is None else tuple(new.shape)
                    findings.append(f"{part} of {name} is {tuple(own.shape)} here and {found} there")
                    continue
                own.copy_(new)
        if prior.metadata.scale != self.options.scale:
            findings.append(f"the scale is {self.options.scale:g} here and {prior.metadata.scale:g} there")
        surplus = prior.layers.keys() - self.meta_downs.keys()
        findings += [f"{name} is not trained here" for name in sorted(surplus)]
        if findings:
            raise InvalidOptions(
                f"Meta-training cannot start from the prior {prior.metadata.name!r}: {summarise(findings, 3)}. Choose "
                "the same layers, ranks and scale, or start without it."
            )
        self.earlier = dict(prior.metadata.training)

    def _new_bank(self, count: int, folder: Path | None = None) -> IdentityBank:
        return IdentityBank(count, self.layout.mid_total, self.layout.total, folder)

    def bank_for(self, subjects: Sequence[int]) -> tuple[IdentityBank, Sequence[int]]:
        """The bank and the rows of these subjects in it; an episode starts with a fresh one."""
        if self.options.inner_steps:
            return self._new_bank(len(subjects)), range(len(subjects))
        return self.bank, [subject // self.ranks.count for subject in subjects]

    def slots(self, bank: IdentityBank, rows: Sequence[int]) -> Tensor:
        """Identities of these rows, a leaf of shape (rows, total)."""
        residual = bank.gather(rows, self.common.device)
        return (self.common.detach() + residual).requires_grad_()

    def use(self, slots: Tensor, owners: Sequence[int]) -> None:
        """Point each sample's chains at its subject's factors.

        Args:
            slots: (rows, total).
            owners: Row of each sample's subject in the coming pass.
        """
        # One alone has no batch axis: a layer may then lay out its rows as it likes.
        alone = slots[owners[0]] if len(owners) == 1 else None
        every = owners == list(range(len(slots)))
        mids, ups = self.layout.unpack(alone if alone is not None else slots if every else slots[owners])
        for name, chain in self.factors.items():
            chain.mid, chain.up = mids[name], ups[name]

    def train_shared(self, wanted: bool) -> None:
        """Let the coming passes give meta_down a gradient, or leave it frozen."""
        for down in self.meta_downs.values():
            down.requires_grad_(wanted)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients, times a scale that `unscale` takes out again."""
        (loss * self._loss_scale).backward()

    def unscale(self, slots: Tensor) -> None:
        """Scale the gradients of a pass back to their true size."""
        if self._loss_scale != 1:
            for leaf in (slots, *self.meta_downs.values()):
                if leaf.grad is not None:
                    leaf.grad.div_(self._loss_scale)

    def rates_at(self, step: int) -> SlotRates:
        """Set the rates of the shared factors for a step; returns those of the per-subject factors."""
        options = self.options
        factor = warmup_cosine(step, options.steps, options.warmup_steps, options.final_rate)
        scale_learning_rates(self.optimizer, self._rates, factor)
        return SlotRates(options.mid_learning_rate * factor, options.up_learning_rate * factor, options.slot_decay)

    def update_shared(self, slots: Tensor) -> None:
        """One AdamW step on meta_down and the common identity."""
        options = self.options
        if options.warm_start == "learned":
            self.common.grad = gradient_of(slots).sum(0)
        shared = [one for group in self.optimizer.param_groups for one in group["params"]]
        self.ranks.average([one.grad for one in shared if one.grad is not None])
        if options.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(list(self.meta_downs.values()), options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def read(self) -> float:
        """Fetch the losses since the last look; returns their mean.

        Raises:
            TrainingDiverged: If it or a shared factor became NaN or infinite.
        """
        loss = float(self.ranks.total(torch.stack(self.unread).mean())) / self.ranks.count
        self._require_finite([] if math.isfinite(loss) else ["The loss"])
        self.unread.clear()
        self.losses.append([float(self.step), loss])
        return loss

    def keep(self) -> None:
        """Keep the present state as the last good one; the bank copies its rows only when they change."""
        shared = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._shared().items()}
        optimizer = copied_state(self.optimizer, torch.device("cpu"))
        self._kept = (self.step, shared, optimizer, len(self.losses), list(self.unread))
        self.bank.keep()

    def keep_if_large(self) -> None:
        """As `keep`, once the copies of the bank's rows take too much memory.

        Raises:
            TrainingDiverged: If a shared factor became NaN or infinite.
        """
        # Counted by steps, so that all ranks keep the same one.
        rows = (self.step - self.kept_step) * self.options.subjects_per_batch
        if self.bank.kept_bytes and rows * self.bank.row(0).nbytes > _MOST_KEPT_BYTES:
            self._require_finite([])
            self.keep()

    def go_back(self) -> None:
        """Resume from the last good state."""
        step, shared, optimizer, losses, unread = self._kept
        for name, tensor in self._shared().items():
            tensor.detach().copy_(shared[name])
        self.optimizer.zero_grad(set_to_none=True)
        restore_optimizer(self.optimizer, optimizer)
        self.bank.go_back()
        self.step, self.unread = step, list(unread)
        del self.losses[losses:]

    @property
    def kept_step(self) -> int:
        """Step of the last good state."""
        return self._kept[0]

    def save(self, path: Path) -> None:
        """Write a checkpoint; a full disk loses it, not the run."""
        state = {"optimizer": self.optimizer.state_dict(), "losses": self.losses, "ranks": self.ranks.count}
        with losing_only_the_checkpoint(), self._saved_bank.writing(path) as tensors:
            made = Checkpoint(_KIND, self.step, self.digest, self._shared() | tensors, state)
            self.ranks.attempt(lambda: save_checkpoint(path, made) if self.ranks.first else None, UnwritableFile)

    def load(self, path: Path) -> int:
        """Resume from a checkpoint; returns the steps done.

        Raises:
            DamagedFile: If a file is damaged, or its tensors are not those of this run.
            InvalidOptions: If it belongs to another run.
        """
        saved = self.ranks.attempt(lambda: self._load(path), DamagedFile)
        self._saved_bank.read(path, saved.tensors, saved.state.get("ranks", 1))
        before, now = saved.state.get("ranks", 1), self.ranks.count
        if before != now and self.ranks.first:
            each = self.options.subjects_per_batch
            _LOG.warning(
                "The checkpoint of %d ranks is resumed with %d: a step now sees %d subjects.", before, now, each * now
            )
        for name, tensor in self._shared().items():
            tensor.detach().copy_(saved.tensors[name])
        self.step = saved.step
        self.keep()
        return self.step

    def _load(self, path: Path) -> Checkpoint:
        """The checkpoint, checked; optimizer and losses are restored from it."""
        saved = load_checkpoint(path, kind=_KIND, digest=self.digest, usual_bytes=self.checkpoint_bytes)
        wanted = self._shared() | self._saved_bank.wanted(saved.tensors)
        require_tensors(saved, path, wanted, may={"log_steps": torch.empty(len(self.meta_downs), 2)})
        with refusing_damage(path):
            restore_optimizer(self.optimizer, saved.state["optimizer"])
            self.losses = [[float(step), float(loss)] for step, loss in saved.state["losses"]]
        return saved

    @property
    def checkpoint_bytes(self) -> int:
        """Most that a checkpoint with all subjects takes: shared factors, their moments, and the bank."""
        return self._shared_bytes + self._saved_bank.most_bytes()

    @property
    def needed_bytes(self) -> int:
        """Most that this run's checkpoint takes on the disk: as `checkpoint_bytes`, of the subjects it can visit."""
        visited = self.options.steps * self.options.subjects_per_batch * self.ranks.count
        return self._shared_bytes + self._saved_bank.most_bytes(visited)

    @property
    def _shared_bytes(self) -> int:
        return 3 * sum(tensor.nbytes for group in self.optimizer.param_groups for tensor in group["params"])

    def _require_finite(self, wrong: list[str]) -> None:
        wrong = wrong + [name for name, tensor in self._shared().items() if not bool(tensor.isfinite().all())]
        if wrong:
            raise TrainingDiverged(
                f"{wrong[0]} became NaN or infinite at or before step {self.step}; the last good step is "
                f"{self.kept_step}. Lower the learning rates (meta_learning_rate first) or raise warmup_steps.",
                step=self.step,
                last_good_step=self.kept_step,
            )

    def _shared(self) -> dict[str, Tensor]:
        return {f"meta_down.{name}": down for name, down in self.meta_downs.items()} | {"common": self.common}

    def prior(self, family: str, domain: str, subjects: int, targets: Sequence[Target], picture_px: int) -> Prior:
        """What is kept: meta_down and, if requested, the warm start; the rest goes into the record."""
        options, warm = self.options, self.common.detach().cpu()
        if options.warm_start == "mean":
            warm = warm + self.bank.mean(self.ranks.total)
        mids, ups = self.layout.unpack(warm)
        layers: dict[str, PriorLayer] = {}
        for name, down in self.meta_downs.items():
            start = (None, None) if options.warm_start == "none" else (mids[name].clone(), ups[name].clone())
            layers[name] = PriorLayer(down.detach().cpu().clone(), *start)
        training = {**self._record(subjects), "picture_px": picture_px}
        metadata = prior_record(options, family, targets, domain, training)
        return Prior(dict(sorted(layers.items())), metadata)

    def _record(self, subjects: int) -> dict[str, Any]:
        settings = json.loads(json.dumps(dataclasses.asdict(self.options), default=str))
        last = self.losses[-max(len(self.losses) // 10, 1) :]
        final = sum(loss for _, loss in last) / max(len(last), 1)
        record = {"settings": settings, "subjects": subjects, "steps": self.step, "final_loss": final}
        return record | ({"earlier": self.earlier} if self.earlier else {})


def gradient_of(leaf: Tensor) -> Tensor:
    """The leaf's gradient.

    Raises:
        TrainingDiverged: If none arrived.
    """
    if leaf.grad is None:
        raise TrainingDiverged(
            "No gradient reached the identities: the model never called the adapted layers. The host's targets do not "
            "belong to its model."
        )
    return leaf.grad
