"""A hash of anything that nodes attach to a model: numbers, tensors, layers, functions with what they have captured."""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ....metalora_core.model.weights_digest import sampled_bytes

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, enum.Enum, type(None), type(Ellipsis))
# What decides the effect of a carried object; its other fields change when it is put into a loaded model.
_DECIDING = {
    "WeightAdapterBase": ("weights",),
    "BypassForwardHook": ("adapter", "multiplier"),
    "BypassInjectionManager": ("adapters",),
    "BesideWeights": ("factors", "strength"),
    "AskedAtStart": ("decides_nothing",),
}
_DEEPEST = 40


class StateHash:
    """Collects values into one digest.

    Attributes:
        unknown: Types whose effect cannot be hashed, such as a generator; with any of them two digests say nothing.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is unique only while its object lives
        self.unknown: set[str] = set()

    def add(self, value: Any, depth: int = 0) -> StateHash:
        """Add a value and all that it holds; what was added before counts by its place."""
        if depth > _DEEPEST:
            self.unknown.add(type(value).__qualname__)
        elif isinstance(value, _PLAIN):
            self._note(f"{type(value).__qualname__} {value!r}")
        elif id(value) in self._seen:
            self._note(f"again {self._seen[id(value)]}")
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._add_compound(value, depth + 1)
        return self

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def _note(self, text: str) -> None:
        self._digest.update(f"{text}\n".encode(errors="surrogatepass"))

    def _add_all(self, what: str, values: Iterable[Any], depth: int) -> None:
        values = list(values)
        self._note(f"{what} {len(values)}")
        for value in values:
            self.add(value, depth)

    def _add_compound(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            self._note(f"tensor {tuple(value.shape)} {value.dtype}")
            self._digest.update(sampled_bytes(value))
        elif isinstance(value, nn.Module):
            self._add_layer(value, depth)
        elif isinstance(value, Mapping):
            pairs = sorted(value.items(), key=lambda pair: repr(pair[0]))
            self._add_all("mapping", (part for pair in pairs for part in pair), depth)
        elif isinstance(value, (set, frozenset)):
            self._add_all("set", sorted(value, key=repr), depth)
        elif isinstance(value, (list, tuple)):
            self._add_all(type(value).__name__, value, depth)
        elif isinstance(value, type):
            self._note(f"class {value.__module__}.{value.__qualname__}")
        elif callable(value) and self._add_function(value, depth):
            return
        else:
            self._add_object(value, depth)

    def _add_layer(self, layer: nn.Module, depth: int) -> None:
        self._add_all("layer", (kind.__qualname__ for kind in type(layer).__mro__), depth)
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            self._note(f"{name} {tuple(tensor.shape)} {tensor.dtype}")
            self._digest.update(sampled_bytes(tensor))
        fields = {name: kept for name, kept in vars(layer).items() if name[0] != "_" and isinstance(kept, _PLAIN)}
        self.add(fields, depth)

    def _add_function(self, value: Any, depth: int) -> bool:
        if isinstance(value, types.MethodType):
            self._add_all("method", (value.__func__, value.__self__), depth)
        elif isinstance(value, types.FunctionType):
            code = value.__code__
            self._note(f"function {value.__module__}.{value.__qualname__} {code.co_names}")
            self._digest.update(code.co_code)
            cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
            self._add_all("holds", (code.co_consts, value.__defaults__, value.__kwdefaults__, *cells), depth)
        elif isinstance(value, functools.partial):
            self._add_all("partial", (value.func, value.args, value.keywords), depth)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType)):
            self._note(f"built in {value.__qualname__}")
        else:
            return False
        return True

    def _add_object(self, value: Any, depth: int) -> None:
        names = {name for kind in type(value).__mro__ for name in _DECIDING.get(kind.__name__, ())}
        if isinstance(value, types.CodeType):
            self._note(f"code {value.co_names}")
            self._digest.update(value.co_code)
        elif names or hasattr(value, "__dict__"):
            fields = {name: getattr(value, name, None) for name in names} if names else vars(value)
            self._note(f"object {type(value).__module__}.{type(value).__qualname__}")
            self.add(dict(fields), depth)
        else:
            self.unknown.add(type(value).__qualname__)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True
