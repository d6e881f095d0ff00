"""What goes into an adaptation and what comes out, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from ..checks import COUNT, NOT_NEGATIVE, RANK, SEED, SHARE, WHOLE, refuse
from ..errors import UnusableReferences
from ..files.identity import Identity
from .optimizers import OPTIMIZERS

__all__ = [
    "PRESETS",
    "AdaptationOptions",
    "AdaptationProgress",
    "AdaptationResult",
    "TrainingSet",
    "chosen_flip",
    "is_one_sided",
]


@dataclass(frozen=True)
class TrainingSet:
    """Photos of one subject, ready to learn from.

    Args:
        images: Each (3, H, W) in 0..1; sizes may differ where the batch is 1.
        captions: One per photo, with the trigger in it.
        class_word: What the subject is, e.g. "person".
        trigger: The rare word that calls it, e.g. "ohwx".
        photo_hashes: SHA-256 of each photo file; may be empty.
        one_sided: Its mirror image is something else, as that of a mug with its handle on the left: never mirrored.
    """

    images: tuple[Tensor, ...]
    captions: tuple[str, ...]
    class_word: str
    trigger: str
    photo_hashes: tuple[str, ...] = ()
    one_sided: bool = False

    def part(self, start: int, stop: int) -> TrainingSet:
        """Photos start to stop with their captions and hashes."""
        cut = slice(start, stop)
        return replace(self, images=self.images[cut], captions=self.captions[cut], photo_hashes=self.photo_hashes[cut])

    def check(self, downscale: int, batch: int) -> None:
        """Raise ``UnusableReferences`` with every finding at once.

        Args:
            downscale: Picture pixels per latent pixel.
            batch: Photos of one step, which have to be of one size.
        """
        findings: list[str] = []
        if not self.images:
            findings.append("there is no photo; give one to eight")
        if len(self.captions) != len(self.images):
            findings.append(f"there are {len(self.images)} photos but {len(self.captions)} captions; give one each")
        for number, image in enumerate(self.images, start=1):
            shape = tuple(image.shape)
            if len(shape) != 3 or shape[0] != 3 or not all(side and side % downscale == 0 for side in shape[1:]):
                findings.append(f"photo {number} has shape {shape}; (3, H, W) with sides divisible by {downscale}")
            elif not bool(image.isfinite().all()) or float(image.min()) < 0 or float(image.max()) > 1:
                findings.append(f"photo {number} has values outside 0..1")
        if batch > 1 and len({image.shape for image in self.images}) > 1:
            findings.append(f"the photos differ in size, which a batch of {batch} cannot hold; set batch_size to 1")
        if findings:
            raise UnusableReferences("These photos cannot be learned from: " + "; ".join(findings) + ".")


@dataclass(frozen=True)
class AdaptationOptions:
    """Settings of an adaptation.

    Args:
        steps: Optimizer steps.
        batch_size: Photos a step.
        start: "warm" from the prior's learned start, "cold" with up = 0, "auto" for warm where the prior has one.
        r_mid: Rank of the identity for a cold start; 0 for the prior's.
        mid_learning_rate: Of mid.
        up_learning_rate: Of up.
        optimizer: One of ``optimizers.OPTIMIZERS``; prodigy wants both rates at 1.
        weight_decay: Of the optimizer.
        warmup_steps: Linear warm-up.
        final_rate: Rate at the end as a share of the full one; cosine in between.
        ema_decay: Average of the factors over steps, which is the result then; 0 for none.
        flip: Mirrored photos too, unless the set is one-sided; "left" and "right" change places in their captions.
        crop_px: Latent pixels by which the window may move; the window is smaller by as much.
        hold_out: Keep the last photo for early stopping if there are two or more and no validation set is given.
        validate_every: Steps between two validations.
        validation_samples: Noise levels a held-out photo is measured at.
        early_stop_patience: Validations without improvement before it stops; 0 to measure only.
        preservation_weight: Weight of the class's own pictures, made by the base model before; 0 for none.
        preservation_pictures: How many of them.
        preservation_prompt: What they show; "photo of a <class word>" if empty.
        preview_every: Steps between two previews; 0 for none.
        preview_prompt: The first caption if empty.
        preview_steps: Sampling steps of pictures made on the way.
        read_every: Steps between two looks at the loss; each is one sync with the device.
        checkpoint_every: Steps between two checkpoints, if a path is given.
        seed: Of the start and of all draws.
    """

    steps: int = 100
    batch_size: int = 1
    start: Literal["auto", "warm", "cold"] = "auto"
    r_mid: int = 0
    mid_learning_rate: float = 1e-3
    up_learning_rate: float = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    warmup_steps: int = 5
    final_rate: float = 0.1
    ema_decay: float = 0.0
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
        """Raise ``InvalidOptions`` with every finding at once."""
        counts = ("steps", "batch_size", "read_every", "checkpoint_every", "validate_every", "validation_samples")
        findings = COUNT.findings(self, *counts, "preservation_pictures", "preview_steps")
        if self.r_mid != 0:  # 0 stands for the prior's
            findings += RANK.findings(self, "r_mid")
        findings += WHOLE.findings(self, "warmup_steps", "crop_px", "early_stop_patience", "preview_every")
        findings += NOT_NEGATIVE.findings(
            self, "mid_learning_rate", "up_learning_rate", "weight_decay", "preservation_weight"
        )
        findings += SHARE.findings(self, "ema_decay", "final_rate") + SEED.findings(self, "seed")
        if self.start not in ("auto", "warm", "cold"):
            findings.append(f'start is {self.start!r}, expected "auto", "warm" or "cold"')
        if self.optimizer not in OPTIMIZERS:
            findings.append(f"optimizer is {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}")
        refuse("this adaptation", findings)

    def stops_at(self, step: int) -> bool:
        """Whether the loop looks up after this many steps."""
        every = (self.read_every, self.checkpoint_every, self.validate_every, self.preview_every)
        return step == self.steps or any(n and step % n == 0 for n in every)


_ONE_SIDED_WORDS = frozenset({"mug", "cup", "jug", "pitcher", "teapot"})
"""Class words of things with a handle: mirrored, they are other things."""


def is_one_sided(class_word: str) -> bool:
    """Whether a thing of that name becomes another one in the mirror."""
    return class_word.lower() in _ONE_SIDED_WORDS


def chosen_flip(choice: str, preset: bool, class_word: str) -> bool:
    """``AdaptationOptions.flip`` for a user's choice.

    Args:
        choice: "on", "off", or "auto": the preset's, and off for things with a handle.
        preset: What the preset says.
        class_word: What the photos show.
    """
    return choice == "on" or (choice == "auto" and preset and not is_one_sided(class_word))


PRESETS: dict[str, AdaptationOptions] = {
    "quick": AdaptationOptions(steps=25, warmup_steps=2),
    "standard": AdaptationOptions(),
    "paper": AdaptationOptions(steps=375, warmup_steps=10),
}
"""Step counts by name; "paper" is the number of steps that Meta-LoRA, arXiv 2503.22352, needs on FLUX.1-dev."""


@dataclass(frozen=True)
class AdaptationProgress:
    """What a listener is told whenever the loop looks up.

    Args:
        step: Steps done.
        steps: Steps in all.
        loss: Mean loss since the last report.
        seconds: Since this call of ``adapt`` began.
        preview: Picture (3, H, W) in 0..1, or None.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    preview: Tensor | None = None


@dataclass(frozen=True)
class AdaptationResult:
    """What was learned.

    Args:
        identity: mid and up of every target, on the CPU, float32.
        losses: One per step.
        validation_losses: (step, loss on the held-out photos) pairs.
        stop_reason: "finished", or why it stopped early.
        seconds: Of this call.
        memory: How the steps were computed in the end, in words; see `metalora_core.training.retries`.
    """

    identity: Identity
    losses: tuple[float, ...]
    validation_losses: tuple[tuple[int, float], ...]
    stop_reason: str
    seconds: float
    memory: str = ""
