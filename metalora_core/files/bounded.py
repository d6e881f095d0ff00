"""Reading safetensors from strangers: nothing is allocated before the header has been proved.

The layout is the published one: eight bytes of header length (little endian), a JSON header, the tensors. No pickle is
ever opened, so a file cannot run code; a file that lies about its shapes, offsets or length is refused in words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import UnreadableFile

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
_PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class ReadLimits:
    """What a file may ask for before a single tensor is allocated.

    Args:
        file_bytes: Largest file, bytes.
        header_bytes: Largest JSON header, bytes.
        tensors: Most tensors.
        dimensions: Most dimensions of one tensor.
    """

    file_bytes: int = 16 * 1024**3
    header_bytes: int = 16 * 1024**2
    tensors: int = 50_000
    dimensions: int = 6


@dataclass(frozen=True)
class SafetensorsFile:
    """One file, read and checked.

    Args:
        tensors: Name to tensor, on the CPU, owned (no memory map keeps the file open).
        metadata: The header's text entries.
        sha256: Of all bytes of the file, hexadecimal.
        size_bytes: Length of the file.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def read_safetensors(path: Path | str, limits: ReadLimits | None = None, *, finite: bool = True) -> SafetensorsFile:
    """Read a safetensors file, refusing whatever is malformed, oversized or not finite.

    Args:
        path: The file.
        limits: What it may ask for; `ReadLimits` by default.
        finite: Whether NaN and infinity are refused.

    Returns:
        Tensors, metadata, hash and size.

    Raises:
        UnreadableFile: With the file's name, what was found and what to do.
    """
    path, limits = Path(path), limits or ReadLimits()
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise UnreadableFile(f"{path} is not a file. Give the path of a .safetensors file.")
        if size > limits.file_bytes:
            raise UnreadableFile(f"{path.name} has {size} bytes, at most {limits.file_bytes} are accepted.")
        # One buffer of the proved size: a large file stands in memory once, and growing meanwhile does not matter.
        data = bytearray(size)
        with path.open("rb") as file:
            del data[file.readinto(data) :]
    except OSError as error:
        raise UnreadableFile(f"{path} could not be opened ({error.strerror or error}). Check the path.") from error
    entries, metadata, data_start = _parse_header(path.name, data, limits, len(data))
    tensors = {entry.name: _view(data, data_start, entry) for entry in entries}
    if finite:
        _refuse_non_finite(path.name, tensors)
    return SafetensorsFile(tensors, metadata, hashlib.sha256(data).hexdigest(), len(data))


def read_keys(path: Path | str, limits: ReadLimits | None = None) -> list[str]:
    """Names of a file's tensors, without reading them.

    Raises:
        UnreadableFile: If the header is malformed or oversized.
    """
    path, limits = Path(path), limits or ReadLimits()
    try:
        with path.open("rb") as file:
            head = bytearray(file.read(8))
            # A header that announces too much is read only so far, and refused by the parser.
            head += file.read(min(int.from_bytes(head, "little"), limits.header_bytes))
    except OSError as error:
        raise UnreadableFile(f"{path} could not be opened ({error.strerror or error}). Check the path.") from error
    return [entry.name for entry in _parse_header(path.name, head, limits, data_bytes=None)[0]]


def _view(data: bytearray, data_start: int, entry: _Entry) -> Tensor:
    if entry.start == entry.stop:
        return torch.empty(entry.shape, dtype=entry.dtype)
    raw = torch.frombuffer(data, dtype=torch.uint8, offset=data_start + entry.start, count=entry.stop - entry.start)
    # The clone gives each tensor its own aligned memory, so that the file's buffer is not kept alive by one of them.
    return raw.clone().view(entry.dtype).reshape(entry.shape)


def _refuse_non_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    bad = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise UnreadableFile(
            f"{name} holds NaN or infinite values in {len(bad)} of {len(tensors)} tensors, first {bad[0]!r}; "
            "finite numbers are needed. The run that wrote it diverged: make the file again with a lower learning rate."
        )


def _parse_header(
    name: str, data: bytearray, limits: ReadLimits, data_bytes: int | None
) -> tuple[list[_Entry], dict[str, str], int]:
    advice = "The file is damaged or no safetensors file: copy or download it again."
    if len(data) < 8:
        raise UnreadableFile(f"{name} has {len(data)} bytes, too few for a safetensors header. {advice}")
    length = int.from_bytes(data[:8], "little")
    if length > limits.header_bytes or length > len(data) - 8:
        if bytes(data[:2]) in _PICKLE_STARTS:
            raise UnreadableFile(
                f"{name} is a zip or pickle file under another name; pickles can run code and are never opened. "
                "Convert it to safetensors."
            )
        raise UnreadableFile(
            f"{name} announces a header of {length} bytes; the file has {len(data)} bytes and at most "
            f"{limits.header_bytes} are accepted. {advice}"
        )
    try:
        header: Any = json.loads(bytes(data[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{name} has a header that is no valid JSON ({error}). {advice}") from error
    if not isinstance(header, dict):
        raise UnreadableFile(f"{name} has a header that is no JSON object. {advice}")
    fields = cast("dict[str, Any]", header)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in cast("dict[str, Any]", metadata).values()):
        raise UnreadableFile(f"{name} has metadata that is no map of texts. {advice}")
    if len(fields) > limits.tensors:
        raise UnreadableFile(f"{name} lists {len(fields)} tensors, at most {limits.tensors} are accepted.")
    entries = sorted(
        (_entry(name, key, value, limits) for key, value in fields.items()), key=lambda e: (e.start, e.stop)
    )
    if data_bytes is not None:
        _check_coverage(name, entries, data_bytes - 8 - length)
    return entries, cast("dict[str, str]", metadata), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _naturals(value: Any) -> list[int] | None:
    items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [None]
    return items if all(type(item) is int and item >= 0 for item in items) else None


def _entry(name: str, key: str, value: Any, limits: ReadLimits) -> _Entry:
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    dtype = DTYPES.get(str(fields.get("dtype")))
    shape, offsets = _naturals(fields.get("shape")), _naturals(fields.get("data_offsets"))
    if dtype is None or shape is None or offsets is None or len(offsets) != 2 or set(fields) - _ENTRY_KEYS:
        raise UnreadableFile(
            f"{name} describes tensor {key!r} as {str(value)[:120]}; a known dtype ({', '.join(DTYPES)}), a shape and "
            "two offsets are needed. Convert the file or copy it again."
        )
    if len(shape) > limits.dimensions:
        raise UnreadableFile(
            f"{name}: tensor {key!r} has {len(shape)} dimensions, at most {limits.dimensions} are accepted."
        )
    numel = 1
    for length in shape:
        numel *= length
    if not numel and any(length > limits.file_bytes for length in shape):
        raise UnreadableFile(f"{name}: tensor {key!r} is empty, yet of shape {shape}; no side can be that long.")
    if numel * dtype.itemsize != offsets[1] - offsets[0]:
        raise UnreadableFile(
            f"{name}: tensor {key!r} of shape {shape} needs {numel * dtype.itemsize} bytes but the header gives it "
            f"{offsets[1] - offsets[0]}. The file is damaged: copy or download it again."
        )
    return _Entry(key, dtype, tuple(shape), offsets[0], offsets[1])


def _check_coverage(name: str, entries: list[_Entry], data_bytes: int) -> None:
    position = 0
    for entry in entries:
        if entry.start != position:
            raise UnreadableFile(
                f"{name}: tensor {entry.name!r} starts at byte {entry.start}, {position} was expected. "
                "The file is damaged: copy or download it again."
            )
        position = entry.stop
    if position != data_bytes:
        raise UnreadableFile(
            f"{name} holds {data_bytes} bytes of tensors, its header describes {position}. "
            "The file is cut off or damaged: copy or download it again."
        )
