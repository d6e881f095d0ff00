"""Block swap: blocks with offloaded weights, or weights in fewer bits, made ready only while they compute.

For a card that is smaller than its model: main memory holds the blocks, the next one is copied while one computes. A
training also has to recompute blocks in the backward pass, since what autograd keeps of a block includes its weights.
The group offloading and layerwise casting of diffusers exchange a parameter's data in place, which a backward pass does
not survive; here a block computes with tensors of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import InvalidOptions
from ..model.families import Family

__all__ = ["BlockPlace", "BlockStore", "move_to", "repeated_blocks"]

_IN_FLIGHT = 2  # blocks that the processor may run ahead of the card, each with its copy of the weights


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
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

    def check(self, device: torch.device, family: Family) -> None:
        """Raise ``InvalidOptions`` unless a model's blocks can be kept there.

        Args:
            device: Where the model computes.
            family: Its architecture.
        """
        if self != BlockPlace() and not family.swaps_blocks:
            raise InvalidOptions("The blocks of this model cannot be offloaded; load it in float16 instead.")
        if self.in_main_memory and device.type != "cuda":
            raise InvalidOptions(f"The blocks are already in main memory: this model computes on {device.type}.")


def move_to(model: nn.Module, device: torch.device, *, leave_blocks: bool) -> None:
    """Move a model to its device, or all of it but the blocks."""
    if not leave_blocks:
        model.to(device)
        return
    for child in model.children():
        if not isinstance(child, nn.ModuleList):
            child.to(device)


@dataclass(frozen=True)
class _Stored:
    """A parameter of a block: where it belongs and in what type it computes."""

    module: nn.Module
    name: str
    parameter: nn.Parameter
    dtype: torch.dtype


class BlockStore:
    """Keeps the blocks of a model offloaded and copies each to the device for the length of its forward pass.

    The parameters in the module tree are the stored ones whenever no block computes, so names and shapes stay as they
    are. Copies are new tensors: autograd may keep one as long as a backward pass needs it.

    Args:
        model: A transformer with its blocks in module lists.
        device: Where blocks compute.
        offload_device: Where they are kept.
        dtype: What matrices are kept in, such as ``torch.float8_e4m3fn``; None for what they have. They compute in the
            type that they had: fewer bits change the model, once.
        prefetch: Copy the next block while one computes; None to do so where copying runs in parallel, on a card.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        offload_device: torch.device,
        dtype: torch.dtype | None = None,
        *,
        prefetch: bool | None = None,
    ) -> None:
        self._device, self._offload_device = device, offload_device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" and offload_device.type == "cpu" else None
        self._prefetch = self._side is not None if prefetch is None else prefetch
        self._blocks: list[list[_Stored]] = []
        self._handles: list[RemovableHandle] = []
        self._ahead: dict[int, list[Tensor]] = {}
        self._computed: list[Any] = []
        self._last = -1
        try:
            for number, block in enumerate(repeated_blocks(model)):
                self._blocks.append([])
                for stored in _parameters_of(block):
                    self._blocks[-1].append(stored)
                    self._offload(stored, dtype)
                self._handles.append(block.register_forward_pre_hook(_Before(self, number)))
                self._handles.append(block.register_forward_hook(_After(self, number), always_call=True))
        except BaseException:
            self.onload()
            raise

    def _offload(self, stored: _Stored, dtype: torch.dtype | None) -> None:
        kept = stored.parameter.data.to(self._offload_device, dtype if stored.parameter.dim() > 1 else None)
        stored.parameter.data = kept.pin_memory() if self._side else kept

    def onload(self) -> None:
        """Put every block on the device permanently, in its compute type; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()
        self._ahead.clear()
        self._computed.clear()
        for number, block in enumerate(self._blocks):
            self.put_back(number)
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
        if self._prefetch and 0 <= following < len(self._blocks):
            while len(self._computed) >= _IN_FLIGHT:
                self._computed.pop(0).synchronize()
            self._ahead[following] = self._copies(following)

    def put_back(self, number: int) -> None:
        """Take a block's copies out of the module tree."""
        for stored in self._blocks[number]:
            setattr(stored.module, stored.name, stored.parameter)
        if self._side is not None and self._handles:
            self._computed.append(torch.cuda.current_stream(self._device).record_event())

    def _copies(self, number: int) -> list[Tensor]:
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            return [
                stored.parameter.detach()
                .to(self._device, non_blocking=True, copy=stored.parameter.dtype == stored.dtype)
                .to(stored.dtype)
                for stored in self._blocks[number]
            ]


def _parameters_of(block: nn.Module) -> Iterator[_Stored]:
    for module in block.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield _Stored(module, name, parameter, parameter.dtype)


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
