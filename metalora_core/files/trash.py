"""Deleted files that can still come back: hidden beside where they were, under a name that the sweep knows."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..checks import plain_line
from ..errors import UnreadableFile
from .atomic import UnwritableFile, explained

TRASHED = ".*.deleted.safetensors"
"""Names of the files: the name it had, and when it was last written, so that it comes back as it was."""
_NAME = re.compile(r"\.(?P<stem>.+)\.(?P<written>\d{1,19})\.deleted\.safetensors", re.DOTALL)


def put_aside(path: Path) -> Path:
    """Hide a file until the sweep deletes it; returns where it is.

    Raises:
        UnwritableFile: If another program holds it, or the folder is read-only.
    """
    try:
        written = path.stat().st_mtime_ns
        aside = path.with_name(TRASHED.replace("*", f"{path.stem}.{written}"))
        path.replace(aside)
        os.utime(aside)  # its age counts from now
    except OSError as error:
        raise UnwritableFile(explained(path, error)) from error
    return aside


def named_before(path: Path) -> Path:
    """The path that a hidden file had; of any other file its own."""
    name = _NAME.fullmatch(path.name)
    return path.with_name(f"{name['stem']}.safetensors") if name else path


def place_before(aside: Path) -> Path:
    """Where a hidden file was, if it can come back.

    Raises:
        UnreadableFile: If it is no deleted file, or is gone.
    """
    if named_before(aside) == aside or not aside.is_file():
        raise UnreadableFile(
            f"{plain_line(aside.name, 120)} cannot be restored: it is not a deleted file, or the sweep has deleted it "
            "for good. Learn the subject again, or copy its file from elsewhere."
        )
    return named_before(aside)


def bring_back(aside: Path, path: Path) -> None:
    """Put a hidden file where no file is, with the time at which it was written.

    Raises:
        UnreadableFile: As `place_before`.
        UnwritableFile: If the folder is read-only.
    """
    place_before(aside)
    written = int(aside.name.split(".")[-3])
    try:
        os.utime(aside, ns=(written, written))
        aside.rename(path)
    except OSError as error:
        raise UnwritableFile(explained(path, error)) from error
