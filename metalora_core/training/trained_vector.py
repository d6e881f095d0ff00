"""All trained factors of one identity in one vector, with their gradients in another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..chain import SlotLayout
from ..model.objective import loss_scale

__all__ = ["TrainedVector"]


class TrainedVector:
    """The factors as leaves that autograd writes straight into one gradient vector.

    Nothing is cut, joined or allocated in a step: every layer's mid and up is a leaf over its place in the vector, and
    its gradient a view of its place in the gradient vector. An optimizer sees two parameters, all mids and all ups.

    Args:
        layout: Where each factor lies.
        start: First values, (total,), float32; copied.
        dtype: What the model computes in; another one than float32 gets a copy that ``cast`` brings up to date.
    """

    def __init__(self, layout: SlotLayout, start: Tensor, dtype: torch.dtype) -> None:
        self.flat = start.detach().clone()
        """All values, (total,), float32; may be written to between two steps."""
        self._gradient = torch.zeros_like(self.flat)
        cut = layout.mid_total
        self.parameters: tuple[Tensor, Tensor] = (_leaf(self.flat[:cut]), _leaf(self.flat[cut:]))
        """All mids and all ups, for an optimizer."""
        for parameter, gradient in zip(self.parameters, (self._gradient[:cut], self._gradient[cut:]), strict=True):
            parameter.grad = gradient
        self.loss_scale = loss_scale(dtype)
        """What the loss has to be multiplied by before its backward pass."""
        same = dtype == torch.float32
        self._used = self.flat if same else self.flat.to(dtype)
        self._used_gradient = self._gradient if same else torch.zeros_like(self._used)
        self.factors: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] = _leaves(
            layout, self._used, self._used_gradient
        )
        """mid and up per target, for the forward pass."""

    def cast(self) -> None:
        """Bring the factors of the forward pass up to date with the vector."""
        if self._used is not self.flat:
            self._used.copy_(self.flat)

    def gather_gradients(self) -> None:
        """Bring the gradients of the backward pass to where an optimizer looks for them."""
        if self._used is not self.flat:
            self._gradient.copy_(self._used_gradient).div_(self.loss_scale)

    def zero_gradients(self) -> None:
        """Forget the gradients."""
        self._used_gradient.zero_()


def _leaf(view: Tensor) -> Tensor:
    return view.detach().requires_grad_()


def _leaves(layout: SlotLayout, flat: Tensor, gradient: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    values, gradients = layout.unpack(flat), layout.unpack(gradient)
    leaves = tuple({name: _leaf(view) for name, view in kind.items()} for kind in values)
    for kind, places in zip(leaves, gradients, strict=True):
        for name, leaf in kind.items():
            leaf.grad = places[name]
    return leaves[0], leaves[1]
