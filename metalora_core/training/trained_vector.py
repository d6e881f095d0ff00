"""All trained factors in one vector, with their gradients in another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..chain import SlotLayout
from ..model.objective import loss_scale

__all__ = ["TrainedVector"]


class TrainedVector:
    """The factors as leaves that autograd writes straight into one gradient vector.

    A step neither splits, joins nor allocates anything: every layer's mid and up is a leaf over its place in the
    vector, and its gradient a view of its place in the gradient vector. An optimizer sees two parameters, all mids and
    all ups.

    Args:
        layout: Where each factor of a subject lies.
        start: First values of every subject, (total,), float32; copied.
        dtype: What the model computes in; with any other than float32, ``cast`` updates a copy.
        subjects: How many lie side by side; factors of one have no batch axis.
    """

    def __init__(self, layout: SlotLayout, start: Tensor, dtype: torch.dtype, subjects: int = 1) -> None:
        self._layout, self._subjects, self._sizes = layout, subjects, layout.mid_sizes + layout.up_sizes
        self.flat = self.spread(start.detach())
        """All values, (subjects · total,), float32, the subjects of a layer side by side; may be written to between two
        steps."""
        self._gradient = torch.zeros_like(self.flat)
        cut = subjects * layout.mid_total
        self.parameters: tuple[Tensor, Tensor] = (
            _leaf(self.flat[:cut], self._gradient[:cut]),
            _leaf(self.flat[cut:], self._gradient[cut:]),
        )
        """All mids and all ups, for an optimizer."""
        self.loss_scale = loss_scale(dtype)
        """Factor on a loss before its backward pass."""
        same = dtype == torch.float32
        self._used = self.flat if same else self.flat.to(dtype)
        self._used_gradient = self._gradient if same else torch.zeros_like(self._used)
        self.factors: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] = self._leaves()
        """mid and up per target, for the forward pass: (r_mid, r_meta) and (out, r_mid), of several subjects with
        (subjects, …) in front."""

    def spread(self, values: Tensor, shares: Tensor | None = None) -> Tensor:
        """(total,) numbers of one subject for all of them, in the order of ``flat``, times each one's share; a copy."""
        factors = torch.ones(self._subjects, 1, device=values.device) if shares is None else shares[:, None]
        return torch.cat([(piece * factors).flatten() for piece in values.split(self._sizes)])

    def by_subject(self) -> Tensor:
        """A copy of all values, (subjects, total)."""
        pieces = self.flat.split([self._subjects * size for size in self._sizes])
        return torch.cat([piece.view(self._subjects, -1) for piece in pieces], dim=1)

    def cast(self) -> None:
        """Update the forward pass's factors from the vector."""
        if self._used is not self.flat:
            self._used.copy_(self.flat)

    def gather_gradients(self) -> None:
        """Put the backward pass's gradients where the optimizer expects them."""
        if self._used is not self.flat:
            self._gradient.copy_(self._used_gradient).div_(self.loss_scale)

    def zero_gradients(self) -> None:
        """Clear the gradients."""
        self._used_gradient.zero_()

    def _leaves(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        layout, side_by_side = self._layout, (self._subjects,) if self._subjects > 1 else ()
        shapes = [(*side_by_side, *shape) for kind in (layout.mid_shapes, layout.up_shapes) for shape in kind.values()]
        sizes = [self._subjects * size for size in self._sizes]
        places = zip(self._used.split(sizes), self._used_gradient.split(sizes), shapes, strict=True)
        leaves = [_leaf(values.view(shape), gradient.view(shape)) for values, gradient, shape in places]
        names, count = layout.names, len(layout.names)
        return dict(zip(names, leaves[:count], strict=True)), dict(zip(names, leaves[count:], strict=True))


def _leaf(values: Tensor, gradient: Tensor) -> Tensor:
    leaf = values.detach().requires_grad_()
    leaf.grad = gradient
    return leaf
