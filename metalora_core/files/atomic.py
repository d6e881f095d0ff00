"""Safetensors on disk: written all or not at all, and the same content always as the same bytes.

The writer here is our own because the library keeps metadata in an unordered map, so that the same content gives
different bytes from run to run; a prior is known by the SHA-256 of its file, which therefore must not move.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MetaLoRAError
from .bounded import DTYPES, ReadLimits, SafetensorsFile, read_safetensors

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8  # bytes; the data that follows the header starts on this boundary
_ZEROS_AT_ONCE = 1 << 22  # bytes


__all__ = [
    "ReadLimits",
    "SafetensorsFile",
    "UnwritableFile",
    "atomic_save_safetensors",
    "atomic_write",
    "read_safetensors",
    "require_writable",
    "reserve_file",
    "safetensors_chunks",
    "sha256_of",
]


class UnwritableFile(MetaLoRAError):
    """The output could not be written; whatever stood there before is untouched."""


def safetensors_chunks(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Serialise tensors to safetensors, the same content always to the same bytes.

    Tensors are laid out widest element first, then by name, as the safetensors library does; metadata is sorted.

    Args:
        tensors: Name to tensor, any device, any shape.
        metadata: Text entries of the header.

    Yields:
        The header, then each tensor's bytes, so that a large file never stands in memory twice.

    Raises:
        MetaLoRAError: If a tensor has a dtype the format lacks here, or a name that the format reserves.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, tensor in ordered:
        if name == "__metadata__" or tensor.dtype not in _NAMES:
            raise MetaLoRAError(
                f"tensor {name!r} of dtype {tensor.dtype} cannot be saved; use one of {sorted(DTYPES)} "
                "and any name but '__metadata__'."
            )
        stop = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        yield tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def sha256_of(chunks: Iterable[bytes]) -> str:
    """SHA-256 of a sequence of byte chunks, hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _explain(path: Path, error: OSError) -> str:
    remedies = {
        errno.ENOSPC: "the disk is full; free some space or choose another folder",
        getattr(errno, "EDQUOT", -1): "the disk quota is used up; free some space or choose another folder",
        errno.EFBIG: "the file is larger than this account may write; raise the limit or choose another folder",
        errno.EACCES: "the folder is not writable; change its permissions or choose another folder",
        errno.EPERM: "the folder is not writable; change its permissions or choose another folder",
        errno.EROFS: "the disk is read-only; choose another folder",
        errno.EEXIST: "a part of the path is a file, not a folder; choose another folder",
        errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
        errno.EISDIR: "the name belongs to a folder; choose another file name",
        errno.ENAMETOOLONG: "the file name is too long; choose a shorter one",
    }
    remedy = remedies.get(error.errno or 0, "check the folder and try again")
    return f"{path} could not be written ({error.strerror or error}): {remedy}. Nothing was left half-written."


def _sync_folder(folder: Path) -> None:
    # Only a synced folder makes the rename survive a power cut; Windows cannot open folders and needs no such call.
    if os.name != "posix":
        return
    # Some network disks cannot sync a folder; the file itself stands there whole by now.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def atomic_write(path: Path | str, chunks: Iterable[bytes]) -> str:
    """Write a file so that a reader sees the whole new content or the whole old one, never a part.

    Temporary file in the same folder, fsync, rename, fsync of the folder. The temporary file goes whatever happens.

    Args:
        path: Where the file shall stand; missing folders are made.
        chunks: The content, in order.

    Returns:
        SHA-256 of the content, hexadecimal.

    Raises:
        UnwritableFile: If the folder is missing, unwritable or full.
    """
    path = Path(path)
    digest = hashlib.sha256()
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp: its files are readable by their owner only, and a shared models folder expects the usual rights.
        temporary = path.parent / f".metalora-{secrets.token_hex(8)}.tmp"
        with temporary.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise UnwritableFile(_explain(path, error)) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()
    return digest.hexdigest()


def require_writable(path: Path | str, size_bytes: int = 1) -> None:
    """Find out before work starts whether its result can be written; makes the folder.

    Args:
        path: Where the file shall stand; an older one there stays until the new one is whole.
        size_bytes: Room that the new file takes, where it is known.

    Raises:
        UnwritableFile: If the path is a folder, or its folder cannot be made, written to or hold the file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # Asked by writing: rights alone do not tell of a read-only disk, and another account's rights mean little.
        probe = path.parent / f".metalora-{secrets.token_hex(8)}.tmp"
        probe.touch(exist_ok=False)
        probe.unlink()
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise UnwritableFile(_explain(path, error)) from error
    if free < size_bytes:
        raise UnwritableFile(
            f"{path} needs {size_bytes:,} bytes, its disk has {free:,} left. Free some space or choose another folder."
        )


def reserve_file(path: Path | str, size_bytes: int) -> None:
    """Make a new file of zeros whose bytes all stand on the disk, for a memory map.

    A map of a file with holes takes its room only when a page is written, and a full disk then kills the program.

    Args:
        path: Where the file shall stand; missing folders are made, an older file is replaced.
        size_bytes: Its length, above 0.

    Raises:
        UnwritableFile: If the folder is missing, unwritable or too full; no file is left then.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with path.open("xb") as file:
            if not _allocated(file.fileno(), size_bytes):
                zeros = bytes(min(size_bytes, _ZEROS_AT_ONCE))
                for start in range(0, size_bytes, len(zeros)):
                    file.write(zeros[: size_bytes - start])
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise UnwritableFile(f"{_explain(path, error)} It needs {size_bytes:,} bytes.") from error


def _allocated(descriptor: int, size_bytes: int) -> bool:
    allocate: Callable[[int, int, int], None] | None = getattr(os, "posix_fallocate", None)
    if allocate is None:
        return False
    try:
        allocate(descriptor, 0, size_bytes)
    except OSError as error:
        # Some disks cannot reserve room; bytes that are written stand there as well.
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def atomic_save_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Save tensors as safetensors, atomically and byte-deterministically.

    Args:
        path: Target file.
        tensors: Name to tensor.
        metadata: Text entries of the header.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        UnwritableFile: If the folder is missing, unwritable or full; an older file stays as it was.
    """
    return atomic_write(path, safetensors_chunks(tensors, metadata or {}))
