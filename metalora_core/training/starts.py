"""Where a chain starts, in one form for every subject and every method.

A start is a three-layer chain ``ΔW = scale · up · mid · down`` with one frozen ``down`` for all subjects, first values
of mid and up, and a rate for each number of them. An adaptation starts where its prior says; plain LoRA is the chain
with the identity matrix as down, so one training loop serves the compared methods too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..chain import SlotLayout
from ..errors import InvalidOptions
from ..files.prior import Prior
from ..model.targets import Target
from .adaptation_options import AdaptationOptions
from .seeds import step_generator

__all__ = ["ChainStart", "identity_down", "start_of", "start_of_prior"]


@dataclass(frozen=True, eq=False)
class ChainStart:
    """Where a chain starts, the same for every subject.

    Args:
        targets: Adapted layers.
        downs: Target name to the frozen first factor, (r, in) or (r, in, kh, kw).
        layout: Place of every mid and up in the flat vector.
        flat: First values of all mids and ups, shape (layout.total,), float32.
        rates: Multiplier of every number's step, shape (layout.total,); 0 is frozen.
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
        """Linear layers with one part and the identity as their down: mid sees the layer's input itself."""
        found = [t for t in self.targets if len(t.parts) == 1 and self.downs[t.name].shape == (t.shape[1:] * 2)]
        return frozenset(
            t.name for t in found if torch.equal(self.downs[t.name], identity_down(t).to(self.downs[t.name]))
        )

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


def start_of_prior(prior: Prior, targets: Sequence[Target], options: AdaptationOptions) -> ChainStart:
    """Where an adaptation starts: at the prior's learned start, or with up = 0 and a random mid.

    Args:
        prior: Its meta_down of every target is the frozen first factor.
        targets: The prior's targets in the prior's order.
        options: ``start``, ``r_mid`` and ``seed``.

    Raises:
        InvalidOptions: If the prior lacks the requested warm start, or it contradicts r_mid.
    """
    downs = {target.name: prior.layers[target.name].meta_down for target in targets}
    warm = _starts_warm(prior, options)
    ranks = {name: _rank(prior, name, options, warm) for name in downs}
    layout = SlotLayout.of(downs, {target.name: target.shape[0] for target in targets}, ranks)
    flat = layout.cold_start(step_generator(options.seed, "cold start"))
    mids, ups = layout.unpack(flat)
    for name in layout.names if warm else ():
        layer = prior.layers[name]
        for own, learned in ((mids[name], layer.mid_init), (ups[name], layer.up_init)):
            if learned is not None:
                own.copy_(learned)
    return ChainStart(tuple(targets), downs, layout, flat, torch.ones(()).expand(layout.total), prior.metadata.scale)


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


def identity_down(target: Target) -> Tensor:
    """The down that changes nothing: mid then is an ordinary LoRA's A."""
    size = math.prod(target.shape[1:])
    return torch.eye(size).view(size, *target.shape[1:])


def _filled(rates: Mapping[str, Tensor] | float, like: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(rates, Mapping):
        return rates
    return {name: torch.full_like(value, rates) for name, value in like.items()}


def _starts_warm(prior: Prior, options: AdaptationOptions) -> bool:
    has_start = any(layer.up_init is not None or layer.mid_init is not None for layer in prior.layers.values())
    if options.start == "warm" and not has_start:
        raise InvalidOptions(
            f'The prior {prior.metadata.name!r} has no learned start. Set start to "cold" or "auto", or choose a prior '
            "that was trained with a warm start."
        )
    return has_start and options.start != "cold"


def _rank(prior: Prior, name: str, options: AdaptationOptions, warm: bool) -> int:
    layer = prior.layers[name]
    learned = layer.mid_init.shape[0] if layer.mid_init is not None else None
    if layer.up_init is not None:
        learned = layer.up_init.shape[1]
    if warm and learned is not None:
        if options.r_mid not in (0, learned):
            raise InvalidOptions(
                f"r_mid is {options.r_mid}, but the prior's learned start has rank {learned}. Set r_mid to 0, or start "
                'to "cold".'
            )
        return learned
    return options.r_mid or learned or prior.metadata.r_mid
