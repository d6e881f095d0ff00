"""Settings of meta-training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..checks import COUNT, NOT_NEGATIVE, POSITIVE, RANK, SEED, SHARE, WHOLE, Range, refuse

__all__ = ["MetaTrainingOptions"]


@dataclass(frozen=True)
class MetaTrainingOptions:
    """Settings of meta-training.

    Two designs share the same parts:

    - *joint* (the default, first-order joint training): one pass per step trains the factors of the batch's subjects
    and the shared factors together;
    - *episodes* (``inner_steps > 0``): each subject starts at the common identity and takes ``inner_steps`` steps on
      its support photos, as an adaptation would; then a pass over its other photos, the query, trains the shared
      factors; first-order MAML. With ``query_every`` the shared factors also learn along the way, so that they suit an
      adaptation of any length up to that.

    Args:
        steps: Outer steps.
        subjects_per_batch: Distinct subjects per step.
        photos_per_subject: Photos of each in one pass.
        r_meta: Rank of meta_down.
        r_mid: Rank of the identities.
        rank_by_pattern: Shell-style pattern on target names to r_mid, where it differs.
        scale: Factor inside ΔW.
        include: Patterns of targets; empty for the family's attention and feed-forward layers.
        exclude: Patterns of targets to leave out.
        meta_learning_rate: Of meta_down.
        common_learning_rate: Of the learned warm start.
        mid_learning_rate: Of the per-subject mid.
        up_learning_rate: Of the per-subject up.
        slot_decay: Decoupled decay of per-subject factors towards the common identity, in units of their learning rate.
        meta_weight_decay: AdamW's decay of meta_down.
        max_grad_norm: Clip of the shared factors' gradient; 0 for none.
        warmup_steps: Linear warm-up of all rates.
        final_rate: Rate at the end as a share of the full one; cosine in between.
        warm_start: "none"; "mean" of the subjects at the end; "learned" jointly as a common identity plus residuals.
        support_photos: Photos of a subject's support passes, drawn for each episode; the rest are its query photos. As
            many as an adaptation will have; 0 for the first half of them.
        inner_steps: Support steps of an episode; 0 keeps per-subject factors in a bank.
        query_every: Support steps between two query passes of an episode; 0 for a single one at its end.
        caption_dropout: Probability that a caption is empty.
        seed: Of initial values and all random choices.
        read_every: Steps between two reports of the loss (each is one sync with the device).
        checkpoint_every: Steps between two checkpoints, if a path is given.
        bank_folder: Keep the bank in mapped files here instead of in RAM.
        class_words: Words that name a subject of the domain, for the prior's record.
        name: Of the prior; the domain if empty.
        license: Of the prior.
    """

    steps: int = 2000
    subjects_per_batch: int = 16
    photos_per_subject: int = 1
    r_meta: int = 64
    r_mid: int = 8
    rank_by_pattern: Mapping[str, int] = field(default_factory=dict[str, int])
    scale: float = 1.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    meta_learning_rate: float = 1e-3
    common_learning_rate: float = 1e-3
    mid_learning_rate: float = 2e-3
    up_learning_rate: float = 2e-3
    slot_decay: float = 0.0
    meta_weight_decay: float = 0.0
    max_grad_norm: float = 0.0
    warmup_steps: int = 20
    final_rate: float = 0.1
    warm_start: Literal["none", "mean", "learned"] = "mean"
    support_photos: int = 0
    inner_steps: int = 0
    query_every: int = 0
    caption_dropout: float = 0.0
    seed: int = 0
    read_every: int = 20
    checkpoint_every: int = 500
    bank_folder: Path | None = None
    class_words: tuple[str, ...] = ()
    name: str = ""
    license: str = ""

    def stops_at(self, step: int) -> bool:
        """Whether the loop reports after this many steps."""
        return step == self.steps or step % self.read_every == 0 or step % self.checkpoint_every == 0

    @property
    def rounds(self) -> tuple[int, ...]:
        """Support steps before each query pass of an outer step; the shared factors' optimizer steps after each."""
        steps, every = self.inner_steps, self.query_every or self.inner_steps
        return tuple(min(every, steps - done) for done in range(0, steps, every)) if steps else (0,)

    def passes(self, step: int) -> Iterator[tuple[range, int]]:
        """The rounds of an outer step: numbers of its support passes among all of them, and that of its query pass."""
        support = step * sum(self.rounds)
        for query, steps in enumerate(self.rounds, start=step * len(self.rounds)):
            yield range(support, support + steps), query
            support += steps

    def check(self) -> None:
        """Raise ``InvalidOptions`` with all findings at once."""
        findings = COUNT.findings(
            self, "steps", "subjects_per_batch", "photos_per_subject", "read_every", "checkpoint_every"
        )
        findings += RANK.findings(self, "r_meta", "r_mid") + WHOLE.findings(
            self, "support_photos", "inner_steps", "query_every", "warmup_steps"
        )
        findings += [
            f"rank_by_pattern gives {pattern!r} {rank!r}; expected {RANK}"
            for pattern, rank in self.rank_by_pattern.items()
            if not RANK.holds(rank)
        ]
        rates = ("meta_learning_rate", "common_learning_rate", "mid_learning_rate", "up_learning_rate")
        findings += NOT_NEGATIVE.findings(self, *rates, "slot_decay", "meta_weight_decay", "max_grad_norm")
        findings += POSITIVE.findings(self, "scale") + SHARE.findings(self, "final_rate") + SEED.findings(self, "seed")
        findings += Range(0, 1, below=True).findings(self, "caption_dropout")
        if self.warm_start not in ("none", "mean", "learned"):
            findings.append(f'warm_start is {self.warm_start!r}, expected "none", "mean" or "learned"')
        if self.inner_steps and self.warm_start == "mean":
            findings.append('episodes keep no per-subject factors to average; set warm_start to "learned" or "none"')
        refuse("this meta-training", findings)
