"""Settings and result of an adaptation, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..checks import COUNT, NOT_NEGATIVE, POSITIVE, RANK, SEED, SHARE, WHOLE, refuse
from ..files.identity import Identity
from .optimizers import OPTIMIZERS

__all__ = [
    "AdaptationOptions",
    "AdaptationResult",
    "settings_text",
]

KEPT_STEPS = 16
"""Most steps of a run that are kept for a choice."""


@dataclass(frozen=True)
class AdaptationOptions:
    """Settings of an adaptation.

    Args:
        steps: Optimizer steps.
        batch_size: Photos per step.
        start: "warm" from the prior's learned start, "cold" with up = 0, "auto" for warm where the prior has one.
        r_mid: Rank of the identity for a cold start; 0 for the prior's.
        learning_rate: Of mid and up alike: a number, or "auto" to find it by a few trial steps on the photos; 0 leaves
            the two below.
        rate_factor: On a rate that "auto" finds.
        mid_learning_rate: Of mid.
        up_learning_rate: Of up.
        optimizer: One of ``optimizers.OPTIMIZERS``; prodigy needs both rates at 1.
        weight_decay: Of the optimizer.
        warmup_steps: Linear warm-up.
        final_rate: Rate at the end as a share of the full one; cosine in between.
        flip: Also train on mirrored photos, unless the set is one-sided; "left" and "right" are swapped in their
            captions.
        crop_px: Latent pixels by which the window may move; the window is smaller by as much.
        hold_out: Keep the last photo for early stopping if there are two or more and no validation set is given.
        validate_every: Steps between two validations.
        validation_samples: Noise levels at which a held-out photo is measured.
        early_stop_patience: Validations without improvement before it stops; 0 to measure only.
        preservation_weight: Weight of the class's own pictures, made by the base model before; 0 for none.
        preservation_pictures: How many of them.
        preservation_prompt: What they show; "photo of a <class word>" if empty.
        preview_every: Steps between two previews, and one at the last step; 0 for none.
        preview_prompt: The first caption if empty.
        preview_steps: Sampling steps of pictures made on the way.
        read_every: Steps between two reports of the loss; each is one sync with the device.
        checkpoint_every: Steps between two checkpoints, if a path is given.
        seed: Of the start and all random choices.
    """

    steps: int = 100
    batch_size: int = 1
    start: Literal["auto", "warm", "cold"] = "auto"
    r_mid: int = 0
    learning_rate: float | Literal["auto"] = 0.0
    rate_factor: float = 1.0
    mid_learning_rate: float = 1e-3
    up_learning_rate: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    warmup_steps: int = 5
    final_rate: float = 0.1
    flip: bool = False
    crop_px: int = 0
    hold_out: bool = False
    validate_every: int = 10
    validation_samples: int = 8
    early_stop_patience: int = 3
    preservation_weight: float = 0.0
    preservation_pictures: int = 4
    preservation_prompt: str = ""
    preview_every: int = 0
    preview_prompt: str = ""
    preview_steps: int = 8
    read_every: int = 10
    checkpoint_every: int = 50
    seed: int = 0

    def check(self) -> None:
        """Raise ``InvalidOptions`` with all findings at once."""
        counts = ("steps", "batch_size", "read_every", "checkpoint_every", "validate_every", "validation_samples")
        findings = COUNT.findings(self, *counts, "preservation_pictures", "preview_steps")
        if self.r_mid != 0:  # 0 stands for the prior's
            findings += RANK.findings(self, "r_mid")
        findings += WHOLE.findings(self, "warmup_steps", "crop_px", "early_stop_patience", "preview_every")
        findings += NOT_NEGATIVE.findings(
            self, "mid_learning_rate", "up_learning_rate", "weight_decay", "preservation_weight"
        )
        findings += POSITIVE.findings(self, "rate_factor")
        if self.learning_rate != "auto":
            findings += NOT_NEGATIVE.findings(self, "learning_rate")
        findings += SHARE.findings(self, "final_rate") + SEED.findings(self, "seed")
        if self.start not in ("auto", "warm", "cold"):
            findings.append(f'start is {self.start!r}, expected "auto", "warm" or "cold"')
        if self.optimizer not in OPTIMIZERS:
            findings.append(f"optimizer is {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
        refuse("this adaptation", findings)

    @property
    def rates(self) -> tuple[float, float]:
        """Of mid and up; those of a run that has to find its own are 0 until it has."""
        if self.learning_rate == "auto":
            return (1.0, 1.0) if self.finds_itself else (0.0, 0.0)
        if self.learning_rate:
            return self.learning_rate, self.learning_rate
        return self.mid_learning_rate, self.up_learning_rate

    @property
    def finds_itself(self) -> bool:
        """Whether the optimizer finds its rate in its own way, and is given 1."""
        return self.optimizer == "prodigy"

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Sampled steps to keep for a choice: at most 16, evenly spaced, the last one too; none without samples."""
        if not self.preview_every:
            return ()
        sampled = range(self.preview_every, self.steps, self.preview_every)
        apart = max(1, -(-len(sampled) // (KEPT_STEPS - 1)))
        return (*sampled[apart - 1 :: apart], self.steps)

    def stops_at(self, step: int) -> bool:
        """Whether the loop reports after this many steps."""
        every = (self.read_every, self.checkpoint_every, self.validate_every, self.preview_every)
        return step == self.steps or any(n and step % n == 0 for n in every)


@dataclass(frozen=True)
class AdaptationResult:
    """What was learned.

    Args:
        identity: mid and up of every target, on the CPU, float32.
        losses: One per step.
        validation_losses: (step, loss on the held-out photos) pairs.
        stop_reason: "finished", or why it stopped early.
        seconds: Of this call.
        memory: How the steps were computed in the end, as text; see `metalora_core.training.retries`.
        notes: What had to be changed on the way, a line each.
    """

    identity: Identity
    losses: tuple[float, ...]
    validation_losses: tuple[tuple[int, float], ...]
    stop_reason: str
    seconds: float
    memory: str = ""
    notes: tuple[str, ...] = ()


def settings_text(settings: object) -> str:
    """Settings as they are hashed: without what is at its default, so that what earlier releases left is found."""
    return repr(settings).replace("learning_rate=0.0, rate_factor=1.0, mid_learning_rate", "mid_learning_rate")
