"""Writing files: the whole new one or the whole old one, and the same content always as the same bytes."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..checks import plain_line
from ..errors import MetaLoRAError
from .names import name_finding

_IN_USE, _IN_USE_SECONDS = (5, 32), 2.0  # Windows: access denied, sharing violation
_ZEROS_AT_ONCE = 1 << 22  # bytes


__all__ = [
    "UnwritableFile",
    "atomic_save_safetensors",
    "atomic_write",
    "explained",
    "file_sha256",
    "require_writable",
    "reserve_file",
    "safetensors_bytes",
    "sha256_of",
]


class UnwritableFile(MetaLoRAError):
    """The output could not be written; whatever stood there before is untouched."""


def sha256_of(chunks: Iterable[bytes]) -> str:
    """SHA-256 of a sequence of byte chunks, hexadecimal."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return sha256_of(iter(lambda: file.read(1 << 22), b""))


def explained(path: Path, error: OSError) -> str:
    """Why a file could not be written, and what to do."""
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
    shown = plain_line(str(path), 300)
    return f"{shown} could not be written ({error.strerror or error}): {remedy}. Nothing was left half-written."


def _require_possible(path: Path) -> None:
    finding = name_finding(path.name) if os.name == "nt" else ""
    try:
        finding = "has a zero byte in it" if b"\0" in os.fsencode(path) else finding
    except UnicodeEncodeError:
        finding = "has half a character in it"
    if finding:
        shown = plain_line(str(path), 300)
        raise UnwritableFile(f"{shown} cannot be written: its name {finding}. Choose another name.")


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


def _put_in_place(new: Path, path: Path) -> None:
    until = time.monotonic() + _IN_USE_SECONDS
    while True:
        try:
            os.replace(new, path)
            return
        except PermissionError as error:
            # Windows replaces no file while somebody, such as a virus scanner, has it open.
            if getattr(error, "winerror", None) not in _IN_USE or time.monotonic() > until:
                raise
            time.sleep(0.05)


@contextmanager
def _replacing(path: Path) -> Generator[Path]:
    """Where the new content is to be written; it takes the place of the old when the block ends well.

    A folder beside the file keeps it, because the safetensors library writes a temporary file of its own beside the
    one that it is asked for.
    """
    _require_possible(path)
    folder = path.parent / f".metalora-{secrets.token_hex(8)}.tmp"
    new = folder / "new"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield new
        # The library's files are their owner's alone; a shared models folder expects the usual rights.
        new.chmod(folder.stat().st_mode & 0o666)
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        _put_in_place(new, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UnwritableFile(explained(path, error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def atomic_write(path: Path | str, chunks: Iterable[bytes]) -> str:
    """Write a file so that a reader sees the whole new content or the whole old one, never a part.

    Args:
        path: Where the file shall stand; missing folders are made.
        chunks: The content, in order.

    Returns:
        SHA-256 of the content, hexadecimal.

    Raises:
        UnwritableFile: If the folder is missing, unwritable or full.
    """
    digest = hashlib.sha256()
    with _replacing(Path(path)) as new, new.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
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
    _require_possible(path)
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
        raise UnwritableFile(explained(path, error)) from error
    if free < size_bytes:
        raise UnwritableFile(
            f"{plain_line(str(path), 300)} needs {size_bytes:,} bytes, its disk has {free:,} left. Free some space or "
            "choose another folder."
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
        raise UnwritableFile(f"{explained(path, error)} It needs {size_bytes:,} bytes.") from error


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


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file that `atomic_save_safetensors` would write, in memory.

    Raises:
        MetaLoRAError: If a tensor or a name cannot be saved.
    """
    with _in_our_words():
        file = io.BytesIO(safetensors.torch.save(_owned(tensors), dict(metadata) or None))
    _sort_metadata(file)
    return file.getvalue()


def atomic_save_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Save tensors as safetensors, atomically and byte-deterministically.

    Args:
        path: Target file.
        tensors: Name to tensor, any device, any shape.
        metadata: Text entries of the header.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        UnwritableFile: If the folder is missing, unwritable or full; an older file stays as it was.
        MetaLoRAError: If a tensor or a name cannot be saved.
    """
    with _replacing(Path(path)) as new:
        with _in_our_words():
            safetensors.torch.save_file(_owned(tensors), new, dict(metadata or {}) or None)
        with new.open("rb+") as file:
            _sort_metadata(file)
        return file_sha256(new)


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as the library takes them: on the CPU, in one piece, no two of the same memory."""
    if "__metadata__" in tensors:
        raise ValueError("the name '__metadata__' is taken")  # the library would write a file that nobody can read
    owned, seen = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        owned[name] = plain.clone() if plain.untyped_storage().data_ptr() in seen else plain
        seen.add(plain.untyped_storage().data_ptr())
    return owned


@contextmanager
def _in_our_words() -> Generator[None]:
    """The library's errors as ours: of the disk, or of content that the format cannot hold."""
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        code = re.search(r"(?:os error|code:) (\d+)", str(error))
        if code is None:
            raise MetaLoRAError(f"These tensors cannot be saved as safetensors: {str(error)[:300]}.") from error
        number = int(code[1])
        raise OSError(*((0, str(error), None, number) if os.name == "nt" else (number, os.strerror(number)))) from error


def _sort_metadata(file: IO[bytes]) -> None:
    """Put several entries into one order; the library's order differs from process to process."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    if len(header.get("__metadata__", ())) > 1:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length))
