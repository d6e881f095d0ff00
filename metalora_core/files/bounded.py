"""Reading untrusted files: regular files only, and no tensor is allocated before the header is validated.

The safetensors library validates the header, its offsets and the length of the file. No pickle is ever opened.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checks import plain_line
from ..errors import DamagedFile, UnreadableFile

DIMENSIONS_AT_MOST = 8
"""Of a tensor; torch itself fails above 64, in words of its own."""
_PICKLE_STARTS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class ReadLimits:
    """Most bytes of a file and of its JSON header, and most tensors, before one of them is allocated."""

    file_bytes: int = 16 * 1024**3
    header_bytes: int = 16 * 1024**2
    tensors: int = 50_000


@dataclass(frozen=True)
class SafetensorsFile:
    """Tensors on the CPU (no memory map keeps the file open), text entries, SHA-256 of all bytes, and their number."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str
    size_bytes: int


def open_regular(path: Path | str) -> BufferedReader:
    """Open a file for reading; a pipe or a device, which could block or never end, is refused unopened.

    Raises:
        UnreadableFile: If it is missing, unreadable or not a regular file.
    """
    shown = plain_line(str(path), 300)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UnreadableFile(f"{shown} is not a file but a folder, pipe or device. Give the path of a file.")
        return open(path, "rb")
    except (OSError, ValueError) as error:  # a ValueError is a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UnreadableFile(f"{shown} could not be opened ({reason}). Check the path.") from error


def read_safetensors(
    path: Path | str,
    limits: ReadLimits | None = None,
    *,
    finite: bool = True,
    check: Callable[[str, Mapping[str, str]], object] | None = None,
) -> SafetensorsFile:
    """Read a safetensors file, refusing whatever is malformed, oversized or not finite.

    Args:
        path: The file.
        limits: What it may ask for; `ReadLimits` by default.
        finite: Whether NaN and infinity are refused.
        check: Called with the file's name and its metadata before a tensor is read; it may raise.

    Raises:
        DamagedFile: If it is truncated, changed or not finite.
        UnreadableFile: If it is missing, not a file, too large or a pickle.
    """
    limits, name = limits or ReadLimits(), plain_line(Path(path).name, 120)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.file_bytes:
            raise UnreadableFile(f"{name} has {size} bytes; at most {limits.file_bytes} are accepted.")
        blanks, metadata = _proved(path, name, file, limits)
        if check is not None:
            check(name, metadata)
        file.seek(0)
        digest = hashlib.sha256(file.read(size - sum(blank.nbytes for blank in blanks.values())))
        tensors = {key: _filled(blank, file, name) for key, blank in blanks.items()}
    for key, tensor in tensors.items():
        digest.update(bytes_of(tensor))
        if finite and tensor.is_floating_point() and not _is_finite(tensor):
            raise DamagedFile(
                f"{name} holds NaN or infinite values, first in {plain_line(key, 80)!r}; only finite numbers are "
                "accepted. The run that wrote it diverged; make the file again with a lower learning rate."
            )
    return SafetensorsFile(tensors, metadata, digest.hexdigest(), size)


def read_keys(path: Path | str, limits: ReadLimits | None = None) -> list[str]:
    """Names of a file's tensors, without reading them; raises what `read_safetensors` raises for a header."""
    with open_regular(path) as file:
        return list(_proved(path, plain_line(Path(path).name, 120), file, limits or ReadLimits())[0])


def read_metadata(path: Path | str, limits: ReadLimits | None = None) -> dict[str, str]:
    """The texts of a file's header, without reading a tensor; raises what `read_safetensors` raises for a header."""
    with open_regular(path) as file:
        return _proved(path, plain_line(Path(path).name, 120), file, limits or ReadLimits())[1]


def _proved(
    path: Path | str, name: str, file: BufferedReader, limits: ReadLimits
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the library reads in a header: tensors without memory in the order of their bytes, and the metadata."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > limits.header_bytes and start[:2] in _PICKLE_STARTS:
        raise UnreadableFile(
            f"{name} is a zip or pickle file under another name. Pickles can run code and are never opened. Convert it "
            "to safetensors."
        )
    try:
        if length > limits.header_bytes:
            raise ValueError(f"its header has {length} bytes; at most {limits.header_bytes} are accepted")
        with safe_open(path, "pt") as proved:
            metadata, keys = dict(proved.metadata() or {}), list[str](proved.keys())
            if len(keys) > limits.tensors:
                raise ValueError(f"it lists {len(keys)} tensors; at most {limits.tensors} are accepted")
            views: dict[str, Tensor] = {key: proved.get_tensor(key) for key in keys}
            deep = next((key for key, view in views.items() if view.ndim > DIMENSIONS_AT_MOST), None)
            if deep is not None:
                found = f"{plain_line(deep, 80)!r} has {views[deep].ndim} dimensions"
                raise ValueError(f"{found}; at most {DIMENSIONS_AT_MOST} are accepted")
            blanks = {key: view.to("meta") for key, view in sorted(views.items(), key=lambda pair: pair[1].data_ptr())}
        if not os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            raise OSError("it was replaced in the meantime; try again")
    except OSError as error:
        raise UnreadableFile(f"{name} could not be read ({error.strerror or error}). Check the disk.") from error
    except (SafetensorError, RuntimeError, ValueError) as error:
        found = plain_line(str(error).removeprefix("Error while deserializing header: "), 200)
        raise DamagedFile(
            f"{name} is not a complete safetensors file: {found}. It is truncated, damaged or of another kind; copy or "
            "download it again."
        ) from error
    return blanks, metadata


def _filled(blank: Tensor, file: BufferedReader, name: str) -> Tensor:
    try:
        tensor = torch.empty_like(blank, device="cpu")
        if file.readinto(bytes_of(tensor)) == tensor.nbytes:
            return tensor
        raise OSError("it was truncated in the meantime")
    except (OSError, RuntimeError) as error:
        raise UnreadableFile(
            f"{name} could not be read ({plain_line(str(error), 200)}). Free memory, or check the disk."
        ) from error


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _is_finite(tensor: Tensor) -> bool:
    # torch can test some eight-bit numbers only after a conversion.
    flat = (tensor.float() if tensor.itemsize == 1 else tensor).reshape(-1)
    return bool(flat.isfinite().all())
