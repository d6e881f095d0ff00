"""The algebra of the three-layer chain ``ΔW = scale · up · mid · meta_down``, as pure functions.

Shapes: meta_down (r_meta, in) or (r_meta, in, kh, kw); mid (r_mid, r_meta); up (out, r_mid). mid and up may carry a
leading batch axis: then every sample of the batch goes through its own identity (the per-subject factors of
meta-training).

``middle_of`` and ``add_rows`` are the chain of one identity with meta_down frozen. In a narrow layer
``mid · meta_down`` is folded before it meets the tokens; in a wide one the input is not kept, only its r_meta
projected numbers, and the backward pass folds. Products with one thin side are laid out so that the long side is
contiguous, forward and backward, which is several times faster on a CPU.
Source: Meta-LoRA, arXiv 2503.22352, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .errors import RankMismatch

__all__ = [
    "ConvGeometry",
    "add_rows",
    "add_up",
    "apply_mid",
    "chain_delta",
    "check_chain",
    "fold",
    "fold_into_down",
    "fold_into_up",
    "keeps_input",
    "middle_of",
    "project_down",
]


@dataclass(frozen=True)
class ConvGeometry:
    """Geometry of the adapted convolution; meta_down uses the same."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] | str = (0, 0)
    dilation: tuple[int, ...] = (1, 1)


def check_chain(meta_down: Tensor, mid: Tensor, up: Tensor, name: str = "this layer") -> None:
    """Check that the inner sizes of a chain agree.

    Args:
        meta_down: (r_meta, in) or (r_meta, in, kh, kw).
        mid: (r_mid, r_meta), or (B, r_mid, r_meta).
        up: (out, r_mid), or (B, out, r_mid).
        name: Target name for the message.

    Raises:
        RankMismatch: If they do not form a chain.
    """
    found = f"meta_down {tuple(meta_down.shape)}, mid {tuple(mid.shape)}, up {tuple(up.shape)}"
    if meta_down.dim() not in (2, 4) or mid.dim() not in (2, 3) or up.dim() != mid.dim():
        raise RankMismatch(
            f"{name}: found {found}; expected meta_down with 2 or 4 axes, mid and up with 2 (or 3 with a batch axis). "
            "The files were not written by this pack, or belong to another format version."
        )
    if mid.shape[-1] != meta_down.shape[0] or up.shape[-1] != mid.shape[-2] or mid.shape[:-2] != up.shape[:-2]:
        raise RankMismatch(
            f"{name}: found {found}; expected mid (r_mid, r_meta={meta_down.shape[0]}) and up (out, "
            f"r_mid={mid.shape[-2]}). Use the identity with the prior that it was learned with."
        )


def chain_delta(meta_down: Tensor, mid: Tensor, up: Tensor, scale: float = 1.0) -> Tensor:
    """Weight delta of a chain, ``ΔW = scale · up · mid · meta_down``.

    Args:
        meta_down: (r_meta, in) or (r_meta, in, kh, kw).
        mid: (r_mid, r_meta), or (B, r_mid, r_meta).
        up: (out, r_mid), or (B, out, r_mid).
        scale: Factor inside ΔW.

    Returns:
        (out, in) or (out, in, kh, kw), with the batch axis in front if there is one.

    Raises:
        RankMismatch: If the factors do not form a chain.
    """
    check_chain(meta_down, mid, up)
    delta = up @ (mid @ meta_down.flatten(1))
    return scale * delta.unflatten(-1, meta_down.shape[1:])


def project_down(x: Tensor, meta_down: Tensor, conv: ConvGeometry | None = None) -> Tensor:
    """Project a layer's input by the shared meta-down.

    A frozen ``meta_down`` keeps nothing of x alive for the backward pass: only the result's r_meta numbers per token.

    Args:
        x: (..., in), or (B, in, h, w) for a convolution.
        meta_down: (r_meta, in) or (r_meta, in, kh, kw).
        conv: The adapted convolution's geometry, None for a linear layer.

    Returns:
        (..., r_meta), or (B, r_meta, h', w').
    """
    if conv is None:
        return F.linear(x, meta_down)
    return F.conv2d(x, meta_down, None, conv.stride, conv.padding, conv.dilation)


def apply_mid(hidden: Tensor, mid: Tensor, conv: ConvGeometry | None = None) -> Tensor:
    """Apply an identity's mid layer to the projected input.

    Args:
        hidden: (..., r_meta), or (B, r_meta, h, w) for a convolution.
        mid: (r_mid, r_meta), or (B, r_mid, r_meta) with one identity per sample.
        conv: Not None if hidden is channels-first.

    Returns:
        Flattened for ``add_up``: (tokens, r_mid); (B, tokens, r_mid) with a batch axis; (B, r_mid, h·w) for a conv.
    """
    if conv is not None:
        return mid @ hidden.flatten(2)
    if mid.dim() == 2:
        return hidden.reshape(-1, hidden.shape[-1]) @ mid.mT
    return torch.bmm(hidden.reshape(hidden.shape[0], -1, hidden.shape[-1]), mid.mT)


def add_up(base_out: Tensor, middle: Tensor, up: Tensor, scale: float, conv: ConvGeometry | None = None) -> Tensor:
    """Add ``scale · up · middle`` to a layer's output in one fused product.

    Args:
        base_out: Output of the frozen layer, (..., out) or (B, out, h, w).
        middle: Result of ``apply_mid``.
        up: (out, r_mid), or (B, out, r_mid).
        scale: Factor inside ΔW times the user's strength.
        conv: Not None if base_out is channels-first.

    Returns:
        Shape of base_out.
    """
    if conv is not None:
        flat = base_out.flatten(2)
        per_sample = up if up.dim() == 3 else up.expand(flat.shape[0], -1, -1)
        return torch.baddbmm(flat, per_sample, middle, alpha=scale).view(base_out.shape)
    if up.dim() == 2:
        flat = base_out.reshape(-1, base_out.shape[-1])
        return torch.addmm(flat, middle, up.mT, alpha=scale).view(base_out.shape)
    flat = base_out.reshape(base_out.shape[0], -1, base_out.shape[-1])
    return torch.baddbmm(flat, middle, up.mT, alpha=scale).view(base_out.shape)


def fold_into_down(meta_down: Tensor, mid: Tensor) -> Tensor:
    """Fold an identity's mid into the shared meta-down, ``down = mid · meta_down``.

    Args:
        meta_down: Prior weight, (r_meta, in) or (r_meta, in, kh, kw).
        mid: Identity weight, (r_mid, r_meta).

    Returns:
        Down weight of a plain LoRA of rank r_mid, (r_mid, in) or (r_mid, in, kh, kw).

    Raises:
        RankMismatch: If mid does not have r_meta columns.
    """
    if mid.dim() != 2 or mid.shape[1] != meta_down.shape[0]:
        raise RankMismatch(
            f"mid has shape {tuple(mid.shape)}, expected (r_mid, {meta_down.shape[0]}) for this meta_down."
        )
    return (mid @ meta_down.flatten(1)).unflatten(1, meta_down.shape[1:])


def fold_into_up(mid: Tensor, up: Tensor) -> Tensor:
    """Fold an identity's mid into its up, ``up' = up · mid``; meta_down stays the down weight.

    Args:
        mid: (r_mid, r_meta).
        up: (out, r_mid).

    Returns:
        Up weight of a plain LoRA of rank r_meta, (out, r_meta).

    Raises:
        RankMismatch: If up does not have r_mid columns.
    """
    if mid.dim() != 2 or up.dim() != 2 or up.shape[1] != mid.shape[0]:
        raise RankMismatch(f"up has shape {tuple(up.shape)}, expected (out, {mid.shape[0]}) for this mid.")
    return up @ mid


def fold(meta_down: Tensor, mid: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Fold a chain into an ordinary LoRA of the smaller of both ranks.

    Args:
        meta_down: (r_meta, in) or (r_meta, in, kh, kw).
        mid: (r_mid, r_meta).
        up: (out, r_mid).

    Returns:
        (down, up) of rank ``min(r_mid, r_meta)`` with ``up @ down == up @ mid @ meta_down``.

    Raises:
        RankMismatch: If the factors do not form a chain.
    """
    check_chain(meta_down, mid, up)
    if mid.shape[0] <= mid.shape[1]:
        return fold_into_down(meta_down, mid), up
    return meta_down, fold_into_up(mid, up)


_WIDE = 4  # input features per row of meta_down from which the input is too large to keep


def keeps_input(meta_down: Tensor) -> bool:
    """Whether the input itself is kept for the backward pass, rather than its projection.

    In a narrow layer the projection costs as much as a good part of the layer itself, and the input is barely larger.

    Args:
        meta_down: (r_meta, in).
    """
    return meta_down.shape[1] < _WIDE * meta_down.shape[0]


def middle_of(x: Tensor, meta_down: Tensor, mid: Tensor) -> Tensor:
    """Middle activation ``mid · meta_down · x`` of a chain with frozen meta_down.

    For the backward pass either x or its r_meta numbers per token are kept, see ``keeps_input``.

    Args:
        x: Input of the adapted layer, (..., in).
        meta_down: (r_meta, in), without gradient.
        mid: (r_mid, r_meta).

    Returns:
        (tokens, r_mid).
    """
    if not keeps_input(meta_down):
        return cast(Tensor, _Projected.apply(x, meta_down, mid))
    return torch.mm(x.reshape(-1, x.shape[-1]), torch.mm(mid, meta_down).t())


def add_rows(base_out: Tensor, middle: Tensor, up: Tensor, scale: float = 1.0) -> Tensor:
    """Add ``scale · up · middle`` to the output of a frozen layer.

    Args:
        base_out: (..., out).
        middle: From ``middle_of``, (tokens, r_mid).
        up: (out, r_mid).
        scale: Factor inside ΔW times the user's strength.

    Returns:
        Shape of base_out.
    """
    # A product with contiguous rows has a backward pass with contiguous rows, see the head of this file.
    flat = base_out.reshape(-1, base_out.shape[-1])
    return torch.addmm(flat, middle, up.t().contiguous(), alpha=scale).view(base_out.shape)


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, meta_down: Tensor, mid: Tensor) -> Tensor:
        hidden = torch.mm(x.reshape(-1, x.shape[-1]), meta_down.t())
        ctx.shape = x.shape
        ctx.save_for_backward(hidden, meta_down, mid)
        return torch.mm(hidden, mid.t())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None]:
        hidden, meta_down, mid = ctx.saved_tensors
        wants = ctx.needs_input_grad
        for_x = torch.mm(grads[0], torch.mm(mid, meta_down)).view(ctx.shape) if wants[0] else None
        return for_x, None, torch.mm(grads[0].t(), hidden) if wants[2] else None
