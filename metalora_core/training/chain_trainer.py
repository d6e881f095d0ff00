"""The optimizer step of stage 2: mid and up of one subject, or of several side by side, meta_down frozen."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..chain import ChainFactors
from ..errors import TrainingDiverged
from ..inject import Injection
from ..model.host import Host
from .adaptation_options import AdaptationOptions
from .batches import Batch
from .optimizers import (
    copied_state,
    evaluation_mode,
    make_optimizer,
    restore_optimizer,
    scale_learning_rates,
    training_mode,
)
from .schedule import warmup_cosine
from .starts import ChainStart
from .trained_vector import TrainedVector

__all__ = ["ChainTrainer", "SubjectChains"]


class SubjectChains:
    """The chains of one subject, or of several side by side, for a host's model.

    Args:
        host: Gives device and dtype.
        start: Frozen factors, and the chains' values until they are pointed at others.
    """

    def __init__(self, host: Host, start: ChainStart) -> None:
        self._host, self._start = host, start
        mids, ups = start.layout.unpack(start.flat.to(host.device, host.dtype))
        self.factors = {
            name: ChainFactors(_ready(down, host), mids[name], ups[name], start.scale, direct=name in start.direct)
            for name, down in start.downs.items()
        }
        """Chain per target name."""

    def inject(self) -> Injection:
        """Put them into the model for the length of the injection.

        Raises:
            IncompatibleBaseModel: If a layer is missing.
        """
        injection = Injection(self._host.model, self._start.targets, self.factors)
        try:
            injection.require_all()
        except BaseException:
            injection.eject()
            raise
        return injection

    def point_at(self, mids: Mapping[str, Tensor], ups: Mapping[str, Tensor]) -> None:
        """Point them at these factors, (r_mid, r_meta) and (out, r_mid) per target."""
        for name, chain in self.factors.items():
            chain.mid, chain.up = mids[name], ups[name]

    def spread(self, mids: Mapping[str, Tensor], ups: Mapping[str, Tensor], noise_level: Tensor) -> None:
        """Point the samples of a batch at their subject's factors; each subject has equally many samples.

        Args:
            mids: Target to (subjects, r_mid, r_meta).
            ups: Target to (subjects, out, r_mid).
            noise_level: (samples,), 0 for a clean picture, 1 for pure noise.
        """
        for name, chain in self.factors.items():
            repeats = len(noise_level) // len(mids[name])
            mid, up = (f[name].to(self._host.dtype).repeat_interleave(repeats, 0) for f in (mids, ups))
            if self._start.least_rank < 1:
                mask = self._start.column_mask(noise_level.to(up.device), up.shape[-1])
                up = up * mask[:, None].to(up.dtype)
            chain.mid, chain.up = mid, up


class ChainTrainer:
    """Factors of one subject or several in two flat vectors, and the optimizer that moves them.

    A subject's numbers depend on its own samples only: several of them trained side by side end, up to rounding, where
    each would end alone.

    Args:
        host: Gives device and dtype.
        start: Frozen factors, first values of the trained ones and multipliers of their steps.
        options: Optimizer, rates and schedule.
        subjects: How many are trained side by side, each from the same start.
    """

    def __init__(self, host: Host, start: ChainStart, options: AdaptationOptions, subjects: int = 1) -> None:
        self.start, self._host, self._options = start, host, options
        self._spreads = subjects > 1 or start.least_rank < 1
        self.chains = SubjectChains(host, start)
        self.vector = TrainedVector(start.layout, start.flat.to(host.device), host.dtype, subjects)
        rates = start.rates.to(host.device)
        self._multipliers = None if bool((rates == 1).all()) else self.vector.spread(rates)
        self._rates = list(options.rates)
        groups = [{"params": [p], "lr": rate} for p, rate in zip(self.vector.parameters, self._rates, strict=True)]
        self._optimizer = make_optimizer(options.optimizer, groups, weight_decay=options.weight_decay)
        training_mode(self._optimizer)
        self.steps = 0
        """Optimizer steps done."""
        self._passes: list[Tensor] = []
        self._unread: list[Tensor] = []
        self.chains.point_at(*self.vector.factors)

    def spread_over(self, batch: Batch) -> None:
        """Let each sample of a batch see its own subject; as many samples belong to each. One subject needs no call."""
        if self._spreads:
            mids, ups = ({n: f if f.dim() == 3 else f[None] for n, f in k.items()} for k in self.vector.factors)
            flow = self._host.objective.name == "flow"
            self.chains.spread(mids, ups, batch.t if flow else (batch.t + 1) / 1000)

    @contextmanager
    def showing(self, flat: Tensor) -> Generator[None]:
        """Point the chains of one subject at other values, (total,), inside, and at the trained ones again after."""
        self.chains.point_at(*self.start.layout.unpack(flat.to(self._host.dtype)))
        try:
            yield
        finally:
            self.chains.point_at(*self.vector.factors)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the coming step."""
        (loss * self.vector.loss_scale).backward()
        self._passes.append(loss.detach())

    def use_rates(self, rates: Sequence[float]) -> None:
        """Train mid and up with one rate from now on: one for each subject."""
        highest = max(rates)
        self._rates = [highest, highest]
        if len(rates) > 1:
            shares = torch.tensor([rate / highest for rate in rates], device=self.vector.flat.device)
            self._multipliers = self.vector.spread(self.start.rates.to(shares.device), shares)

    def trial_step(self, rate: float) -> None:
        """One optimizer step with the gradients that are there, at a rate outside the schedule."""
        self._step([rate, rate])

    def step(self) -> None:
        """One optimizer step with the gradients that are there; nothing is read from the device."""
        options = self._options
        factor = warmup_cosine(self.steps, options.steps, options.warmup_steps, options.final_rate)
        self._step([rate * factor for rate in self._rates])

    def _step(self, rates: Sequence[float]) -> None:
        flat = self.vector.flat
        scale_learning_rates(self._optimizer, rates, 1.0)
        before = None if self._multipliers is None else flat.clone()
        self.vector.gather_gradients()
        self._optimizer.step()
        self.vector.zero_gradients()
        if before is not None and self._multipliers is not None:
            flat.sub_(before).mul_(self._multipliers).add_(before)
        self.vector.cast()
        self._unread.append(sum(self._passes[1:], start=self._passes[0]))
        self._passes.clear()
        self.steps += 1

    def read_losses(self) -> list[float]:
        """Fetch the losses since the last look: one sync with the device.

        Raises:
            TrainingDiverged: If a loss or a factor became NaN or infinite.
        """
        losses: list[float] = torch.stack(self._unread).tolist() if self._unread else []
        wrong = [loss for loss in losses if not math.isfinite(loss)]
        if wrong or not bool(self.vector.flat.isfinite().all()):
            good = self.steps - len(losses)
            raise TrainingDiverged(
                f"{f'The loss became {wrong[0]}' if wrong else 'A factor became NaN or infinite'} between steps {good} "
                f"and {self.steps}. Lower mid_learning_rate and up_learning_rate, or raise warmup_steps.",
                step=self.steps,
                last_good_step=good,
            )
        self._unread.clear()
        return losses

    def result(self) -> Tensor:
        """The factors to keep by now, (subjects, total), a copy; a schedule-free optimizer's are its average."""
        evaluation_mode(self._optimizer)
        flats = self.vector.by_subject()
        training_mode(self._optimizer)
        return flats

    def state(self) -> dict[str, Any]:
        """A copy of the optimizer's state."""
        return copied_state(self._optimizer)

    def restore(self, mids: Tensor, ups: Tensor, optimizer: Mapping[str, Any], steps: int) -> None:
        """Resume from the parameters and optimizer state of a run after so many steps."""
        self.vector.flat.copy_(torch.cat([mids, ups]))
        self.vector.cast()
        self.vector.zero_gradients()
        restore_optimizer(self._optimizer, optimizer)
        self._passes.clear()
        self._unread.clear()
        self.steps = steps


def _ready(down: Tensor, host: Host) -> Tensor:
    # An inference tensor cannot be saved for the backward pass.
    return (down.clone() if down.is_inference() else down).to(host.device, host.dtype)
