"""The signing key of an installation, and what it remembers about its logs.

Signatures are HMAC-SHA256 from Python's own library: ComfyUI ships no package for public-key signatures, and a compiled
one is a high price for them. So only the installation that signed can verify; others see the name of its key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pydantic_core import from_json

from ..checks import plain_line
from ..errors import UnreadableFile
from ..files.atomic import UnwritableFile
from ..files.bounded import open_regular

KEY_FILE = "signing.key"
_KEY_BYTES = 32
_HEAD_BYTES_AT_MOST = 4096
_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write line breaks of its own into the key


@dataclass(frozen=True)
class Head:
    """How far a log had come when this installation last wrote to it.

    Attributes:
        count: Entries.
        sha256: Hash of the last one.
    """

    count: int
    sha256: str


@dataclass(frozen=True)
class Installation:
    """One installation of the pack.

    Args:
        folder: Of the user, not of the models; made with the key.
    """

    folder: Path

    @cached_property
    def _key(self) -> bytes:
        path = self.made_once(KEY_FILE, lambda: secrets.token_bytes(_KEY_BYTES))
        with open_regular(path) as file:
            key = file.read(_KEY_BYTES + 1)
        if len(key) != _KEY_BYTES:
            raise UnreadableFile(
                f"{plain_line(str(path), 300)} is not a signing key. Restore the file, or delete it: a new key is "
                "made, and what the old one signed can no longer be verified."
            )
        return key

    def made_once(self, name: str, content: Callable[[], bytes]) -> Path:
        """A secret file in the folder, made on first use; all processes get the same one.

        Args:
            name: Of the file, or its path below the folder.
            content: Makes what is in it.

        Raises:
            UnwritableFile: If it cannot be written.
        """
        path = self.folder / name
        if not path.exists():
            self._make(path, content())
        return path

    def _make(self, path: Path, content: bytes) -> None:
        new = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A link fails where another process was faster, so all use the same key.
            self._put_in_place(new, path)
        except OSError as error:
            raise UnwritableFile(
                f"The signing key {plain_line(str(path), 300)} could not be written ({error.strerror or error}). Check "
                "the folder and the disk."
            ) from error
        finally:
            with suppress(OSError):
                new.unlink()

    @staticmethod
    def _put_in_place(new: Path, path: Path) -> None:
        try:
            os.link(new, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links, such as exFAT; here a process in the same instant can win
            if not path.exists():
                os.replace(new, path)

    @cached_property
    def name(self) -> str:
        """The key's name in what it signs: 16 hexadecimal digits that say nothing about the key."""
        return hashlib.sha256(b"Meta-LoRA signing key " + self._key).hexdigest()[:16]

    def sign(self, text: str) -> str:
        """HMAC-SHA256 of a text, hexadecimal."""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def signed(self, text: str, signature: str) -> bool:
        """Whether a signature is this installation's for this text."""
        return hmac.compare_digest(self.sign(text).encode(), signature.encode(errors="replace"))

    def head_file(self, log: Path) -> Path:
        """Where the head of a log is kept; logs are told apart by their way from here, so both can move together."""
        try:
            way = Path(os.path.relpath(log, self.folder)).as_posix()
        except ValueError:  # on another drive
            way = log.absolute().as_posix()
        return self.folder / f"{log.stem}-{hashlib.sha256(way.encode()).hexdigest()[:12]}.head.json"

    def head_of(self, log: Path) -> Head | None:
        """The head of a log, or None if none was kept.

        Raises:
            UnreadableFile: If it was changed.
        """
        path = self.head_file(log)
        if not path.exists():
            return None
        with open_regular(path) as file:
            kept = file.read(_HEAD_BYTES_AT_MOST)
        fields = _fields(kept)
        count, sha256, signature = (fields.get(name) for name in ("count", "head", "signature"))
        if not isinstance(count, int) or not isinstance(sha256, str) or not isinstance(signature, str):
            signature = ""
        if not self.signed(_head_text(log, count, sha256), str(signature)):
            raise UnreadableFile(
                f"{plain_line(str(path), 300)}, which says how many entries {log.name} has, was changed. Restore the "
                "file, or delete it."
            )
        return Head(cast("int", count), cast("str", sha256))

    def keep_head(self, log: Path, head: Head) -> None:
        """Remember a log's head, over the old one; a full disk leaves the old one."""
        signature = self.sign(_head_text(log, head.count, head.sha256))
        text = json.dumps({"count": head.count, "head": head.sha256, "signature": signature}, sort_keys=True)
        # One short write in place: another name for each entry would cost as much again as the entry itself.
        descriptor = os.open(self.head_file(log), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{text:<200}\n".encode())
        finally:
            os.close(descriptor)


def _head_text(log: Path, count: Any, sha256: Any) -> str:
    return f"head of {log.name} {count} {sha256}"


def _fields(content: bytes) -> Mapping[str, Any]:
    try:
        loaded: Any = from_json(content, allow_inf_nan=False)
    except ValueError:
        return {}
    return cast("dict[str, Any]", loaded) if isinstance(loaded, dict) else {}
