"""The chain as a training of one identity computes it: meta_down frozen, one mid and one up for the whole batch.

Three things are left out that the plain products of ``functional`` would do. Nothing of size tokens × r_meta is
multiplied in the backward pass, since ``mid · meta_down`` is folded first. A layer's input is not kept where its r_meta
projected numbers are fewer by much. And products with one thin side are laid out so that the long side is contiguous,
which is several times faster on a CPU.
Source: Meta-LoRA, arXiv 2503.22352, section 3.3.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["add_rows", "chain_rows", "keeps_input", "middle_of"]

_WIDE = 16  # input features per row of meta_down from which the input is too large to keep


def keeps_input(meta_down: Tensor) -> bool:
    """Whether the input itself is kept for the backward pass, rather than its projection.

    In a narrow layer the projection costs as much as a good part of the layer itself, and the input is hardly larger.

    Args:
        meta_down: (r_meta, in).
    """
    return meta_down.shape[1] < _WIDE * meta_down.shape[0]


def middle_of(x: Tensor, meta_down: Tensor, mid: Tensor) -> Tensor:
    """Middle activation ``mid · meta_down · x`` of a chain with frozen meta_down.

    For the backward pass either x or its r_meta numbers a token are kept, see ``keeps_input``.

    Args:
        x: Input of the adapted layer, (..., in).
        meta_down: (r_meta, in), without gradient.
        mid: (r_mid, r_meta).

    Returns:
        (tokens, r_mid).
    """
    return cast(Tensor, _Middle.apply(x, meta_down, mid))


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
    return cast(Tensor, _AddRows.apply(base_out, middle, up, scale))


def chain_rows(base_out: Tensor, x: Tensor, meta_down: Tensor, mid: Tensor, up: Tensor, scale: float = 1.0) -> Tensor:
    """``middle_of`` and ``add_rows`` in one, for a layer that is a single module of the host.

    Args:
        base_out: (..., out).
        x: Its input, (..., in).
        meta_down: (r_meta, in), without gradient.
        mid: (r_mid, r_meta).
        up: (out, r_mid).
        scale: Factor inside ΔW times the user's strength.

    Returns:
        Shape of base_out.
    """
    return cast(Tensor, _Chain.apply(base_out, x, meta_down, mid, up, scale))


# Shared by the three functions below; every product here is of two plain matrices.
def _go_in(x: Tensor, meta_down: Tensor, mid: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Middle activation; what is kept of the input; mid · meta_down where it was folded."""
    tokens = x.reshape(-1, x.shape[-1])
    if keeps_input(meta_down):
        down = torch.mm(mid, meta_down)
        return torch.mm(tokens, down.t()), tokens, down
    hidden = torch.mm(tokens, meta_down.t())
    return torch.mm(hidden, mid.t()), hidden, None


def _go_back_in(
    grad: Tensor, kept: Tensor, meta_down: Tensor, mid: Tensor, down: Tensor | None, for_x: bool, for_mid: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the input (tokens, in) and of mid, from that of the middle activation."""
    mid_grad = None
    if for_mid:
        mid_grad = torch.mm(grad.t(), kept)
        mid_grad = mid_grad if down is None else torch.mm(mid_grad, meta_down.t())
    if not for_x:
        return None, mid_grad
    return torch.mm(grad, torch.mm(mid, meta_down) if down is None else down), mid_grad


def _rows(up: Tensor, scale: float) -> Tensor:
    rows = up.t().contiguous()
    return rows if scale == 1 else rows.mul_(scale)


def _up_gradient(middle: Tensor, grad: Tensor, scale: float) -> Tensor:
    rows = torch.mm(middle.t(), grad)
    return (rows if scale == 1 else rows.mul_(scale)).t()


class _Middle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, meta_down: Tensor, mid: Tensor) -> Tensor:
        middle, kept, down = _go_in(x, meta_down, mid)
        ctx.shape = x.shape
        ctx.save_for_backward(kept, meta_down, mid, down)
        return middle

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, None, Tensor | None]:
        wants = ctx.needs_input_grad
        kept, meta_down, mid, down = ctx.saved_tensors
        x_grad, mid_grad = _go_back_in(grads[0], kept, meta_down, mid, down, wants[0], wants[2])
        return None if x_grad is None else x_grad.view(ctx.shape), None, mid_grad


class _AddRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base_out: Tensor, middle: Tensor, up: Tensor, scale: float) -> Tensor:
        rows = _rows(up, scale)
        ctx.scale = scale
        ctx.save_for_backward(middle, rows)
        return torch.addmm(base_out.reshape(-1, base_out.shape[-1]), middle, rows).view(base_out.shape)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        middle, rows = ctx.saved_tensors
        wants, flat = ctx.needs_input_grad, grads[0].reshape(-1, grads[0].shape[-1])
        for_middle = torch.mm(flat, rows.t()) if wants[1] else None
        for_up = _up_gradient(middle, flat, ctx.scale) if wants[2] else None
        return grads[0] if wants[0] else None, for_middle, for_up, None


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, base_out: Tensor, x: Tensor, meta_down: Tensor, mid: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        middle, kept, down = _go_in(x, meta_down, mid)
        rows = _rows(up, scale)
        ctx.scale, ctx.shape = scale, x.shape
        ctx.save_for_backward(middle, rows, kept, meta_down, mid, down)
        return torch.addmm(base_out.reshape(-1, base_out.shape[-1]), middle, rows).view(base_out.shape)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, Tensor | None, Tensor | None, None]:
        middle, rows, kept, meta_down, mid, down = ctx.saved_tensors
        wants, flat = ctx.needs_input_grad, grads[0].reshape(-1, grads[0].shape[-1])
        x_grad = mid_grad = None
        if wants[1] or wants[3]:
            for_middle = torch.mm(flat, rows.t())
            x_grad, mid_grad = _go_back_in(for_middle, kept, meta_down, mid, down, wants[1], wants[3])
        for_x = None if x_grad is None else x_grad.view(ctx.shape)
        for_up = _up_gradient(middle, flat, ctx.scale) if wants[4] else None
        return grads[0] if wants[0] else None, for_x, None, mid_grad, for_up, None
