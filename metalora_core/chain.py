"""The chain of one target as an object, and the layout of all targets' mid and up in flat vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .functional import chain_delta, fold

__all__ = ["ChainFactors", "SlotLayout"]


@dataclass(eq=False)
class ChainFactors:
    """Factors of one target; a training reassigns ``mid`` and ``up`` before each forward pass.

    Args:
        meta_down: (r_meta, in) or (r_meta, in, kh, kw).
        mid: (r_mid, r_meta), or (B, r_mid, r_meta) with one identity per sample.
        up: (out, r_mid), or (B, out, r_mid).
        scale: Factor inside ΔW, stored in the prior.
        strength: The user's setting; 0 leaves the layer's output unchanged.
        direct: meta_down is the identity matrix of a linear layer, and its product is left out.
    """

    meta_down: Tensor
    mid: Tensor
    up: Tensor
    scale: float = 1.0
    strength: float = 1.0
    direct: bool = False

    def delta(self) -> Tensor:
        """ΔW times strength, shape of the base weight."""
        return chain_delta(self.meta_down, self.mid, self.up, self.scale * self.strength)

    def fold(self) -> tuple[Tensor, Tensor]:
        """(down, up) of an ordinary LoRA; ``scale`` and ``strength`` are not folded in."""
        return fold(self.meta_down, self.mid, self.up)


@dataclass(frozen=True)
class SlotLayout:
    """Places of every target's mid and up in one flat vector: all mids first, then all ups.

    A flat vector makes an optimizer step, an average or a finiteness check one operation however many layers there
    are, and a whole identity of the bank one row.

    Args:
        mid_shapes: Target name to (r_mid, r_meta).
        up_shapes: Target name to (out, r_mid), same names in the same order.
    """

    mid_shapes: Mapping[str, tuple[int, int]]
    up_shapes: Mapping[str, tuple[int, int]]

    @staticmethod
    def of(meta_downs: Mapping[str, Tensor], outputs: Mapping[str, int], r_mid: Mapping[str, int]) -> SlotLayout:
        """Layout for given meta-downs (r_meta, …), output sizes and mid ranks per target."""
        mids = {name: (r_mid[name], down.shape[0]) for name, down in meta_downs.items()}
        return SlotLayout(mids, {name: (outputs[name], r_mid[name]) for name in meta_downs})

    @property
    def names(self) -> tuple[str, ...]:
        """Target names in the order of the vector."""
        return tuple(self.mid_shapes)

    @property
    def mid_sizes(self) -> list[int]:
        """Numbers in each mid."""
        return [math.prod(shape) for shape in self.mid_shapes.values()]

    @property
    def up_sizes(self) -> list[int]:
        """Numbers in each up."""
        return [math.prod(shape) for shape in self.up_shapes.values()]

    @property
    def mid_total(self) -> int:
        """Numbers in all mids together."""
        return sum(self.mid_sizes)

    @property
    def total(self) -> int:
        """Numbers in one identity."""
        return self.mid_total + sum(self.up_sizes)

    def unpack(self, flat: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Split (..., total) into views per target: mids (..., r_mid, r_meta) and ups (..., out, r_mid)."""
        # split's backward is one concatenation; slicing would make a zero-filled vector per layer.
        pieces = iter(flat.split(self.mid_sizes + self.up_sizes, dim=-1))
        mids = {name: next(pieces).unflatten(-1, shape) for name, shape in self.mid_shapes.items()}
        return mids, {name: next(pieces).unflatten(-1, shape) for name, shape in self.up_shapes.items()}

    def pack(self, mids: Mapping[str, Tensor], ups: Mapping[str, Tensor]) -> Tensor:
        """Inverse of ``unpack`` without a batch axis: one vector of length ``total``."""
        return torch.cat([mids[n].reshape(-1) for n in self.names] + [ups[n].reshape(-1) for n in self.names])

    def cold_start(self, generator: torch.Generator) -> Tensor:
        """A start that knows nothing: mid normal with variance 1 / r_meta, up zero. CPU vector of length ``total``."""
        flat = torch.zeros(self.total)
        for (_, r_meta), mid in zip(
            self.mid_shapes.values(), flat[: self.mid_total].split(self.mid_sizes), strict=True
        ):
            mid.normal_(0.0, r_meta**-0.5, generator=generator)
        return flat
