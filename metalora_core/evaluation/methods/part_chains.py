"""What a method of adaptation starts from, in one form for all of them.

Every method compared here is a three-layer chain ``ΔW = scale · up · mid · down`` with one fixed ``down`` for all
subjects, a start for mid and up, and a rate for each number of them: 0 keeps it frozen. Plain LoRA is the chain whose
down is the identity matrix, so one training loop and one sampler serve every method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...chain import SlotLayout
from ...model.host import Host
from ...model.targets import Part, Target

__all__ = ["ChainStart", "identity_down", "part_targets", "part_weight", "start_of"]


@dataclass(frozen=True, eq=False)
class ChainStart:
    """Where a method starts, the same for every subject.

    Args:
        targets: Adapted layers.
        downs: Target name to the frozen first factor, (r, in) or (r, in, kh, kw).
        layout: Where every mid and up lies in a flat vector.
        flat: The start, shape (layout.total,).
        rates: Multiplier of the learning rate of every number, shape (layout.total,); 0 is frozen.
        scale: Factor inside ΔW.
        least_rank: Share of the columns of up that stay at the highest noise level; all of them are there at the
            lowest. 1 uses every column at every level.
    """

    targets: tuple[Target, ...]
    downs: Mapping[str, Tensor]
    layout: SlotLayout
    flat: Tensor
    rates: Tensor
    scale: float = 1.0
    least_rank: float = 1.0

    @property
    def direct(self) -> frozenset[str]:
        """Linear layers with one part whose down is the identity."""
        found = [t for t in self.targets if len(t.parts) == 1 and len(t.shape) == 2 and t.name in self.downs]
        return frozenset(t.name for t in found if torch.equal(self.downs[t.name], identity_down(t)))

    @property
    def trained(self) -> int:
        """Trained numbers of one subject."""
        return int((self.rates != 0).sum())

    def column_mask(self, noise_level: Tensor, rank: int) -> Tensor:
        """Columns of up that are used, (B, rank) of zeros and ones.

        Args:
            noise_level: (B,), 0 for a clean picture, 1 for pure noise.
            rank: Columns of up.

        Source: T-LoRA, arXiv 2507.05964, equation 4.
        """
        least = self.least_rank * rank
        kept = ((rank - least) * (1 - noise_level) + least).floor().clamp(min=1)
        return (torch.arange(rank, device=kept.device) < kept[:, None]).float()


def start_of(
    targets: Sequence[Target],
    downs: Mapping[str, Tensor],
    mids: Mapping[str, Tensor],
    ups: Mapping[str, Tensor],
    *,
    mid_rates: Mapping[str, Tensor] | float = 1.0,
    up_rates: Mapping[str, Tensor] | float = 1.0,
    scale: float = 1.0,
    least_rank: float = 1.0,
) -> ChainStart:
    """Put a start together from its factors.

    Args:
        targets: Adapted layers.
        downs: (r, in) each, or (r, in, kh, kw).
        mids: (r_mid, r) each.
        ups: (out, r_mid) each.
        mid_rates: One multiplier for all mids, or shapes like mids.
        up_rates: Likewise for ups.
        scale: Factor inside ΔW.
        least_rank: See `ChainStart`.
    """
    outputs = {name: up.shape[0] for name, up in ups.items()}
    layout = SlotLayout.of(downs, outputs, {name: mid.shape[0] for name, mid in mids.items()})
    rates = layout.pack(_filled(mid_rates, mids), _filled(up_rates, ups))
    return ChainStart(tuple(targets), downs, layout, layout.pack(mids, ups), rates, scale, least_rank)


def _filled(rates: Mapping[str, Tensor] | float, like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(rates, Mapping):
        return rates
    return {name: torch.full_like(value, rates) for name, value in like.items()}


def part_targets(targets: Sequence[Target]) -> tuple[Target, ...]:
    """One target for each host module: what peft adapts, where a fused layer has a LoRA for each of its parts."""
    return tuple(
        Target(
            part.module, (part.stop - part.start, *target.shape[1:]), (Part(part.module, 0, part.stop - part.start),)
        )
        for target in targets
        for part in target.parts
    )


def part_weight(host: Host, target: Target) -> Tensor:
    """Frozen weight of a one-part target as a float32 matrix, (out, in · kh · kw)."""
    weight = host.model.get_submodule(target.parts[0].module).get_parameter("weight")
    return weight.detach().float().flatten(1)


def identity_down(target: Target) -> Tensor:
    """The down that changes nothing: mid then is an ordinary LoRA's A."""
    size = math.prod(target.shape[1:])
    return torch.eye(size).view(size, *target.shape[1:])
