"""What a safetensors file is, how it was made and how large it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from torch import Tensor

from ..model.families import bases
from .bounded import read_safetensors
from .metadata import raw_record

PRIOR_KIND = "Meta-LoRA prior"
"""What a prior is called."""
_KINDS = {
    "metalora.prior": PRIOR_KIND,
    "metalora.identity": "Meta-LoRA identity",
    "metalora.checkpoint": "checkpoint of a running training",
    "metalora.pocket": "part of the pocket world",
}
# The first matching key pattern decides; only files without a record of ours are guessed.
_GUESSES = (
    (".lora_up", "LoRA (kohya or ComfyUI keys)"),
    (".lora_A", "LoRA (diffusers or PEFT keys)"),
    ("taesd_", "tiny autoencoder"),
)
_LONGEST_TEXT = 200
_LABEL = 17  # characters


@dataclass(frozen=True)
class FileDescription:
    """One inspected file.

    Attributes:
        path: Its path.
        kind: What it is, in words.
        size_bytes: Length of the file.
        sha256: Of the whole file.
        tensors: How many there are.
        parameters: How many numbers they hold.
        dtypes: Number of tensors of each dtype.
        made: What its metadata says about how it was made.
        layers: For a prior or an identity, the shapes of each target's factors.
    """

    path: str
    kind: str
    size_bytes: int
    sha256: str
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    made: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, tuple[int, ...]]]

    def fields(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A page for people."""
        dtypes = ", ".join(f"{count} × {dtype}" for dtype, count in self.dtypes.items())
        counts = f"{self.parameters:,} parameters in {self.tensors} tensors ({dtypes})"
        told = {key: value for key, value in sorted(self.made.items()) if value not in ("", None, [], {})}
        lines = [
            f"{self.path}: {self.kind}",
            f"  {'size':<{_LABEL}} {self.size_bytes:,} bytes, {counts}",
            f"  {'sha256':<{_LABEL}} {self.sha256}",
            *(f"  {_short(key):<{_LABEL}} {_short(value)}" for key, value in told.items()),
        ]
        if self.layers:
            lines.append(f"  {'targets':<{_LABEL}} {len(self.layers)}")
            lines += [f"    {_short(name)}: {_shapes(factors)}" for name, factors in self.layers.items()]
        return "\n".join(lines)


def describe_file(path: Path) -> FileDescription:
    """Read a safetensors file and describe it.

    Args:
        path: A prior, identity, checkpoint, LoRA or model file.

    Raises:
        UnreadableFile: If it is missing, damaged, oversized, a pickle or contains NaN.
    """
    file = read_safetensors(path)
    record = raw_record(path.name, file.metadata)
    kind = _KINDS.get(str((record or {}).get("format")), "") or _guess(file.tensors)
    dtypes: dict[str, int] = {}
    for tensor in file.tensors.values():
        name = str(tensor.dtype).removeprefix("torch.")
        dtypes[name] = dtypes.get(name, 0) + 1
    return FileDescription(
        path=str(path),
        kind=kind,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        tensors=len(file.tensors),
        parameters=sum(tensor.numel() for tensor in file.tensors.values()),
        dtypes=dtypes,
        made=record if record is not None else {key: _decoded(text) for key, text in file.metadata.items()},
        layers=_layers(file.tensors) if record is not None and kind in _KINDS.values() else {},
    )


def _guess(tensors: Mapping[str, Tensor]) -> str:
    for pattern, kind in _GUESSES:
        if any(pattern in key for key in tensors):
            return kind
    for base in bases():
        if any(mark in key for mark in base.marks for key in tensors):
            return f"{base.title} model"
    if any("transformer_blocks." in key for key in tensors):
        return "model with diffusers' keys"
    return "safetensors file of unknown kind"


def _layers(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, tuple[int, ...]]]:
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, tensor in tensors.items():
        target, _, factor = key.rpartition(".")
        if factor in ("meta_down", "mid_init", "up_init", "mid", "up"):
            found.setdefault(target, {})[factor] = tuple(tensor.shape)
    return dict(sorted(found.items()))


def _shapes(factors: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {'×'.join(str(size) for size in shape)}" for name, shape in factors.items())


def _decoded(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return text


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
