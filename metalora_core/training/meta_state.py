"""Everything that a step of meta-training changes, and the prior that is made of it at the end."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..chain import ChainFactors, SlotLayout
from ..errors import InvalidOptions, TrainingDiverged
from ..files.checkpoint import Checkpoint, keep_checkpoint, load_checkpoint, refusing_damage, require_tensors
from ..files.metadata import summarise
from ..files.prior import Prior, PriorLayer, PriorMetadata
from ..model.targets import Target, fingerprint, rank_for
from .bank import IdentityBank
from .meta_options import MetaTrainingOptions
from .optimizers import make_optimizer, restore_optimizer
from .seeds import step_generator

__all__ = ["MetaState", "gradient_of"]

_KIND = "meta-training"


class MetaState:
    """The shared factors, the bank and their optimizers.

    Args:
        targets: Adapted layers.
        options: Settings.
        subjects: Slots of the bank.
        device: Where the shared factors live; the bank stays on the CPU.
        earlier: Prior to start from; its layers and ranks must be those of this run.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        options: MetaTrainingOptions,
        subjects: int,
        device: torch.device,
        earlier: Prior | None = None,
    ) -> None:
        generator = step_generator(options.seed, "initial values")
        self.options = options
        self.meta_downs = {
            t.name: (torch.randn(options.r_meta, *t.shape[1:], generator=generator) / t.shape[1] ** 0.5).to(device)
            for t in targets
        }
        ranks = {t.name: rank_for(t.name, options.r_mid, options.rank_by_pattern) for t in targets}
        self.layout = SlotLayout.of(self.meta_downs, {t.name: t.shape[0] for t in targets}, ranks)
        self.common = self.layout.cold_start(generator).to(device)
        self.factors = {
            name: ChainFactors(down, torch.empty(shape), torch.empty(self.layout.up_shapes[name]), options.scale)
            for (name, down), shape in zip(self.meta_downs.items(), self.layout.mid_shapes.values(), strict=True)
        }
        self.bank = self._new_bank(1 if options.inner_steps else subjects, options.bank_folder)
        groups: list[dict[str, Any]] = [
            {"params": list(self.meta_downs.values()), "lr": options.meta_learning_rate,
             "weight_decay": options.meta_weight_decay},
        ]  # fmt: skip
        if options.warm_start == "learned":
            groups.append({"params": [self.common], "lr": options.common_learning_rate, "weight_decay": 0.0})
        self.base_rates = [float(group["lr"]) for group in groups]
        self.optimizer = make_optimizer("adamw", groups)
        self.losses: list[list[float]] = []
        self.earlier: dict[str, Any] = {}
        if earlier is not None:
            self._start_from(earlier)

    def _start_from(self, prior: Prior) -> None:
        """Take over the shared factors of an earlier prior: meta_down, and the warm start where it has one.

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
                f"Meta-training cannot go on from the prior {prior.metadata.name!r}: {summarise(findings, 3)}. "
                "Choose the same layers, ranks and scale, or start without it."
            )
        self.earlier = dict(prior.metadata.training)

    def _new_bank(self, count: int, folder: Path | None = None) -> IdentityBank:
        return IdentityBank(count, self.layout.mid_total, self.layout.total, folder)

    def bank_for(self, subjects: Sequence[int]) -> tuple[IdentityBank, Sequence[int]]:
        """The bank and the rows of these subjects in it; an episode starts with a fresh one."""
        if self.options.inner_steps:
            return self._new_bank(len(subjects)), range(len(subjects))
        return self.bank, subjects

    def slots(self, bank: IdentityBank, rows: Sequence[int]) -> Tensor:
        """Identities of these rows, a leaf of shape (rows, total)."""
        residual = bank.gather(rows, self.common.device)
        return (self.common.detach() + residual).requires_grad_()

    def update_shared(self, slots: Tensor) -> None:
        """One AdamW step on meta_down and the common identity."""
        options = self.options
        if options.warm_start == "learned":
            self.common.grad = gradient_of(slots).sum(0)
        if options.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(list(self.meta_downs.values()), options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, path: Path, step: int, digest: str) -> None:
        """Write a checkpoint; a full disk costs it, not the run."""
        state = {"optimizer": self.optimizer.state_dict(), "losses": self.losses}
        keep_checkpoint(path, Checkpoint(_KIND, step, digest, self._tensors(), state))

    def load(self, path: Path, digest: str) -> int:
        """Continue from a checkpoint; returns the steps done.

        Raises:
            DamagedFile: If the file is damaged, or its tensors are not those of this run.
        """
        own, usual = self._tensors(), self.checkpoint_bytes
        saved = load_checkpoint(path, kind=_KIND, digest=digest, usual_bytes=usual)
        require_tensors(saved, path, own, may={"log_steps": torch.empty(len(self.meta_downs), 2)})
        with refusing_damage(path):
            restore_optimizer(self.optimizer, saved.state["optimizer"], saved.step * len(self.options.rounds))
            self.losses = [[float(step), float(loss)] for step, loss in saved.state["losses"]]
            reported = [step for step, _ in self.losses]
            if not 0 < saved.step <= self.options.steps or reported != sorted(set(reported)):
                raise ValueError(f"step {saved.step} of {self.options.steps}, losses of the steps {reported[-5:]}")
            if not reported or reported[0] <= 0 or reported[-1] != saved.step:
                raise ValueError(f"step {saved.step}, but losses of the steps {reported[-5:]}")
            if not all(math.isfinite(loss) for _, loss in self.losses):
                raise ValueError("a loss is not finite")
            if bool((saved.tensors["bank.visits"] < 0).any()):
                raise ValueError("the bank holds a subject that was visited less than never")
        for name, tensor in own.items():
            tensor.copy_(saved.tensors[name])
        return saved.step

    @property
    def checkpoint_bytes(self) -> int:
        """What a checkpoint takes on the disk, nearly: the bank, the shared factors and their moments."""
        shared = sum(tensor.nbytes for group in self.optimizer.param_groups for tensor in group["params"])
        return 2 * shared + sum(tensor.nbytes for tensor in self._tensors().values())

    def require_finite(self, step: int) -> None:
        """Raise ``TrainingDiverged`` if a shared factor became NaN or infinite, so that no such state is kept."""
        wrong = [name for name, down in self.meta_downs.items() if not bool(down.isfinite().all())]
        wrong += [] if bool(self.common.isfinite().all()) else ["the common identity"]
        if wrong:
            raise TrainingDiverged(
                f"{wrong[0]} became NaN or infinite at or before step {step}. Lower the learning rates "
                "(meta_learning_rate first) or raise warmup_steps; the last checkpoint has the last good state.",
                step=step,
            )

    def _tensors(self) -> dict[str, Tensor]:
        """What changes beside the optimizer; the tensors are the state's own."""
        tensors = {f"meta_down.{name}": down for name, down in self.meta_downs.items()}
        tensors |= {f"bank.{name}": tensor for name, tensor in self.bank.tensors().items()}
        return tensors | {"common": self.common}

    def prior(self, family: str, domain: str, subjects: int, targets: Sequence[Target], picture_px: int) -> Prior:
        """What is kept: meta_down and, if asked, the warm start; the rest goes on record."""
        options, warm = self.options, self.common.detach().cpu()
        if options.warm_start == "mean":
            warm = warm + self.bank.mean()
        mids, ups = self.layout.unpack(warm)
        layers: dict[str, PriorLayer] = {}
        for name, down in self.meta_downs.items():
            start = (None, None) if options.warm_start == "none" else (mids[name].clone(), ups[name].clone())
            layers[name] = PriorLayer(down.detach().cpu().clone(), *start)
        metadata = PriorMetadata(
            name=options.name or domain,
            family=family,
            base_fingerprint=fingerprint(targets),
            domain=domain,
            class_words=list(options.class_words),
            r_meta=options.r_meta,
            r_mid=options.r_mid,
            scale=options.scale,
            license=options.license,
            created_with=f"metalora_core {__version__}",
            training={**self._record(subjects), "picture_px": picture_px},
        )
        return Prior(dict(sorted(layers.items())), metadata)

    def _record(self, subjects: int) -> dict[str, Any]:
        settings = json.loads(json.dumps(dataclasses.asdict(self.options), default=str))
        last = self.losses[-max(len(self.losses) // 10, 1) :]
        final = sum(loss for _, loss in last) / max(len(last), 1)
        record = {"settings": settings, "subjects": subjects, "steps": self.options.steps, "final_loss": final}
        return record | ({"earlier": self.earlier} if self.earlier else {})


def gradient_of(leaf: Tensor) -> Tensor:
    """The leaf's gradient.

    Raises:
        TrainingDiverged: If none arrived.
    """
    if leaf.grad is None:
        raise TrainingDiverged(
            "No gradient reached the identities: the model never called the adapted layers. "
            "The host's targets do not belong to its model."
        )
    return leaf.grad
