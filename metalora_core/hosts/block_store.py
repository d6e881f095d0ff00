"""Blocks whose weights lie elsewhere, or in fewer bits, and are made ready only while they compute.

For a card that is smaller than its model: main memory holds the blocks, the next one is copied while one computes. A
training also has to recompute blocks in the backward pass, since what autograd keeps of a block includes its weights.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["BlockPlace", "BlockStore", "blocks_of"]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a transformer, in the order in which they compute."""
    lists = [child for child in model.children() if isinstance(child, nn.ModuleList)]
    return [block for members in lists for block in members if next(block.parameters(), None) is not None]


@dataclass(frozen=True)
class BlockPlace:
    """Where a loaded model's blocks are kept.

    Args:
        in_main_memory: Rather than on the card.
        dtype: What their matrices are kept in; None for what the model computes in.
    """

    in_main_memory: bool = False
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class _Stored:
    """A parameter of a block: where it belongs and in what type it computes."""

    module: nn.Module
    name: str
    parameter: nn.Parameter
    dtype: torch.dtype


class BlockStore:
    """Keeps the blocks of a model at home and copies each to the device for the length of its forward pass.

    The parameters in the module tree are the stored ones whenever no block computes, so names, shapes and digests stay
    as they are. Copies are new tensors: autograd may keep one as long as a backward pass needs it.

    Args:
        model: A transformer whose blocks stand in module lists.
        device: Where blocks compute.
        home: Where they are kept.
        dtype: What matrices are kept in, such as ``torch.float8_e4m3fn``; None for what they have. They compute in the
            type that they had: fewer bits change the model, once.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, home: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        self._device, self._home = device, home
        self._side = torch.cuda.Stream(device) if device.type == "cuda" and home.type == "cpu" else None
        self._blocks = [self._put_away(block, dtype) for block in blocks_of(model)]
        self._ahead: dict[int, list[Tensor]] = {}
        self._last = -1
        self._handles: list[RemovableHandle] = []
        for number, block in enumerate(blocks_of(model)):
            self._handles.append(block.register_forward_pre_hook(_Before(self, number)))
            self._handles.append(block.register_forward_hook(_After(self, number), always_call=True))

    def _put_away(self, block: nn.Module, dtype: torch.dtype | None) -> list[_Stored]:
        stored: list[_Stored] = []
        for module in block.modules():
            for name, parameter in module.named_parameters(recurse=False):
                computes_in = parameter.dtype
                kept = parameter.data.to(self._home, dtype if dtype and parameter.dim() > 1 else computes_in)
                parameter.data = kept.pin_memory() if self._side else kept
                stored.append(_Stored(module, name, parameter, computes_in))
        return stored

    def bring_back(self) -> None:
        """Put every block on the device for good, in the type it computes in; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()
        self._ahead.clear()
        for block in self._blocks:
            for stored in block:
                stored.parameter.data = stored.parameter.data.to(self._device, stored.dtype)
        self._blocks = []

    def make_ready(self, number: int) -> None:
        """Give a block its weights, and begin to copy those of the block that comes next in this direction."""
        ready = self._ahead.pop(number, None)
        self._ahead.clear()
        copies = self._copies(number) if ready is None else ready
        if self._side is not None:
            present = torch.cuda.current_stream(self._device)
            present.wait_stream(self._side)
            for copy in copies:
                copy.record_stream(present)
        for stored, copy in zip(self._blocks[number], copies, strict=True):
            setattr(stored.module, stored.name, nn.Parameter(copy, requires_grad=False))
        following = number + (1 if number >= self._last else -1)
        self._last = number
        if self._side is not None and 0 <= following < len(self._blocks):
            self._ahead[following] = self._copies(following)

    def put_back(self, number: int) -> None:
        """Take a block's copies out of the module tree."""
        for stored in self._blocks[number]:
            setattr(stored.module, stored.name, stored.parameter)

    def _copies(self, number: int) -> list[Tensor]:
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            return [
                stored.parameter.detach().to(self._device, non_blocking=True, copy=True).to(stored.dtype)
                for stored in self._blocks[number]
            ]

    @contextmanager
    def for_a_while(self) -> Generator[None]:
        """Bring the blocks back at the end."""
        try:
            yield
        finally:
            self.bring_back()


@dataclass(frozen=True)
class _Before:
    store: BlockStore
    number: int

    def __call__(self, _block: nn.Module, _inputs: Any) -> None:
        self.store.make_ready(self.number)


@dataclass(frozen=True)
class _After:
    store: BlockStore
    number: int

    def __call__(self, _block: nn.Module, _inputs: Any, _output: Any) -> None:
        self.store.put_back(self.number)
